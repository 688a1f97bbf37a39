"""Converts attempts files to what strategies replay: pools of attempts and complete runs, by prompt."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.attempts.pools import SAMPLE, is_pool, model_of
from router.attempts.schema import last_score
from router.errors import InvalidFile
from strategies import Single, Strategy, parse
from strategies.replaying.records import Pool, Recorded, Runs, Seen, code_of

Floats = NDArray[np.float64]
DRAWS = 200
TOKENS = ["prompt_tokens", "generated_tokens", "scored_tokens"]


def recordings(
    attempts: pd.DataFrame,
    *,
    reference: str = "",
    verified: bool = True,
    scores: Callable[[Mapping[str, Any]], bool] = lambda inputs: True,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Recorded]:
    """Return what was recorded at each prompt, by prompt id. Arguments and errors as in ``evidence.evidence``.

    scores  whether the verifier scores solutions to a prompt with these inputs
    """
    unknown = attempts["correct"].isna()
    if unknown.any():
        first = attempts.loc[unknown.idxmax(), "prompt_id"]
        raise InvalidFile(
            f"`correct` is null for {unknown.sum()} attempts, first at prompt {first!r}: without it no accuracy can be "
            "measured; fill it in, or leave those prompts out"
        )
    for name, unknown_as in (("seconds", np.nan), ("score_seconds", 0.0)):
        seconds = attempts[name].astype(float).fillna(unknown_as) if name in attempts else unknown_as
        attempts = attempts.assign(**{name: seconds})
    generators: dict[str | None, np.random.Generator] = {}
    found: dict[str, Recorded] = {}
    # Prompts with a pool first, so that random draws don't depend on which prompts only have runs.
    order = attempts.assign(pool=attempts["arm"] != SAMPLE).sort_values("pool", kind="stable")
    for prompt_id, rows in order.groupby("prompt_id", sort=False):
        groups = dict(list(rows.groupby("arm", sort=False)))
        pools: dict[str | None, Pool] = {}
        for name in filter(is_pool, groups):
            model = model_of(name)
            alone = groups.get(str(Single(model=model)))
            pools[model] = _pool(groups[name], alone, draws, generators.setdefault(model, _generator(seed, model)))
        reads = any(pool.reads for pool in pools.values())
        runs = {name: _run(groups[name], parse(name), reference, reads) for name in groups if not is_pool(name)}
        abstains = verified and not scores(_inputs(rows))
        found[prompt_id] = Recorded(pools, runs, verified and not abstains, abstains)
    return found


def _inputs(rows: pd.DataFrame) -> Mapping[str, Any]:
    """Of the prompt whose attempts these are."""
    text = rows["inputs"].iloc[0] if "inputs" in rows else None
    found: Mapping[str, Any] = {} if text is None or pd.isna(text) else json.loads(text)
    return found


def _generator(seed: int, model: str | None) -> np.random.Generator:
    return np.random.default_rng(seed if model is None else [seed, *model.encode()])


def _pool(rows: pd.DataFrame, alone: pd.DataFrame | None, draws: int, rng: np.random.Generator) -> Pool:
    """Return the pool of these rows. ``alone``: runs of the arm `single` of the same model."""
    scores = np.array([np.nan if score is None else score for score in rows["scores"].map(last_score)], dtype=float)
    prompt, generated, scored = (rows[name].to_numpy(dtype=float) for name in TOKENS)
    return Pool(
        answers=[None if pd.isna(answer) else answer for answer in rows["answer"]],
        correct=rows["correct"].to_numpy(dtype=float),
        scores=scores,
        prompt_tokens=prompt,
        generated_tokens=generated,
        scored_tokens=scored,
        # As in a real run, samples come in random order.
        order=rng.random((draws, len(rows))).argsort(axis=1),
        seconds=float(_writing(rows).max(skipna=False)),
        scoring=float(rows["score_seconds"].max()),
        log_probs=_log_probs(rows),
        lengths=_lengths(rows),
        alone=np.nan if alone is None else float(_writing(alone).mean(skipna=False)),
    )


def _writing(rows: pd.DataFrame) -> pd.Series:
    """Return how long each row's attempt, or the pool that it is of, was written."""
    return rows["seconds"] - rows["score_seconds"]


def _run(rows: pd.DataFrame, arm: Strategy, reference: str, reads: bool) -> Runs:
    """Return complete runs of one arm at one prompt. ``reads``: the verifier reads tokens to score."""
    prompt: dict[str | None, Floats] = {}
    generated: dict[str | None, Floats] = {}
    if len(arm.models) == 1:
        (model,) = arm.models
        prompt[model] = rows["prompt_tokens"].to_numpy(dtype=float)
        generated[model] = rows["generated_tokens"].to_numpy(dtype=float)
    else:
        spent = [_by_model(lines, reference) for lines in rows["usage"]]
        for model in arm.models:
            both = [each.get(model, (0.0, 0.0)) for each in spent]
            prompt[model], generated[model] = (np.array(values, dtype=float) for values in zip(*both, strict=True))
    answered = rows["answer"].notna().to_numpy()
    scores = np.array([np.nan if score is None else score for score in rows["scores"].map(last_score)], dtype=float)
    return Runs(
        correct=rows["correct"].to_numpy(dtype=float),
        prompt_tokens=prompt,
        generated_tokens=generated,
        scored_tokens=rows["scored_tokens"].to_numpy(dtype=float),
        seen=Seen.of(
            np.array([code_of(answer if has else None) for answer, has in zip(rows["answer"], answered, strict=True)]),
            np.where(answered, scores, np.nan),
            log_prob=_where(answered, _log_probs(rows)),
            length=_where(answered, _lengths(rows)),
        ),
        check_tokens=_check_tokens(rows, arm, reads),
        seconds=None if rows["seconds"].isna().any() else rows["seconds"].to_numpy(dtype=float),
    )


def _log_probs(rows: pd.DataFrame) -> Floats | None:
    """Return each attempt's mean log-probability of a token, NaN where it is unknown; None without such a column."""
    return rows["log_prob"].to_numpy(dtype=float) if "log_prob" in rows else None


def _lengths(rows: pd.DataFrame) -> Floats | None:
    """Return each solution's length in characters; None without texts."""
    return rows["text"].str.len().to_numpy(dtype=float) if "text" in rows else None


def _where(there: NDArray[np.bool_], values: Floats | None) -> Floats | None:
    return None if values is None else np.where(there, values, np.nan)


def _check_tokens(rows: pd.DataFrame, arm: Strategy, reads: bool) -> Floats:
    """Return (runs,) tokens that the verifier would read to score the answers; 0 where the arm scores by itself."""
    if arm.needs_scores or not reads or (rows["scored_tokens"] > 0).any():
        return np.zeros(len(rows))
    tokens: Floats = (rows["prompt_tokens"] + rows["generated_tokens"]).to_numpy(dtype=float)
    return tokens


def _by_model(lines: Any, reference: str) -> dict[str | None, tuple[float, float]]:
    """Return a run's (prompt, generated) tokens by model, from its ``usage``."""
    if lines is None:
        raise InvalidFile("runs of arms that use several models need the column `usage`; collect them again")
    return {
        None if line["model"] == reference else line["model"]: (line["prompt_tokens"], line["generated_tokens"])
        for line in lines
        if line["role"] == "generator"
    }
