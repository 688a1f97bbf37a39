"""Every figure of the natural tasks, from the checked-in attempts; the last line is one JSON object.

Usage: python evaluate.py OUT [--build] [--only BUNDLE ...]

OUT      a folder for bundles and reports (`make evaluate-natural` takes build/natural). It needs no weights
--build  train the difficulty models as well, and write the bundles beside the recipe: what is checked in

By bundle (gsm8k, mbpp, mmlu-stem, mixed) and for `math`, of which the difficulty alone was measured: what `router
evaluate` finds (its ``HEADLINE``), difficulty, features, verifiers, and for the mixed one what mixing is worth. What
can't be measured yet is null, with a reason.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import estimators
import numpy as np
from attempts import NATURAL, RECIPE, TASKS, TooFew, bundle_attempts, pooled, write
from kinds import KINDS, milliseconds
from mixing import measured_and_priced, mixing
from repair import repaired
from table import table
from verifiers import compared

from router.bundle.bundle import load_bundle
from router.bundle.setup import read_setup
from router.cli.main import main as router
from router.evaluation.arms import fixed
from router.evaluation.at_flops import shares_of_larger
from router.evaluation.averages import larger_alone
from router.evaluation.parts import HEADLINE
from router.evaluation.perfect import Perfect
from router.training.difficulty import read_training
from router.tuning.evidence import resamples

BUNDLES = (*TASKS, "mixed")
HIDDEN = "layer 14, last"
RATED = {  # kinds of features, by their names in difficulty.json
    kind: {"none": "prior", "text": "text_logistic"}.get(kind, kind.replace("hidden", HIDDEN)) for kind in KINDS
}
TRAINED = ("difficulty.joblib", "familiarity.json", "training.json")


def make(bundle: str, folder: Path, *, build: bool) -> dict[str, Any]:
    """Tune and evaluate one bundle; with ``build`` also train it. Raises TooFew."""
    source = NATURAL / bundle
    trained = all((source / name).exists() for name in TRAINED[::2])
    paths = write(bundle, folder)
    if folder != source:
        shutil.copy(source / "models.json", folder)
        if trained and not build:
            for name in TRAINED:
                if (source / name).exists():
                    shutil.copy(source / name, folder)
    at = ["--bundle", str(folder)]
    again = ["--overwrite"] if (folder / "manifest.json").exists() else []
    if build or not trained:
        # On the text alone: reading hidden states costs 7% of the larger model's solution on GSM8K, 22% on MBPP.
        call("train", paths["tune"], *at, *again)
    call("tune", paths["tune"], *at, "--default", "budget=4")
    judged = folder / "judged.jsonl"
    found = compared(bundle, folder)
    judged.write_text("".join(json.dumps(each) + "\n" for each in found if "auc" in each))
    judges = ["--judged", str(judged)] if judged.stat().st_size else []
    beside = best_of_larger(bundle, folder)
    call("evaluate", paths["heldout"], "--tuned-on", paths["tune"], *at, "--out", folder / "report", *judges)
    report = json.loads((folder / "report" / "evaluation.json").read_text())
    shutil.rmtree(folder / "attempts")
    more = {"repair": repaired(read_setup(folder))} if bundle == "mbpp" else {}
    row = figures(report, folder) | {"verifiers": found} | more
    if beside:
        share, reasons = beside
        row["share_of_best_of_n_cost"] = share
        row["reasons"] = {k: v for k, v in row["reasons"].items() if k != "share_of_best_of_n_cost"} | reasons
    if bundle == "mixed":
        row["reasons"] = {**row["reasons"], "verifiers": "compared task by task, on the same attempts"}
    return row


def best_of_larger(bundle: str, folder: Path) -> tuple[dict[str, Any], dict[str, str]] | None:
    """``share_of_best_of_n_cost``, and why it is null, where the larger model has samples at a part of the prompts."""
    part = pooled(bundle_attempts(bundle, "heldout"))
    if part is None:
        return None
    whole, measured, policy = measured_and_priced(load_bundle(folder), part)
    column = larger_alone(measured)
    assert column is not None  # what has the larger model's samples has its greedy solution
    larger = fixed(measured, column)
    perfect = Perfect(part, measured.prompts, measured.setup, "large")
    draws = resamples(len(measured.prompts), np.random.default_rng(0))
    shares, reasons = shares_of_larger(whole, policy, larger, model="large", perfect=perfect, draws=draws)
    name = "share_of_best_of_n_cost"
    return {**(shares[name] or {}), "prompts": len(measured.prompts)}, {k: v for k, v in reasons.items() if k == name}


def figures(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What the last line says of one bundle."""
    training = read_training(folder)
    quality = training.comparison[training.chosen]
    reading = 0.0 if training.features == "text" else milliseconds("hidden")
    difficulty = report["difficulty"] | {
        "milliseconds": round(quality["milliseconds"] + reading, 2),
        "candidate": training.chosen,
        "ceiling": report["difficulty_ceiling"],
    }
    return {
        **{name: report.get(name) for name in HEADLINE},
        "prompts": report["prompts"],
        "tuning_prompts": len(training.prompts),
        "difficulty": difficulty,
        "at_flops": report["at_flops"],
        "tasks": report["tasks"],
        "validated": report["validated"],
    }


