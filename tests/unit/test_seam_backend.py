"""An engine of one's own is a module and a line: its models load, and arms that it can't run are left out and named.

This file is such a module: it writes whole solutions, and can't continue a prefix or show earlier attempts.
"""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from router.backends import Engines, Generator
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.registry import _BACKENDS, BACKENDS, Backend, load_engines, register, why_not
from router.backends.specs import Deployment, ModelSpec, VerifierSpec
from router.bundle.bundle import Bundle, load_bundle
from router.bundle.manifest import digests
from router.errors import InvalidBundle, InvalidRequest, MissingDependency, MissingWeights
from router.policy.objectives import Budget
from router.prompt import Prompt
from router.service import conversion
from router.solving.request import Request
from router.solving.solver import Solver
from strategies import parse
from tests.conftest import SETUP

WHOLE = Deployment(backends={"": "whole"})


class Whole(FakeGenerator):
    async def extend(self, prompt, candidates, *, steps, **options):
        assert steps is None
        assert not any(candidate.tokens or candidate.earlier for candidate in candidates)
        return await super().extend(prompt, candidates, steps=steps, **options)


def load_model(name: str, spec: ModelSpec, folder: Path, deployment: Deployment, *, log_probs: bool = True) -> Whole:
    return Whole(parameters=spec.parameters, name=name)


def load_verifier(
    spec: VerifierSpec, main: ModelSpec, writer: Generator | None, folder: Path, deployment: Deployment
) -> FakeVerifier:
    return FakeVerifier(parameters=spec.parameters)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register("whole", Backend(__name__, frozenset()))
    yield
    del _BACKENDS["whole"]


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return load_bundle(bundle_folder)


@pytest.fixture
def engines(bundle: Bundle) -> Engines:
    return load_engines(bundle.setup, bundle.folder, WHOLE)


def test_models_are_closed_where_what_follows_them_does_not_load(bundle, monkeypatch):
    closed: list[str] = []

    async def close(self) -> None:
        closed.append(self.name)

    monkeypatch.setattr(Whole, "close", close)

    def load_no_verifier(*_):
        raise MissingWeights("no verifier here")

    monkeypatch.setattr(sys.modules[__name__], "load_verifier", load_no_verifier)
    with pytest.raises(MissingWeights, match="no verifier here"):
        load_engines(bundle.setup, bundle.folder, WHOLE)
    assert closed == ["small"]


def test_its_models_load(engines):
    assert isinstance(engines.main, Whole)
    assert (engines.main.name, engines.main.parameters, engines.verifier.parameters) == ("small", 1_000, 500)


def test_a_bundle_may_name_it(bundle_folder, tmp_path):
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["setup"]["models"]["small"]["backend"] = "whole"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    bundle = load_bundle(folder)
    assert isinstance(load_engines(bundle.setup, folder, Deployment()).main, Whole)
    assert not isinstance(load_engines(bundle.setup, folder, Deployment(backends={"small": "fake"})).main, Whole)


def test_arms_that_it_cannot_run_are_left_out_and_said_so(bundle, engines, caplog):
    with caplog.at_level(logging.WARNING):
        solver = Solver(bundle, engines, WHOLE)
    left = {"beam_search", "dvts", "lookahead", "revision"}
    assert {arm.name for arm in solver.left_out} == left
    assert {arm.name for arm in solver.policy.arms} == {arm.name for arm in bundle.policy.arms} - left
    assert set(solver.policy.arms) | set(solver.left_out) == set(bundle.policy.arms)
    steps, revisions = (
        f"the backend 'whole' of the model 'small' lacks the capability {each!r}" for each in ("steps", "revisions")
    )
    assert {arm.name: reason for arm, reason in solver.left_out.items()} == dict.fromkeys(left, steps) | {
        "revision": revisions
    }
    said = sorted(record.getMessage() for record in caplog.records)
    assert said == [
        f"{bundle.id}: 1 arms are left out, since {revisions}: revision(n=4, chains=2)",
        f"{bundle.id}: 3 arms are left out, since {steps}: beam_search(n=16, m=4), dvts(n=16, m=4), "
        "lookahead(n=8, m=4, k=1)",
    ]
    assert {cell.arm.strategy for cell in conversion.served(bundle, solver.policy).cells} & left == set()


