"""Kinds of features of a prompt: text, the small model's hidden state, sentence encoders, and some of them together.

How much each knows is measured in five folds over all sampled prompts, those to tune on and those held out: a hundred
are too few to tell encoders apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from attempts import SMALL, VECTORS
from encoders import ENCODERS, KEPT, SOURCE
from scipy.stats import rankdata
from vectors import HIDDEN

from difficulty import LEVELS, find_edges
from difficulty.compare import Candidate
from difficulty.compare import compare as in_folds
from difficulty.features import describe
from router.prompt import Prompt
from router.training.difficulty import Vectors, prompt_statistics
from router.training.vectors import kept

Floats = np.ndarray


@dataclass(frozen=True)
class Part:
    """What is read of a prompt.

    milliseconds  of processor time that reading takes, one thread, prompt by prompt: medians (`encoders.py --time`)
    parameters    numbers that each token of the prompt meets
    """

    milliseconds: float = 0.0
    parameters: float = 0.0


_LAYER = 14_912_384  # parameters of one of the small model's 24 layers
PARTS = {
    "text": Part(),
    "hidden": Part(150.0, 14 * _LAYER),  # 129 to 196 by task; 75 to 93 by the clock with two threads (places.py --time)
    "minilm": Part(12.0, 10.6e6),
    "bge": Part(8.0, 21.3e6),
    "words": Part(0.1),
}
KINDS: Mapping[str, list[str]] = {
    "none": [],
    "text": ["text"],
    "hidden": ["hidden"],
    **{encoder: [encoder] for encoder in KEPT},
    **{f"text + {encoder}": ["text", encoder] for encoder in ("minilm", "bge")},
    "text + hidden": ["text", "hidden"],
    "hidden + bge": ["hidden", "bge"],
}
# With what the first sample of an attempt at the prompt shows, which costs that sample: measured in folds only.
AFTER_ONE = {"first sample": "none", "text + first sample": "text", "hidden + first sample": "hidden"}
CANDIDATES = {
    "none": ["prior"],
    "text": ["prompt_length", "text_knn", "text_logistic", "text_boosting"],
}
RIDGE = ["hidden_ridge"]  # of all kinds that are vectors


def milliseconds(kind: str) -> float:
    """Of reading one prompt; predicting comes on top."""
    return sum(PARTS[part].milliseconds for part in KINDS[kind])


def flops_per_token(kind: str) -> float:
    """Of reading a token of the prompt."""
    return 2.0 * sum(PARTS[part].parameters for part in KINDS[kind])


def reader(kind: str, model: str) -> Vectors:
    """Prompts → (n, d) vectors out of the files. Raises KeyError where one is missing there."""

    def lacking(script: str) -> Callable[[Any], Any]:
        def nothing(prompts: Any) -> Any:
            raise KeyError(f"vectors of {len(prompts)} prompts are missing: run {script}")

        return nothing

    hidden = kept(VECTORS, [HIDDEN], model, lacking("vectors.py"))
    encoded = kept(ENCODERS, KEPT, SOURCE, lacking("encoders.py"))

    def of(part: str, prompts: Sequence[Prompt]) -> Floats:
        if part == "text":
            return describe([prompt.question for prompt in prompts])
        return hidden(prompts)[HIDDEN] if part == "hidden" else encoded(prompts)[part]

    return lambda prompts: np.hstack([of(part, prompts) for part in KINDS[kind]]).astype(np.float32)


def crossed(tune: pd.DataFrame, heldout: pd.DataFrame, model: str) -> dict[str, dict[str, Any]]:
    """By kind: quality out of fold, all prompts together, and ``above_text``: of Spearman, with its 95% interval.

    Of several candidates the one with the highest Spearman is taken.

    Pass rates are those of all samples but the first, so that what the first one shows is no part of what is predicted.
    """
    later = [part[(part["arm"] != SMALL) | (part["sample"] != 0)] for part in (tune, heldout)]
    prompts = pd.concat([prompt_statistics(part, "pass_rate") for part in later])
    asked, statistics = prompts["asked"].tolist(), prompts["statistic"].to_numpy(dtype=float)
    texts, edges = [prompt.question for prompt in asked], find_edges(statistics)
    best: dict[str, Candidate] = {}
    for kind in KINDS:
        try:
            states = {} if kind in CANDIDATES else {kind: reader(kind, model)(asked)}
        except KeyError:
            continue
        tried = in_folds(texts, states, statistics, edges, names=CANDIDATES.get(kind, RIDGE))
        best[kind] = max(tried, key=lambda each: each.quality.spearman)  # in favour of text, which has several
    shown = first_samples(pd.concat([tune, heldout])).loc[prompts.index].to_numpy()
    for kind, before in AFTER_ONE.items():
        try:
            known = reader(before, model)(asked) if KINDS[before] else np.zeros((len(asked), 0))
        except KeyError:
            continue
        states = {kind: np.hstack([known, shown]).astype(np.float32)}
        best[kind] = in_folds(texts, states, statistics, edges, names=RIDGE)[0]
    expected = {kind: -each.probabilities @ np.array(LEVELS) for kind, each in best.items()}
    everyone = np.arange(len(asked))
    drawn = np.vstack([everyone, np.random.default_rng(0).integers(0, len(asked), (500, len(asked)))])
    ranks = {kind: _ranks(each.round(12)[drawn], statistics[drawn]) for kind, each in expected.items()}
    found = {}
    for kind, each in best.items():
        above = ranks[kind] - ranks["text"]
        low, high = np.percentile(above[1:], [2.5, 97.5])
        gain = {"value": float(above[0]), "low": float(low), "high": float(high)}
        found[kind] = {"candidate": each.name, **_rounded(asdict(each.quality)), "above_text": _rounded(gain)}
    return found


def first_samples(attempts: pd.DataFrame) -> pd.DataFrame:
    """(n, 4) by prompt: of the small model's first sample, what is known without a reference."""
    first = attempts[(attempts["arm"] == SMALL) & (attempts["sample"] == 0)].set_index("prompt_id")
    return pd.DataFrame(
        {
            "log_prob": first["log_prob"].fillna(first["log_prob"].mean()).astype(float),
            "tokens": np.log2(first["generated_tokens"].astype(float)),
            "steps": np.log2(1.0 + first["text"].str.count("\n\n")),
            "answered": first["answer"].notna().astype(float),
        }
    )


def _ranks(expected: Floats, statistics: Floats) -> Floats:
    """(R,) Spearman's correlations of (R, n) values; 0 where one side is constant."""
    sides = [rankdata(each, axis=1) for each in (expected, statistics)]
    sides = [each - each.mean(axis=1, keepdims=True) for each in sides]
    size = np.sqrt((sides[0] ** 2).sum(axis=1) * (sides[1] ** 2).sum(axis=1))
    return np.divide((sides[0] * sides[1]).sum(axis=1), size, out=np.zeros(len(size)), where=size > 0)


def _rounded(row: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in row.items()}
