"""How many prompts and attempts does a difficulty model need? Learning curves on recorded attempts.

Usage: python -m benchmarks.learning_curve TRAIN ... --heldout FILE ... [--prompts 50 100 200 400] [--attempts 4 8 16]
       [--candidate text_logistic] [--times 3] [--vectors FILE --features NAME --model NAME] [--out FILE]

So many random prompts with so many random attempts of each train one candidate; all of it is measured on the same
held-out prompts with all of their attempts. Levels are cut anew each time, as `router train` does; so log-losses of
different columns are of slightly different levels, and what to compare is Spearman's correlation of the predicted level
with the held-out pass rate. The last line is one JSON object, a row for each size:

prompts, attempts  that were trained on
spearman           mean over the draws, and the lowest and highest of them
failed             draws whose attempts could not be cut into five levels
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from difficulty import LEVELS, DifficultyModel, find_edges
from router.attempts.pools import SAMPLE
from router.attempts.schema import read_attempts
from router.training.difficulty import VectorsByName, prompt_statistics
from router.training.vectors import kept


def drawn(pool: pd.DataFrame, prompts: int, attempts: int, rng: np.random.Generator) -> pd.DataFrame:
    """So many attempts at so many prompts."""
    ids = rng.choice(pool["prompt_id"].unique(), prompts, replace=False)
    rows = pool[pool["prompt_id"].isin(ids)].sample(frac=1, random_state=int(rng.integers(1 << 31)))
    return rows.groupby("prompt_id", sort=False).head(attempts)


def read_from(asked: argparse.Namespace) -> VectorsByName | None:
    def nothing(prompts: Any) -> Any:
        raise SystemExit(f"{asked.vectors} lacks {len(prompts)} prompts")

    return None if asked.vectors is None else kept(asked.vectors, [asked.features], asked.model, nothing)


def curve(pool: pd.DataFrame, heldout: pd.DataFrame, asked: argparse.Namespace) -> list[dict[str, Any]]:
    statistics = prompt_statistics(heldout, "pass_rate")
    prompts, rates = statistics["asked"].tolist(), statistics["statistic"].to_numpy()
    read = read_from(asked)
    x = [prompt.question for prompt in prompts] if read is None else read(prompts)[asked.features]
    sizes = pool.groupby("prompt_id").size()
    rng = np.random.default_rng(0)
    rows = []
    for count in asked.prompts:
        for attempts in asked.attempts:
            if count > len(sizes) or attempts > sizes.median():
                continue
            found, failed = [], 0
            for _ in range(asked.times):
                some = prompt_statistics(drawn(pool, count, attempts, rng), "pass_rate")
                own = some["asked"].tolist()
                try:
                    model = DifficultyModel(asked.candidate, edges=find_edges(some["statistic"]).tolist())
                except ValueError:
                    failed += 1
                    continue
                model.fit(
                    [each.question for each in own] if read is None else read(own)[asked.features], some["statistic"]
                )
                expected = -model.predict_proba(x) @ np.array(LEVELS)
                found.append(float(np.nan_to_num(spearmanr(expected, rates).statistic)) if np.ptp(expected) else 0.0)
            row = {"prompts": count, "attempts": attempts, "failed": failed}
            if found:
                row |= {"spearman": [round(each, 3) for each in (np.mean(found), min(found), max(found))]}
            rows.append(row)
            print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attempts_files", type=Path, nargs="+", metavar="TRAIN")
    parser.add_argument("--heldout", type=Path, nargs="+", required=True)
    parser.add_argument("--prompts", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--attempts", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--candidate", default="text_logistic")
    parser.add_argument("--times", type=int, default=3, help="draws of each size")
    parser.add_argument("--vectors", type=Path, help="of `router train --vectors`, for the candidate hidden_ridge")
    parser.add_argument("--features", help="name of the vectors in it")
    parser.add_argument("--model", help="that they are of, as models.json names it")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    pool = read_attempts(asked.attempts_files)
    rows = curve(pool[pool["arm"] == SAMPLE], read_attempts(asked.heldout), asked)
    if asked.out:
        asked.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