async def test_the_other_arms_answer(bundle, engines):
    solver = Solver(bundle, engines, WHOLE)
    for terms in (2, 3, 4, 6, 8):
        solution = await solver.solve(Request(Prompt.of(" + ".join(["7"] * terms) + " ="), objective=Budget(8)))
        assert solution.decision.arm in solver.policy.arms
        assert solution.result.answer is not None


async def test_an_arm_that_a_caller_pins_is_refused_alike(bundle, engines):
    solver = Solver(bundle, engines, WHOLE)
    for text, lacking in [("dvts(n=4, m=2)", "steps"), ("single @0.5 > revision(n=4, chains=2)", "revisions")]:
        with pytest.raises(InvalidRequest, match=f"lacks the capability '{lacking}'") as raised:
            await solver.solve(Request(Prompt.of("7 + 7 ="), arm=parse(text)))
        assert (raised.value.field, raised.value.reason) == ("options.arm", "ARM_INVALID")
    assert (await solver.solve(Request(Prompt.of("7 + 7 ="), arm=parse("majority(n=4)")))).result.answer == "14"


def test_nothing_is_left_out_where_everything_can_be_run(bundle, engines, caplog):
    solver = Solver(bundle, engines, Deployment(backends={"": "fake"}))
    assert (solver.left_out, solver.policy) == ({}, bundle.policy)
    assert not caplog.records


def test_each_stage_of_a_cascade_needs_what_its_own_model_can():
    setup = replace(SETUP, models={"small": SETUP.main, "large": SETUP.main})
    one = Deployment(backends={"small": "fake", "large": "whole"})
    assert why_not(parse("beam_search(n=4, m=2) @0.7 > single(model=large)"), setup, one) is None
    reason = why_not(parse("single @0.7 > beam_search(n=4, m=2, model=large)"), setup, one)
    assert reason == "the backend 'whole' of the model 'large' lacks the capability 'steps'"


def test_where_the_verifier_goes_by_log_probabilities_the_backend_has_to_give_them():
    setup = replace(SETUP, verifier=VerifierSpec("log_prob", None, 0))
    lacks = "the backend 'whole' of the model 'small' lacks the capability 'log_probs'"
    for text in ("best_of_n(n=4)", "majority(n=4) @0.7 > single"):
        assert why_not(parse(text), setup, WHOLE) == lacks
        assert why_not(parse(text), SETUP, WHOLE) is None
        assert why_not(parse(text), setup, Deployment(backends={"": "fake"})) is None
    assert why_not(parse("majority(n=4)"), setup, WHOLE) is None


def test_a_policy_of_which_nothing_can_be_run_is_refused(bundle_folder, tmp_path):
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    bundle = load_bundle(folder)
    trees = bundle.policy.with_default(Budget(16)).only(lambda arm: arm.needs_steps)
    (folder / "policy.json").write_text(trees.dumps())
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"files": digests(folder)}))
    with pytest.raises(InvalidBundle, match="no arm can be run here: the backend 'whole'"):
        Solver(load_bundle(folder), load_engines(SETUP, folder, WHOLE), WHOLE)


def test_what_is_wrong_with_a_deployment_is_said(bundle):
    for wrong, message in [
        (Deployment(backends={"huge": "whole"}), "the bundle has no model 'huge'; it has small, verifier"),
        (Deployment(urls={"huge": ("http://a",)}), "the bundle has no model 'huge'"),
        (Deployment(urls={"small": ("http://a",)}, backends={"": "fake"}), "the backend of 'small' calls no server"),
        (Deployment(backends={"": "unheard_of"}), f"unknown backend 'unheard_of'; known: {', '.join(BACKENDS)}"),
    ]:
        with pytest.raises(InvalidRequest, match=message):
            load_engines(bundle.setup, bundle.folder, wrong)


def test_a_module_that_needs_a_package_says_which_extra_brings_it(bundle, monkeypatch):
    register("whole", Backend("torch.no_such_module", frozenset()))
    with pytest.raises((MissingDependency, ModuleNotFoundError)):
        load_engines(bundle.setup, bundle.folder, WHOLE)
