"""Trains the difficulty model: attempts → a statistic per prompt → levels → the candidate that predicts them best."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from difficulty import CANDIDATES, LEVELS, DifficultyModel, Familiarity, find_edges, levels_of
from difficulty.compare import Candidate, compare
from router.attempts.pools import SAMPLE
from router.attempts.schema import last_score, prompt_of
from router.bundle.manifest import FAMILIARITY, MANIFEST
from router.errors import InvalidBundle, InvalidFile
from router.prompt import Prompt

TRAINING = "training.json"
CARRY_LEVELS = 100  # prompts that five levels need; with fewer, the policy has one table for all of them
FEWEST_PROMPTS = 25  # five per level; with fewer, no difficulty model can be fitted
_TIE = 1e-3  # breaks ties between statistics where it must; less than a pass rate's steps
Statistic = Literal["pass_rate", "mean_score"]
Vectors = Callable[[Sequence[Prompt]], NDArray[np.float32]]  # prompts → (n, d) features
VectorsByName = Callable[[Sequence[Prompt]], Mapping[str, NDArray[np.float32]]]  # by name of the features


@dataclass(frozen=True, slots=True)
class Training:
    """What training found; ``router tune`` reads it back from the bundle.

    edges       the four edges between levels, easiest first, in units of ``statistic``
    chosen      the served candidate, by its name in ``comparison``
    comparison  out-of-fold quality and milliseconds per prompt of each candidate, best log-loss first
    prompts     one row per prompt, index prompt_id: digest of the prompt's text, attempts, statistic, level (by the
                statistic: "oracle"), and p1 ... p5, the chosen candidate's out-of-fold probabilities
    features    what the served candidate reads: a name in ``solving.features.FEATURES``
    """

    statistic: str
    seed: int
    edges: tuple[float, ...]
    chosen: str
    comparison: Mapping[str, Mapping[str, float]]
    prompts: pd.DataFrame
    features: str = "text"

    @property
    def probabilities(self) -> pd.DataFrame:
        """(prompts, 5) out-of-fold probabilities of levels 1 to 5: what the policy is tuned on."""
        return self.prompts[_PROBABILITIES]


_PROBABILITIES = [f"p{level}" for level in LEVELS]
_COLUMNS = ["digest", "attempts", "statistic", "level", *_PROBABILITIES]


def train(
    attempts: pd.DataFrame,
    vectors: VectorsByName | None = None,
    *,
    statistic: Statistic = "pass_rate",
    candidates: Sequence[str] = tuple(CANDIDATES),
    folds: int = 5,
    seed: int = 0,
) -> tuple[DifficultyModel, Training]:
    """Compare the candidates by cross-validation; fit the one with the lowest log-loss on all prompts.

    vectors     gives the prompts' vectors, by names in ``solving.features``; None: candidates read texts only
    candidates  names of those that are compared

    Raises InvalidFile where the attempts have no statistic or no five levels. With too few prompts to use levels anyway
    (fewer than :data:`CARRY_LEVELS`), ties between prompts are broken at random instead, so that a policy without
    levels can be tuned.
    """
    prompts = prompt_statistics(attempts, statistic)
    asked = prompts["asked"].tolist()
    try:
        edges = find_edges(prompts["statistic"])
    except ValueError as error:
        if len(prompts) < FEWEST_PROMPTS:
            raise InvalidFile(
                f"attempts: {len(prompts)} prompts are too few, at least {FEWEST_PROMPTS} are needed, five a level; "
                "add prompts, since more attempts at these do not help"
            ) from error
        if len(prompts) >= CARRY_LEVELS or prompts["statistic"].nunique() == 1:
            raise InvalidFile(f"attempts: {error}. {advice_on_ties(statistic)}") from error
        prompts["statistic"] += [_TIE * int(text_digest(prompt), 16) / 16**16 for prompt in asked]
        edges = find_edges(prompts["statistic"])
    texts = [prompt.question for prompt in asked]
    found = {} if vectors is None else vectors(asked)
    states = {name: np.asarray(each, dtype=np.float32) for name, each in found.items()}
    results = compare(texts, states, prompts["statistic"], edges, names=candidates, folds=folds, seed=seed)
    best = results[0]
    model = DifficultyModel(best.name, edges=edges.tolist(), seed=seed)
    model.fit(states[best.vectors] if best.vectors else texts, prompts["statistic"])
    prompts["level"] = levels_of(prompts["statistic"], edges)
    prompts["digest"] = [text_digest(prompt) for prompt in asked]
    prompts[_PROBABILITIES] = best.probabilities
    reads = best.vectors or "text"
    comparison = {named(result): {**asdict(result.quality), "milliseconds": result.milliseconds} for result in results}
    return model, Training(statistic, seed, tuple(edges.tolist()), named(best), comparison, prompts[_COLUMNS], reads)


def named(candidate: Candidate) -> str:
    """Return the candidate's name, with the settings of what it reads: "hidden_ridge (layer=0.5, position=last)"."""
    _, bracket, settings = candidate.vectors.partition("(")
    return f"{candidate.name} {bracket}{settings}" if bracket else candidate.name


