"""How well anything could predict a statistic of few attempts."""

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from router.attempts.pools import SAMPLE
from router.attempts.schema import last_score

_HALVINGS = 50


def correlation_ceiling(attempts: pd.DataFrame, prompts: pd.Index, statistic: str, seed: int = 0) -> float | None:
    """Return the highest rank correlation that any predictor can have with this noisy statistic.

    It is the square root of the statistic's split-half reliability, corrected to full length (Spearman-Brown 1910).
    The reliability is Spearman's correlation of the statistics of two random halves of each prompt's attempts, mean
    over many halvings. None with fewer than three prompts, with a prompt of fewer than four attempts, or where all
    prompts are alike.

    prompts    ids of the prompts that take part
    statistic  pass_rate or mean_score
    """
    pool = attempts[(attempts["arm"] == SAMPLE) & attempts["prompt_id"].isin(prompts)]
    values = pool["correct"].astype(float) if statistic == "pass_rate" else pool["scores"].map(last_score)
    groups = [rows.dropna().to_numpy(dtype=float) for _, rows in values.groupby(pool["prompt_id"])]
    if len(groups) < 3 or min(map(len, groups)) < 4:
        return None
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_HALVINGS):
        mixed = [rng.permutation(each) for each in groups]
        halves = [[part.mean() for part in (each[::2], each[1::2])] for each in mixed]
        first, second = (rankdata(side) for side in np.array(halves).T.round(9))
        if np.ptp(first) and np.ptp(second):
            found.append(float(np.corrcoef(first, second)[0, 1]))
    if not found:
        return None
    half = max(0.0, float(np.mean(found)))
    return round(float(np.sqrt(2 * half / (1 + half))), 4)
