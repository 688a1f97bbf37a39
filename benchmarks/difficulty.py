"""Measures which features of a prompt predict its difficulty, on problems that people have rated.

Usage: python -m benchmarks.difficulty PROBLEMS.parquet [FEATURES] [--vectors NAME=FILE.npy] [--out RESULTS.json]

PROBLEMS.parquet  as for benchmarks.difficulty_features
FEATURES          the folder that benchmarks.difficulty_features wrote; problems in its pieces are used
--vectors         (n, d) vectors of the same problems in the same order, from another source. Repeatable
--with-text       names of vectors that are tried beside a description of the text as well: "text + NAME"
--skip            layers to leave out

Candidates are text features, and ridge regression on each layer's hidden state at each position, all on the same five
folds over problems. The regularisation is chosen within each training part. So is the layer, of the candidate "nested":
by log-loss in five folds of that part. The best of the others is the best of many on the very problems it is measured
on. Then comes a learning curve: trained on growing numbers of problems, measured on a fifth of all that is never
trained on. The last line is one JSON object:

problems        number of problems used
candidates      by name: spearman and kappa with people's level, log_loss, ece, accuracy; gain: of Spearman over the
                text features, with its 95% interval over problems; of "nested", chosen: by each of the five parts
learning_curve  by name and number of training problems: spearman, log_loss
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.difficulty_features import POSITIONS, problems
from difficulty import LEVELS, DifficultyModel, levels_of
from difficulty.compare import Candidate, compare, measure
from difficulty.features import describe

EDGES = [-1.5, -2.5, -3.5, -4.5]  # edges of levels, as the statistic is minus the level
TEXT = "text_logistic"
RIDGE = "hidden_ridge"
Vectors = dict[str, NDArray[np.float32]]


def read(folder: Path, skip: set[str]) -> Vectors:
    """Return by name the vectors of the problems in the pieces that exist, from the first piece on."""
    pieces: list[dict[str, NDArray[np.float16]]] = []
    while (path := folder / f"{sum(len(next(iter(piece.values()))) for piece in pieces):05}.npz").exists():
        with np.load(path) as piece:
            pieces.append(dict(piece))
    if not pieces:
        raise SystemExit(f"{folder} holds no pieces; run benchmarks.difficulty_features first")
    layers = set.intersection(*(set(piece) for piece in pieces)) - skip
    found: Vectors = {}
    for layer in sorted(layers, key=int):
        states = np.concatenate([piece[layer] for piece in pieces]).astype(np.float32)
        found |= {f"layer {layer}, {position}": states[:, i] for i, position in enumerate(POSITIONS)}
        found[f"layer {layer}, last and mean"] = states.reshape(len(states), -1)
    return found


def compared(
    texts: list[str], statistics: NDArray[np.float64], vectors: Vectors, edges: Sequence[float] = EDGES
) -> dict[str, Any]:
    """Return for each candidate its quality out of fold, and its gain over text features.

    statistics  of each problem, the higher the easier;  edges  (4,) between levels, in falling order
    """
    names = ["prior", "prompt_length", TEXT, RIDGE]
    results = compare(texts, vectors, statistics, edges, names=names)
    chosen, inside = nested(texts, statistics, vectors, edges)
    results.append(inside)
    expected = {(each.vectors or each.name): -each.probabilities @ np.array(LEVELS) for each in results}
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(texts), len(texts)) for _ in range(500)]
    rows = {}
    for each in results:
        name = each.vectors or each.name
        gains = [
            _rank(expected[name][some], statistics[some]) - _rank(expected[TEXT][some], statistics[some])
            for some in drawn
        ]
        gain = [round(float(value), 3) for value in np.percentile(gains, [2.5, 97.5])]
        quality = {key: round(value, 4) for key, value in asdict(each.quality).items()}
        rows[name] = quality | {
            "gain": round(quality["spearman"] - _rank(expected[TEXT], statistics), 3),
            "within": gain,
        }
        if each is inside:
            rows[name]["chosen"] = chosen
        print(json.dumps({"candidate": name} | rows[name]), flush=True)
    return rows


def nested(
    texts: list[str], statistics: NDArray[np.float64], vectors: Vectors, edges: Sequence[float]
) -> tuple[list[str], Candidate]:
    """Return the vectors that each training part chose by its own folds, and what comes of them on the other fold."""
    groups = np.unique(texts, return_inverse=True)[1]
    probabilities = np.zeros((len(texts), len(LEVELS)))
    chosen = []
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in splitter.split(texts, levels_of(statistics, edges), groups):
        part = {name: each[train] for name, each in vectors.items()}
        best = compare([texts[i] for i in train], part, statistics[train], edges, names=[RIDGE])[0].vectors
        model = DifficultyModel(RIDGE, edges=list(edges)).fit(vectors[best][train], statistics[train])
        probabilities[test] = model.predict_proba(vectors[best][test])
        chosen.append(best)
        print(json.dumps({"part": len(chosen), "chosen": best}), flush=True)
    return chosen, Candidate("nested", measure(probabilities, statistics, edges), 0.0, probabilities)


def _rank(expected: NDArray[np.float64], statistics: NDArray[np.float64]) -> float:
    return float(np.nan_to_num(spearmanr(expected, statistics).statistic)) if np.ptp(expected) else 0.0


def curve(texts: list[str], statistics: NDArray[np.float64], vectors: Vectors, sizes: list[int]) -> dict[str, Any]:
    """Return quality by candidate and number of training problems."""
    held = len(texts) // 5
    rows: dict[str, Any] = {}
    for name, X in {TEXT: np.asarray(texts, dtype=object), **vectors}.items():  # noqa: N806
        rows[name] = {}
        for size in sizes:
            if size > len(texts) - held:
                continue
            found = []
            for start in range(0, min(3 * size, len(texts) - held - size + 1), size):  # up to three, that share none
                part = slice(held + start, held + start + size)
                model = DifficultyModel(TEXT if name == TEXT else RIDGE, edges=EDGES)
                model.fit(X[part], statistics[part])
                found.append(measure(model.predict_proba(X[:held]), statistics[:held], EDGES))
            means = {key: round(float(np.mean([getattr(each, key) for each in found])), 3) for key in _CURVE}
            rows[name][size] = means
            print(json.dumps({"candidate": name, "problems": size} | means), flush=True)
    return rows


_CURVE = ("spearman", "kappa", "log_loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", type=Path)
    parser.add_argument("features", type=Path, nargs="?")
    parser.add_argument("--vectors", action="append", default=[])
    parser.add_argument("--with-text", nargs="*", default=[])
    parser.add_argument("--skip", nargs="*", default=[])
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 200, 400, 800, 1600, 3200, 6000])
    parser.add_argument("--curve", nargs="*", default=["layer 16, last"], help="names of the vectors of the curve")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if not (asked.features or asked.vectors):
        parser.error("name FEATURES, --vectors or both")
    vectors = read(asked.features, set(asked.skip)) if asked.features else {}
    others = {name: np.load(file).astype(np.float32) for name, _, file in (v.partition("=") for v in asked.vectors)}
    vectors |= others
    n = min(len(each) for each in vectors.values())
    table = problems(asked.problems)[:n]
    texts, statistics = table["text"].tolist(), -table["level"].to_numpy(dtype=float)
    vectors = {name: each[:n] for name, each in vectors.items()}
    described = describe(texts).astype(np.float32)
    vectors |= {f"text + {name}": np.hstack([described, vectors[name]]) for name in asked.with_text}
    results = {"problems": n, "candidates": compared(texts, statistics, vectors)}
    results["learning_curve"] = curve(texts, statistics, {name: vectors[name] for name in asked.curve}, asked.sizes)
    if asked.out:
        asked.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
