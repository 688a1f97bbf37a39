"""Features of one's own are a function and a line: difficulty models are trained on them, and bundles name them."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest

from difficulty import DifficultyModel
from router.backends import Engines, Usage
from router.backends.fake import FakeGenerator, FakeVerifier
from router.bundle.bundle import load_bundle
from router.bundle.manifest import digests
from router.errors import InvalidBundle
from router.policy.objectives import Budget
from router.prompt import Prompt
from router.solving import features
from router.solving.features import Features, features_of, register
from router.solving.request import Request
from router.solving.solver import Solver
from router.training.difficulty import train
from strategies import Candidate


async def digits(prompts: Sequence[Prompt], engines: Engines, usage: Usage) -> list[list[float]]:
    """How many digits all messages of a prompt have: a question may be hard for what was said before."""
    texts = ["".join(message.text for message in prompt.messages) for prompt in prompts]
    return [[float(sum(map(str.isdigit, text))), float(len(text) > 1000)] for text in texts]


async def drafts(prompts: Sequence[Prompt], engines: Engines, usage: Usage) -> list[str]:
    """What the reference model writes first: that costs something."""
    limits: dict[str, Any] = {"temperature": 0, "max_tokens": 5, "deadline": None, "seed": 0}
    written = [
        await engines.main.extend(prompt, [Candidate()], steps=None, usage=usage, **limits) for prompt in prompts
    ]
    return [candidate.text for (candidate,) in written]


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register("digits", Features(digits, vectors=True))
    register("drafts", Features(drafts, vectors=False))
    yield
    for name in ("digits", "drafts"):
        del features._FEATURES[name]


def prompt_of(count: int) -> str:
    return "3" * count


def bundle_that_reads(name: str, model: DifficultyModel, folder: Path, bundle_folder: Path) -> Path:
    shutil.copytree(bundle_folder, folder)
    joblib.dump(model, folder / "difficulty.joblib")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"features": name, "files": digests(folder)}))
    return folder


def solver_of(folder: Path) -> Solver:
    return Solver(load_bundle(folder), Engines({"small": FakeGenerator()}, "small", FakeVerifier()))


@pytest.fixture
def by_digits(tmp_path: Path, bundle_folder: Path) -> Solver:
    """A bundle whose levels are a matter of digits: about 2 of them are easy, about 20 are hard."""
    counts = np.arange(100) % 20 + 1
    model = DifficultyModel("hidden_logistic")
    model.fit(np.array([[count, 0.0] for count in counts]), 1 - counts / 20)
    return solver_of(bundle_that_reads("digits", model, tmp_path / "bundle", bundle_folder))


async def test_a_bundle_that_names_them_decides_by_them(by_digits):
    easy, hard = [await by_digits.decide(Request(Prompt.of(prompt_of(n)), Budget(4))) for n in (2, 20)]
    assert (easy.level, hard.level) == (1, 5)
    assert easy.arm != hard.arm
    before = [{"role": "user", "content": prompt_of(19)}, {"role": "assistant", "content": "?"}]
    conversation = Prompt.read([*before, {"role": "user", "content": "3"}])
    assert (await by_digits.decide(Request(conversation, Budget(4)))).level == 5


async def test_a_whole_call_goes_through_them(by_digits):
    bill = by_digits.new_bill()
    solution = await by_digits.solve(Request(Prompt.of("7 + 7 =")), bill)
    assert solution.result.answer == "14"
    assert bill.line("small", "generator") == by_digits.engines.main.counted  # counting digits costs nothing


async def test_what_they_spend_is_on_the_bill(tmp_path, bundle_folder):
    model = load_bundle(bundle_folder).difficulty
    solver = solver_of(bundle_that_reads("drafts", model, tmp_path / "bundle", bundle_folder))
    bill = solver.new_bill()
    await solver.decide(Request(Prompt.of("7 + 7 =")), bill)
    assert isinstance(solver.engines.main, FakeGenerator)
    assert bill.line("small", "generator") == solver.engines.main.counted
    assert bill.generated_tokens == 5


async def test_what_they_spent_is_on_the_bill_also_when_they_fail(tmp_path, bundle_folder):
    async def break_down(prompts, engines, usage):
        await drafts(prompts, engines, usage)
        raise RuntimeError("broken")

    register("drafts", Features(break_down, vectors=False))
    model = load_bundle(bundle_folder).difficulty
    solver = solver_of(bundle_that_reads("drafts", model, tmp_path / "bundle", bundle_folder))
    bill = solver.new_bill()
    with pytest.raises(RuntimeError, match="broken"):
        await solver.decide(Request(Prompt.of("7 + 7 =")), bill)
    assert bill.generated_tokens == 5


@pytest.mark.long
def test_a_difficulty_model_is_trained_on_them():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(100):
        count = i % 10 + 1
        for sample in range(8):
            right = bool(rng.random() < 1 - count / 11)
            text = "What " + "is " * int(rng.integers(1, 20)) + prompt_of(count)  # its length says nothing
            rows.append({"prompt_id": f"p{i}", "sample": sample, "arm": "sample", "correct": right, "text": text})
    frame = pd.DataFrame(rows).astype({"correct": "boolean"})
    frame["prompt"] = frame.groupby("prompt_id")["text"].transform("first")
    frame = frame.assign(messages=None, scores=None)

    def vectors(prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
        counts = [[sum(map(str.isdigit, prompt.question))] for prompt in prompts]
        return {"digits": np.array(counts, dtype=np.float32)}

    model, trained = train(frame, vectors, folds=2)
    assert "hidden_logistic" in trained.comparison
    assert trained.features == ("digits" if model.input == "hidden" else "text")


def test_a_bundle_that_names_unknown_ones_is_refused(tmp_path, bundle_folder):
    model = load_bundle(bundle_folder).difficulty
    folder = bundle_that_reads("entrails", model, tmp_path / "bundle", bundle_folder)
    with pytest.raises(InvalidBundle, match="reads 'entrails'; this router knows text, hidden, digits, drafts"):
        solver_of(folder)
    assert features_of("digits").needs is None
