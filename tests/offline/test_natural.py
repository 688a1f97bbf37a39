"""The natural tasks' recipe: what it computes of attempts, and what is checked in of it."""

import importlib
import json
import math
import sys
from pathlib import Path

import pandas as pd
import pytest

NATURAL = Path(__file__).parent.parent.parent / "models" / "natural"
BUNDLES = ("gsm8k", "mbpp", "mmlu-stem", "mixed", "math")


@pytest.fixture
def verifiers(monkeypatch):
    monkeypatch.syspath_prepend(str(NATURAL / "recipe"))
    yield importlib.import_module("verifiers")
    for name in ("verifiers", "attempts"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def checked_in():
    return json.loads((NATURAL / "evaluation.json").read_text())


def sampled(prompt, log_probs, arm="sample"):
    rows = [
        {"arm": arm, "prompt_id": prompt, "log_prob": each, "scores": [0.9], "scored_tokens": 3} for each in log_probs
    ]
    return pd.DataFrame(rows)


def test_log_probabilities_replace_whatever_scored_the_attempts_before(verifiers):
    scored = verifiers.by_log_prob(sampled("p", [-0.5, -1.0]))
    assert scored["scores"].tolist() == [[math.exp(-0.5)], [math.exp(-1.0)]]
    assert scored["scored_tokens"].tolist() == [0, 0]


def test_a_prompt_without_log_probabilities_is_left_out_and_other_models_do_not_matter(verifiers):
    frame = pd.concat(
        [sampled("p", [-0.5]), sampled("q", [None]), sampled("p", [None], arm="single(model=large)")], ignore_index=True
    )
    assert verifiers.by_log_prob(frame)["prompt_id"].tolist() == ["p"]


@pytest.mark.parametrize("bundle", BUNDLES)
def test_what_is_null_has_a_reason(checked_in, bundle):
    found = checked_in[bundle]
    silent = [name for name, value in found.items() if value is None and not found["reasons"].get(name)]
    assert not silent
    reasoned = [name for name in found["reasons"] if found.get(name) is not None and found[name] != []]
    assert bundle != "math" or not reasoned


def test_what_is_evaluated_is_what_is_shipped(checked_in):
    for bundle in BUNDLES[:-1]:
        report = json.loads((NATURAL / bundle / "report" / "evaluation.json").read_text())
        assert checked_in[bundle]["gain_at_large_cost"] == report["gain_at_large_cost"]
        assert checked_in[bundle]["prompts"] == report["prompts"]


def test_the_readme_has_the_table_that_the_recipe_makes(checked_in, monkeypatch):
    monkeypatch.syspath_prepend(str(NATURAL / "recipe"))
    table = importlib.import_module("table").readme(checked_in)
    readme = (NATURAL.parent.parent / "README.md").read_text()
    missing = [row for row in table.splitlines() if row not in readme and "---" not in row]
    assert not missing
    sys.modules.pop("table", None)