def call(command: str, *arguments: object) -> None:
    """One of the router's commands, in this process: importing everything anew takes seconds."""
    began = time.monotonic()
    print(f"$ router {command} {' '.join(map(str, arguments))}", flush=True)
    code = router([command, *map(str, arguments)], standalone_mode=False)
    if code:
        raise SystemExit(int(code))
    print(f"({time.monotonic() - began:.0f} s)", flush=True)


def nothing(reason: str) -> dict[str, Any]:
    """Of a bundle that can't be made yet."""
    names = (*HEADLINE, "prompts", "difficulty")
    return dict.fromkeys(names) | {"reasons": dict.fromkeys((*HEADLINE[:-1], "difficulty"), reason)}


def mathematics() -> dict[str, Any]:
    """MATH's human levels: nothing was sampled there, so there is nothing to route."""
    found = json.loads((RECIPE / "difficulty.json").read_text())
    names = ("spearman", "kappa", "log_loss", "ece", "gain", "within", "chosen")
    difficulty = {name: found["candidates"]["nested"][name] for name in names}
    difficulty |= {"candidate": "hidden_ridge", "milliseconds": milliseconds("hidden"), "ceiling": None}
    difficulty["text"] = found["candidates"]["text_logistic"]["spearman"]
    row = nothing("no attempts at MATH's problems: their levels are people's")
    del row["reasons"]["difficulty"]
    return row | {
        "prompts": found["problems"],
        "difficulty": difficulty,
        "features": {kind: rated(kind, found["candidates"].get(name, {})) for kind, name in RATED.items()},
    }


def rated(kind: str, found: dict[str, Any]) -> dict[str, Any]:
    """A row of ``features``, as :func:`estimators.compare` has them, of what was measured in folds over MATH."""
    if not found:
        return {"reason": f"{kind} was not measured on MATH"}
    low, high = found["within"]
    names = ("log_loss", "ece", "kappa", "spearman")
    row = {name: found[name] for name in names} | {"milliseconds": milliseconds(kind)}
    return row | {"folds": {**row, "above_text": {"value": found["gain"], "low": low, "high": high}}}


def of_one(bundle: str, out: Path, *, build: bool) -> None:
    """Write the figures of one bundle to OUT/BUNDLE.json."""
    folder = (NATURAL if build else out) / bundle
    folder.mkdir(exist_ok=True)
    try:
        found = make(bundle, folder, build=build)
        parts = [bundle_attempts(bundle, part) for part in ("tune", "heldout")]
        found["features"] = estimators.compare(*parts, folder)
    except TooFew as error:
        found = nothing(str(error))
        print(f"{bundle}: {error}", flush=True)
    (out / f"{bundle}.json").write_text(json.dumps(found))


def in_a_process(bundle: str, out: Path, *, build: bool) -> None:
    """Do the same in a process of its own, so that bundles are made side by side; print what it says in one piece."""
    program = f"import evaluate, pathlib; evaluate.of_one({bundle!r}, pathlib.Path({str(out)!r}), build={build})"
    command = [sys.executable, "-c", program]
    paths = os.pathsep.join([str(RECIPE), os.environ.get("PYTHONPATH", "")])
    settings = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, check=False, env=settings, **told)
    print(done.stdout, flush=True)
    if done.returncode:
        raise SystemExit(f"{bundle}: ended with {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--only", nargs="*", default=BUNDLES, choices=BUNDLES)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    bundles = sorted(asked.only, key=BUNDLES.index, reverse=True)  # the mixed one takes longest
    if len(bundles) == 1:
        of_one(bundles[0], asked.out, build=asked.build)
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda bundle: in_a_process(bundle, asked.out, build=asked.build), bundles))
    results = {bundle: json.loads((asked.out / f"{bundle}.json").read_text()) for bundle in reversed(bundles)}
    if len(bundles) > 1 and results.get("mixed", {}).get("prompts"):  # compared with the other bundles' folders
        results["mixed"]["mixing"] = mixing(NATURAL if asked.build else asked.out)
    results["math"] = mathematics()
    for folder in [asked.out, NATURAL] if asked.build and len(bundles) == len(BUNDLES) else [asked.out]:
        (folder / "evaluation.json").write_text(json.dumps(results, indent=1) + "\n")
        (folder / "table.md").write_text(table(results))
        print(f"wrote {folder}/evaluation.json and {folder}/table.md")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
