"""What a perfect choice among the independent samples would give: a ceiling for all that chooses among samples.

Searches and cascades of them may find an answer that no sample has.

It knows of each prompt how often each model is right there, and of each attempt, once it is written, whether it is
right. It draws attempts of the reference model until one is right, at most so many, then of the larger one. How many at
most is chosen for each prompt, by a price of a FLOP.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.attempts.pools import pool_of
from router.backends.specs import Setup
from router.evaluation.curves import spend_to_match
from strategies import Single

Floats = NDArray[np.float64]
_PRICES = 60


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Of one prompt and model: after at most 0, 1, ... attempts the chance that none was right, and the FLOPs."""

    missed: Floats
    flops: Floats

    @classmethod
    def of(cls, rows: pd.DataFrame, parameters: int) -> "_Drawn":
        size, right = len(rows), int(rows["correct"].sum())
        missed = np.ones(size + 1)
        for drawn in range(size):  # none right among those drawn without replacement
            missed[drawn + 1] = missed[drawn] * max(0, size - right - drawn) / (size - drawn)
        each = 2.0 * parameters * float(rows["generated_tokens"].mean())
        read = 2.0 * parameters * float(rows["prompt_tokens"].mean())
        flops = np.concatenate([[0.0], read + each * np.cumsum(missed[:-1])])
        return cls(missed, flops)


class Perfect:
    """Accuracy against mean FLOPs of the perfect choice, on these prompts; points by rising FLOPs."""

    def __init__(self, attempts: pd.DataFrame, prompts: pd.Index, setup: Setup, larger: str | None):
        pools = attempts[attempts["prompt_id"].isin(prompts)]
        tables: list[tuple[Floats, Floats]] = []
        models = [None, *([larger] if larger else [])]
        for _, rows in pools.groupby("prompt_id", sort=False):
            missed, flops = np.ones(1), np.zeros(1)
            for model in models:
                names = [pool_of(model), str(Single(model=model))]
                mine = rows[rows["arm"].isin(names)]
                if mine.empty:
                    continue
                drawn = _Drawn.of(mine, setup.parameters(model or setup.reference))
                flops = (flops[:, None] + missed[:, None] * drawn.flops).ravel()
                missed = (missed[:, None] * drawn.missed).ravel()
            tables.append((1 - missed, flops))
        once = float(np.mean([flops[flops > 0].min() for _, flops in tables]))
        points = []
        for price in np.geomspace(10, 1e-5, _PRICES) / once:
            picked = [int((right - price * flops).argmax()) for right, flops in tables]
            means = [float(np.mean([table[i][k] for table, k in zip(tables, picked, strict=True)])) for i in (0, 1)]
            points.append(means)
        accuracy, spent = np.array(points).T
        self.accuracy, self.flops = np.maximum.accumulate(accuracy), np.maximum.accumulate(spent)

    def at(self, flops: float) -> float:
        """Accuracy at these mean FLOPs."""
        return round(float(np.interp(flops, self.flops, self.accuracy)), 4)

    def cost_of(self, accuracy: float) -> float | None:
        """Mean FLOPs at which it is as accurate; None: never."""
        positive = self.flops > 0
        return spend_to_match(self.flops[positive].tolist(), self.accuracy[positive].tolist(), accuracy)