def advice_on_ties(statistic: str) -> str:
    """Say what to do where many prompts have the same statistic."""
    other = ", or train with --statistic mean_score, which has hardly any ties" * (statistic == "pass_rate")
    return f"Collect more --attempts a prompt, add prompts of middling difficulty{other}"


def prompt_statistics(attempts: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """Return one row per prompt, index prompt_id: prompt (its text), asked (the Prompt), attempts (a count), statistic.

    The statistic is computed over the pool of the reference model's samples:

    pass_rate   share of right attempts
    mean_score  mean of the attempts' last-step scores; an attempt that was not scored is left out, not counted as 0

    Raises InvalidFile where it can't be computed for a prompt.
    """
    pool = attempts[attempts["arm"] == SAMPLE]
    if pool.empty:
        raise InvalidFile(f"levels come from attempts of arm `{SAMPLE}`, and there are none; collect some")
    values = pool["correct"].astype("Float64") if statistic == "pass_rate" else pool["scores"].map(last_score)
    known = values.notna() if statistic == "mean_score" else values.notna().groupby(pool["prompt_id"]).transform("all")
    pool = pool.assign(value=values.astype("Float64"), known=known)
    groups = pool.groupby("prompt_id", sort=False)
    unknown = ~groups["known"].any()
    if unknown.any():
        advice = (
            "`correct` is null for some attempts of it; fill it in, or use the statistic mean_score"
            if statistic == "pass_rate"
            else "no attempt of it has scores; score them, or use the statistic pass_rate"
        )
        raise InvalidFile(f"{unknown.sum()} prompts have no {statistic}, first {unknown.idxmax()!r}: {advice}")
    table = groups.agg(prompt=("prompt", "first"), attempts=("sample", "size"), statistic=("value", "mean"))
    table["asked"] = [prompt_of(row) for row in groups.first().to_dict("records")]
    return table.astype({"statistic": float})


def know(attempts: pd.DataFrame, *, folds: int = 5, seed: int = 0) -> Familiarity | None:
    """Learn what prompts like those of the attempts look like; None if fewer than two differ."""
    first = attempts.drop_duplicates("prompt_id")
    asked = [prompt_of(row).question for row in first.to_dict("records")]
    tasks = sorted(set(first["task"].fillna(""))) if "task" in first else [""]
    return Familiarity.of(asked, tasks=tasks, folds=folds, seed=seed) if len(set(asked)) > 1 else None


def save_training(
    model: DifficultyModel, training: Training, folder: Path, familiarity: Familiarity | None = None
) -> None:
    """Write the difficulty model and what tune needs. The folder is not a bundle until tune has finished it.

    familiarity  None: the bundle can't recognize unfamiliar prompts
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    joblib.dump(model, folder / "difficulty.joblib", compress=3)
    (folder / FAMILIARITY).unlink(missing_ok=True)
    if familiarity:
        (folder / FAMILIARITY).write_text(json.dumps(asdict(familiarity), ensure_ascii=False, indent=1) + "\n")
    rows = training.prompts.round(6).reset_index().to_dict("records")
    document = {**{name: getattr(training, name) for name in _SAVED}, "prompts": rows}
    (folder / TRAINING).write_text(dumps(document))


_SAVED = ("statistic", "seed", "edges", "chosen", "comparison", "features")


def read_training(folder: Path) -> Training:
    """Read what :func:`save_training` wrote. Raises InvalidBundle."""
    path = folder / TRAINING
    try:
        document = json.loads(path.read_text())
        prompts = pd.DataFrame(document["prompts"]).set_index("prompt_id")
        values = {name: document[name] for name in _SAVED}
        prompts = prompts[_COLUMNS]
    except FileNotFoundError as error:
        raise InvalidBundle(f"{folder} has no {TRAINING}; run `router train` with this bundle first") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidBundle(f"{path} is not what `router train` writes ({error}); run it again") from error
    return Training(**{**values, "edges": tuple(values["edges"])}, prompts=prompts)


def text_digest(prompt: Prompt) -> str:
    """Return a digest that is equal for the same prompt in two files, whatever its id."""
    if not prompt.plain:
        return prompt.digest[:16]
    return hashlib.sha256(prompt.question.strip().encode()).hexdigest()[:16]


def dumps(document: Mapping[str, Any]) -> str:
    """Return JSON to read and diff: one line per entry of a top-level table, one for everything else."""
    parts = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n  " + ",\n  ".join(json.dumps(row) for row in value) + "\n ]"
        elif isinstance(value, Mapping) and value and all(isinstance(row, Mapping) for row in value.values()):
            rows = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in value.items()]
            text = "{\n  " + ",\n  ".join(rows) + "\n }"
        else:
            text = json.dumps(value)
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
