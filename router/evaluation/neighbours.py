"""The best arm at similar tuning prompts, as a plainer way to choose for held-out prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.attempts.schema import prompts_of
from router.bundle.bundle import Bundle
from router.errors import InvalidFile
from router.evaluation.arms import chosen
from router.evaluation.curves import PerPrompt
from router.prompt import Prompt
from router.training.difficulty import Training
from router.tuning.candidates import replay
from router.tuning.evidence import Measured, measure
from router.tuning.nearest import closest, nearest, similarities
from router.tuning.of_bundle import replayable
from strategies import Cascade

BY_SIMILAR = "of the policy's arms the best at similar tuning prompts"
_DRAWS = 16  # runs that a sampling arm is replayed for: few, as each prompt takes the mean over 25 others


@dataclass(frozen=True, slots=True)
class Neighbours:
    """P tuning prompts beside Q held-out ones, and the policy's arms that were measured at both.

    known, here    what was measured at the two
    columns        (K,) columns of the arms in ``known``;  theirs (K,) in ``here``
    among, to      rows in ``known`` of the tuning prompts' nearest neighbours, and of the held-out ones'
    """

    known: Measured
    here: Measured
    columns: NDArray[np.int64]
    theirs: NDArray[np.int64]
    among: NDArray[np.int64]
    to: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        tuned_on: pd.DataFrame,
        bundle: Bundle,
        training: Training,
        here: Measured,
        asked: Sequence[Prompt],
        *,
        budgets: Sequence[int],
        seed: int,
    ) -> Self:
        """Measure the policy's arms on the attempts that it was tuned on; their levels are those out of fold.

        here   what was measured at the held-out prompts;  asked  (Q,) these

        Raises InvalidFile where these lack prompts that it was tuned on.
        """
        index = training.prompts.index
        if missing := sorted(set(index) - set(tuned_on["prompt_id"])):
            raise InvalidFile(
                f"--tuned-on lacks {len(missing)} of the {len(index)} prompts that the bundle was trained on, first "
                f"{missing[0]!r}; give all attempts files that were given to `router tune`"
            )
        known = measure(tuned_on, index, budgets, bundle.setup, arms=bundle.policy.arms, draws=_DRAWS, seed=seed)
        levels = training.probabilities.loc[known.prompts].to_numpy()
        cascades = [arm for arm in bundle.policy.arms if isinstance(arm, Cascade)]
        known = known.with_cascades(replay(cascades, known, replayable(bundle, known, levels))[0])
        both = [arm for arm in bundle.policy.arms if arm in known.arms and arm in here.arms]
        texts = prompts_of(tuned_on)
        among, to = similarities(
            [texts[prompt].question for prompt in known.prompts], [prompt.question for prompt in asked]
        )
        columns, theirs = (np.array([measured.arms.index(arm) for arm in both]) for measured in (known, here))
        return cls(known, here, columns, theirs, closest(among), closest(to))

    def at(self, amount: float, unit: Literal["generations", "flops"]) -> PerPrompt:
        """Return the results at the price at which the tuning prompts would spend this much on average."""
        spent = getattr(self.known, unit)[:, self.columns]
        found = nearest(self.known.accuracy[:, self.columns], spent, self.among, self.to, amount)
        return chosen(self.here, self.theirs[found])
