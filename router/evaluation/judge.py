"""Judge a verifier by what it is for: choosing among attempts at one prompt.

A verifier can have a fine AUC over all attempts by knowing which prompts are hard, and still choose worse than chance
among attempts at one of them. So: AUC within prompts, and best-of-N against majority on the same attempts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from difficulty.compare import calibration_error
from router.attempts.judging import Judge, task_of
from router.attempts.pools import SAMPLE
from router.attempts.schema import prompts_of
from router.backends import Asked, Usage, Verifier, asks, prepared
from router.errors import InvalidFile
from router.tasks import Tasks
from router.training.calibration import last_scores
from router.training.labels import Split
from router.tuning.evidence import evidence
from strategies import BestOfN, Candidate, Majority, Strategy, WeightedBestOfN

FEW = 10  # prompts: a mean over fewer says little


async def score(attempts: pd.DataFrame, verifier: Verifier, split: Split, tasks: Tasks | None = None) -> pd.DataFrame:
    """The pooled attempts with ``verifier``'s scores in place of any that they had; rows of other arms are left out.

    ``scored_tokens`` becomes ``generated_tokens``, which a verifier with the generator's tokenizer reads, less an
    end-of-sequence token; of a verifier that asks a model, its even share of all that this read and wrote.

    tasks  of the prompts, which some verifiers ask; None: math
    """
    judge, names = Judge(tasks or Tasks()), (tasks or Tasks()).names
    pool = attempts[attempts["arm"] == SAMPLE].copy()
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


def judge(attempts: pd.DataFrame, sizes: Sequence[int] = (4, 16)) -> dict[str, Any]:
    """How well the scores of pooled attempts select.

    auc         of the last step's score against correctness, over all attempts
    ece         expected calibration error of that score as the chance of being right
    auc_within  mean over the prompts that have both right and wrong attempts of the AUC among their own
    by_step     the same of the scores at step 1, 2, ...: does the verifier see early what becomes of an attempt? As far
                as there are enough prompts that have right and wrong attempts with so many steps
    best_of     by N: accuracy of one sample, of each selection, and of the oracle selector (any right)

    Raises InvalidFile where scores or correctness are missing, or no prompt has both right and wrong attempts.
    """
    scored = last_scores(attempts)
    mixed = [rows for _, rows in scored.groupby("prompt_id") if rows["right"].nunique() == 2]
    if not mixed:
        raise InvalidFile("no prompt has both right and wrong scored attempts; score them, or take other prompts")
    points = evidence(scored[attempts.columns], sizes).values()
    right = [rows["right"].to_numpy(dtype=float) for _, rows in scored.groupby("prompt_id")]
    sizes = [n for n in sizes if n <= min(map(len, right))]
    return {
        "prompts": len(right),
        "mixed_prompts": len(mixed),
        "auc": float(roc_auc_score(scored["right"], scored["score"])),
        "ece": calibration_error(scored["score"].to_numpy(), scored["right"].to_numpy()),
        "auc_within": _auc_within(mixed),
        "by_step": _by_step(scored),
        "best_of": {
            str(n): {
                "one_sample": float(np.mean([r.mean() for r in right])),
                **{arm.name: float(np.mean([point[arm].accuracy for point in points])) for arm in _selections(n)},
                "oracle": float(np.mean([_any_right(r, n) for r in right])),
            }
            for n in sizes
        },
    }


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
    return float(np.mean([roc_auc_score(rows["right"], rows["score"]) for rows in mixed]))


def _any_right(right: np.ndarray, n: int) -> float:
    """Chance that n of the attempts, drawn without replacement, hold a right one (the unbiased pass@n)."""
    wrong = len(right) - int(right.sum())
    return float(1 - np.prod([(wrong - i) / (len(right) - i) for i in range(n)]))
