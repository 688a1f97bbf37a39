"""Judges a verifier by what it is for: choosing among attempts at one prompt.

A verifier can have a high AUC over all attempts because it tells hard prompts from easy ones, and still choose worse
than chance among attempts at one prompt. So this measures AUC within prompts, and best-of-N against majority on the
same attempts.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from difficulty.compare import calibration_error
from router.attempts.judging import Judge, task_of
from router.attempts.pools import SAMPLE, is_pool
from router.attempts.schema import last_score, prompts_of
from router.backends import Asked, Usage, Verifier, asks, prepared
from router.errors import InvalidFile
from router.evaluation.curves import estimate
from router.tasks import Tasks
from router.training.calibration import last_scores
from router.training.labels import Split
from router.tuning.evidence import evidence, resamples
from strategies import BestOfN, Candidate, Majority, Single, Strategy, WeightedBestOfN, parse

FEW = 10  # prompts: means over fewer are left out, since they say little


async def score(attempts: pd.DataFrame, verifier: Verifier, split: Split, tasks: Tasks | None = None) -> pd.DataFrame:
    """Return the pooled and greedy attempts of every model, with ``verifier``'s scores instead of earlier ones.

    Other arms' rows are left out.

    ``scored_tokens`` becomes ``generated_tokens``: a verifier with the generator's tokenizer reads as many, but for an
    end-of-sequence token. For a verifier that asks a model, it is an equal share of all that this model read and wrote.

    tasks  the prompts' tasks, which some verifiers need; None: math
    """
    judge, names = Judge(tasks or Tasks()), (tasks or Tasks()).names
    pool = attempts[attempts["arm"].map(_alone)].copy()
    scores: dict[int, list[float] | None] = {}
    read: dict[int, int] = {}
    prompts = prompts_of(pool)
    for prompt_id, rows in pool.groupby("prompt_id", sort=False):
        candidates = [Candidate(steps=split(text)) for text in rows["text"]]
        row, usage = rows.iloc[0].to_dict(), Usage()
        asked = Asked(prompts[prompt_id], judge.task(row), task_of(row) or names[0])
        its, _ = await prepared(verifier, asked, usage)
        scored = await its.score(prompts[prompt_id], candidates, max_tokens=None, usage=usage)
        each = round((usage.prompt_tokens + usage.generated_tokens + usage.scored_tokens) / len(rows))
        read |= dict.fromkeys(rows.index, each)
        scores |= {
            index: list(one.scores) if one.scores else None for index, one in zip(rows.index, scored, strict=True)
        }
    pool["scores"] = pd.Series(scores)
    tokens = pool["generated_tokens"] if asks(verifier) is None else pd.Series(read)
    tokens = tokens if verifier.parameters else 0 * tokens
    pool["scored_tokens"] = tokens.where(pool["scores"].notna(), 0)
    return pool


def _alone(arm: str) -> bool:
    """Whether a row of this arm is one solution, which any verifier can score afterwards."""
    return is_pool(arm) or isinstance(parse(arm), Single)


def judge(attempts: pd.DataFrame, sizes: Sequence[int] = (4, 16)) -> dict[str, Any]:
    """Measure how well the scores of pooled attempts select right ones.

    auc         AUC of the last step's score against correctness, over all attempts
    ece         expected calibration error of that score as the probability of being right
    auc_within  mean AUC among the attempts at one prompt, over prompts with both right and wrong attempts;
                auc_within_interval: its 95% interval over prompts
    by_step     auc_within of the scores at step 1, 2, ..., which shows how early the verifier recognises a right
                attempt; up to the last step that enough prompts have right and wrong attempts with
    best_of     by N: accuracy of one sample, of each selection, and of a perfect selector (any attempt right);
                above_majority: what choosing by the scores gains on a vote among the same attempts, with intervals

    Raises InvalidFile where scores or correctness are missing, or no prompt has both right and wrong attempts.
    """
    scored = last_scores(attempts)
    if not (scored.groupby("prompt_id")["right"].nunique() == 2).any():
        raise InvalidFile(_why_none(attempts[attempts["arm"] == SAMPLE], scored))
    prompts = by_prompt(attempts, sizes)
    right = [rows["right"].to_numpy(dtype=float) for _, rows in scored.groupby("prompt_id")]
    mixed = prompts["auc_within"].dropna()
    rng = np.random.default_rng(0)
    within = estimate(mixed.to_numpy(), resamples(len(mixed), rng))
    draws = resamples(len(prompts), rng)
    best_of: dict[str, Any] = {}
    for n in (n for n in sizes if n <= min(map(len, right))):
        picked = {arm.name: prompts[str(arm)].to_numpy() for arm in _selections(n)}
        best_of[str(n)] = {
            "one_sample": float(np.mean([r.mean() for r in right])),
            **{name: float(values.mean()) for name, values in picked.items()},
            "oracle": float(np.mean([_any_right(r, n) for r in right])),
            "above_majority": {
                name: asdict(estimate(values - picked[Majority.name], draws))
                for name, values in picked.items()
                if name != Majority.name
            },
        }
    return {
        "prompts": len(right),
        "mixed_prompts": len(mixed),
        "auc": float(roc_auc_score(scored["right"], scored["score"])),
        "ece": calibration_error(scored["score"].to_numpy(), scored["right"].to_numpy()),
        "auc_within": float(mixed.mean()),
        "auc_within_interval": [within.low, within.high],
        "by_step": _by_step(scored),
        "best_of": best_of,
    }


def by_prompt(attempts: pd.DataFrame, sizes: Sequence[int]) -> pd.DataFrame:
    """A row a prompt: ``auc_within``, null without both right and wrong attempts, and each selection's accuracy.

    Selections are columns by their spelling (``best_of_n(n=4)``), of those sizes for which every prompt has enough.
    """
    scored = last_scores(attempts)
    rows = {str(prompt_id): rows for prompt_id, rows in scored.groupby("prompt_id")}
    auc = {name: _auc(each) if each["right"].nunique() == 2 else np.nan for name, each in rows.items()}
    least = min(map(len, rows.values()), default=0)
    found = pd.DataFrame({"auc_within": pd.Series(auc, dtype=float)})
    points = evidence(scored[attempts.columns], [n for n in sizes if n <= least])
    for n in (n for n in sizes if n <= least):
        for arm in _selections(n):
            found[str(arm)] = pd.Series({name: point[arm].accuracy for name, point in points.items()}, dtype=float)
    return found


def _why_none(pool: pd.DataFrame, scored: pd.DataFrame) -> str:
    """Say why no prompt has right and wrong scored attempts. ``pool``: the independent attempts, ``scored`` or not."""
    if pool.empty:
        return f"there are no attempts of arm `{SAMPLE}`; collect some"
    if pool["scores"].map(last_score).isna().all():
        return "no attempt has scores; score them with `router score`"
    if scored.empty:
        return "`correct` is null for all scored attempts; add references with `router rejudge ATTEMPTS --prompts FILE`"
    return "no prompt has both right and wrong scored attempts; take prompts of middling difficulty"


def _selections(n: int) -> list[Strategy]:
    return [Majority(n=n), BestOfN(n=n), WeightedBestOfN(n=n)]


def _by_step(scored: pd.DataFrame) -> list[float]:
    found: list[float] = []
    while True:
        number = len(found)
        reached = scored[scored["scores"].map(len) > number]
        reached = reached.assign(score=[float(scores[number]) for scores in reached["scores"]])
        mixed = [rows for _, rows in reached.groupby("prompt_id") if rows["right"].nunique() == 2]
        if len(mixed) < FEW:
            return found
        found.append(_auc_within(mixed))


def _auc_within(mixed: Sequence[pd.DataFrame]) -> float:
    return float(np.mean([_auc(rows) for rows in mixed]))


def _auc(rows: pd.DataFrame) -> float:
    return float(roc_auc_score(rows["right"], rows["score"]))


def _any_right(right: np.ndarray, n: int) -> float:
    """Return the chance that n attempts drawn without replacement include a right one (the unbiased pass@n)."""
    wrong = len(right) - int(right.sum())
    return float(1 - np.prod([(wrong - i) / (len(right) - i) for i in range(n)]))
