"""A finished bundle on recorded attempts: the levels that it predicts, and its cascades replayed as it decides them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.bundle.bundle import Bundle
from router.errors import InvalidBundle
from router.prompt import Prompt
from router.solving.features import features_of
from router.training.difficulty import Vectors
from router.tuning.cascades import Enumerated
from router.tuning.confidence import ModelConfidence
from router.tuning.evidence import Measured
from strategies.replaying.cascades import by_score_or_lead_of_runs
from strategies.replaying.records import ConfidenceOfRuns


def predicted(bundle: Bundle, prompts: Sequence[Prompt], vectors: Vectors | None) -> NDArray[np.float64]:
    """Return the (P, 5) predicted probabilities of levels 1 to 5. Raises InvalidBundle.

    vectors  gives the prompts' feature vectors, needed where the bundle's difficulty model reads some
    """
    if not features_of(bundle.manifest.features).vectors:
        return bundle.difficulty.predict_proba([prompt.question for prompt in prompts])
    if vectors is None:
        raise InvalidBundle(
            f"bundle {bundle.manifest.name} predicts levels from {bundle.manifest.features!r} features, and the model "
            "that gives them is not available here; install it, or train with text features"
        )
    return bundle.difficulty.predict_proba(vectors(prompts))


def replayable(bundle: Bundle, measured: Measured, probabilities: NDArray[np.float64]) -> Enumerated:
    """Return what cascades need to be replayed on these runs, with the bundle's confidence model."""
    confidence_of: ConfidenceOfRuns = (
        ModelConfidence(bundle.confidence, probabilities, measured.tasks)
        if bundle.confidence
        else by_score_or_lead_of_runs
    )
    return Enumerated(measured.replays, confidence_of)
