"""More models are more names in a bundle: arms ask them, bills name them, prices weigh them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.registry import load_engines
from router.backends.specs import VERIFIER, Deployment, Setup
from router.bundle.bundle import load_bundle
from router.bundle.manifest import digests
from router.bundle.setup import setup_json
from router.errors import InvalidRequest
from router.policy.objectives import Budget
from router.policy.table import LEVELS, Cell, Cost, Policy
from router.prompt import Prompt
from router.service import conversion
from router.solving.bill import Rate, rates_of
from router.solving.request import Request
from router.solving.solver import Solver
from strategies import parse
from tests.conftest import SETUP

ASKED = Prompt.of("7 + 7 =")
PRICES = {"small": (0.25, 1.0), "medium": (1.0, 4.0), "large": (5.0, 20.0)}
PARAMETERS = {"small": 1_000, "medium": 7_000, "large": 70_000}
MODELS = {name: replace(SETUP.main, parameters=parameters) for name, parameters in PARAMETERS.items()}
THREE = replace(SETUP, models=MODELS)
PRICED = replace(
    THREE,
    models={
        name: replace(spec, input_price=PRICES[name][0], output_price=PRICES[name][1]) for name, spec in MODELS.items()
    },
    verifier=replace(SETUP.verifier, input_price=0.125),
)
# What is best at each level: more models the harder it is.
BEST = [
    "single",
    "majority(n=4)",
    "single(model=medium)",
    "majority(n=2, model=large)",
    "single @0.95 > single(model=medium) @0.95 > single(model=large)",
]


def bundle_of(setup: Setup, folder: Path, bundle_folder: Path) -> Path:
    shutil.copytree(bundle_folder, folder)
    cells = [
        Cell(level, parse(arm), 0.9 if i == level - 1 else 0.3, 0.1, 1, 60, Cost(1, 10, 20, 0, 100 + i, 0, money=0.5))
        for level in LEVELS
        for i, arm in enumerate(BEST)
    ]
    policy = Policy(cells, Budget(4), deciding="mode", worth=setup.worth)
    (folder / "policy.json").write_text(policy.dumps())
    manifest = json.loads((folder / "manifest.json").read_text())
    document = manifest | {"setup": setup_json(setup), "files": digests(folder)}
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(params=["priced", "unpriced"])
def solver(request: pytest.FixtureRequest, tmp_path: Path, bundle_folder: Path) -> Solver:
    setup = PRICED if request.param == "priced" else THREE
    folder = bundle_of(setup, tmp_path / "bundle", bundle_folder)
    fake = Deployment(backends={"": "fake"})
    return Solver(load_bundle(folder), load_engines(setup, folder, fake), fake)


def test_what_a_solution_is_worth_is_by_price_else_by_parameters():
    assert THREE.worth == {"small": 1, "medium": 7, "large": 70}
    assert PRICED.worth == {"small": 1, "medium": 4, "large": 20}
    half = replace(PRICED, models=dict(PRICED.models) | {"large": MODELS["large"]})
    assert half.worth == THREE.worth  # prices count where all have one
    cascade = parse(BEST[-1])
    assert (cascade.budget(THREE.worth), cascade.budget(PRICED.worth)) == (78, 25)


async def test_each_level_asks_its_model(solver):
    models = []
    for terms in (2, 3, 4, 6, 8):
        sum_of_sevens = Prompt.of(" + ".join(["7"] * terms) + " =")
        solution = await solver.solve(Request(sum_of_sevens, Budget(solver.policy.largest)))
        assert str(solution.decision.arm) == BEST[solution.decision.level - 1]
        asked = {model for model, role in solution.bill.lines if role == "generator"}
        models.append(sorted(asked))
        assert asked <= {model or "small" for model in solution.decision.arm.models}
    assert models[:4] == [["small"], ["small"], ["medium"], ["large"]]
    assert "small" in models[4]


async def test_a_bill_is_by_model_and_role(solver):
    bill = solver.new_bill()
    arm = parse("majority(n=2) @1 > best_of_n(n=2, model=medium) @1 > single(model=large)")
    await solver.solve(Request(ASKED, arm=arm), bill)
    counted = {(name, "generator"): model.counted for name, model in solver.engines.models.items()}
    assert bill.lines == counted | {(VERIFIER, "verifier"): solver.engines.verifier.counted}
    read = {model: usage.prompt_tokens + usage.generated_tokens for (model, _), usage in bill.lines.items()}
    assert bill.flops(role="generator") == sum(2 * PARAMETERS[name] * read[name] for name in PARAMETERS)
    assert bill.flops(role="verifier") == 2 * 500 * bill.scored_tokens
    message = conversion.bill(bill)
    assert {(line.model, line.role): line.flops for line in message.lines} == {
        (name, "generator"): 2 * PARAMETERS[name] * read[name] for name in PARAMETERS
    } | {(VERIFIER, "verifier"): 2 * 500 * bill.scored_tokens}


async def test_money_is_counted_where_there_are_prices(solver):
    bill = solver.new_bill()
    await solver.solve(Request(ASKED, arm=parse("best_of_n(n=2) @1 > single(model=large)")), bill)
    message = conversion.bill(bill)
    if solver.bundle.setup == THREE:
        assert bill.money is None
        assert not message.HasField("money")
        assert not any(line.HasField("money") for line in message.lines)
        return
    expected = {
        name: PRICES[name][0] * bill.lines[name, "generator"].prompt_tokens
        + PRICES[name][1] * bill.lines[name, "generator"].generated_tokens
        for name in ("small", "large")
    } | {VERIFIER: 0.125 * bill.scored_tokens}
    assert {line.model: line.money for line in message.lines} == pytest.approx(expected)
    assert message.money == bill.money == pytest.approx(sum(expected.values()))


async def test_the_reference_model_may_be_asked_by_its_name(solver):
    named = await solver.solve(Request(ASKED, arm=parse("majority(n=2, model=small)")))
    assert named.decision.arm == parse("majority(n=2)")
    assert list(named.bill.lines) == [("small", "generator")]


async def test_a_candidate_names_the_model_that_wrote_it(solver):
    solution = await solver.solve(Request(ASKED, arm=parse("single @1 > majority(n=2, model=large)")))
    message = conversion.solution(solution, reference="small", candidates=True, call_id="c")
    assert [candidate.model for candidate in message.candidates] == ["small", "large", "large"]


def test_what_is_served_names_them(solver):
    message = conversion.served(solver.bundle, solver.policy)
    assert {model.name: (model.parameters, model.worth) for model in message.models} == {
        name: (PARAMETERS[name], solver.bundle.setup.worth[name]) for name in PARAMETERS
    }
    assert message.reference == "small"
    assert message.cells[0].cost.money == 0.5


async def test_only_the_models_that_are_wanted_are_loaded(tmp_path, bundle_folder):
    folder = bundle_of(THREE, tmp_path / "bundle", bundle_folder)
    fake = Deployment(backends={"": "fake"})
    assert list(load_engines(THREE, folder, fake, models=frozenset({"medium"})).models) == ["medium"]
    some = load_engines(THREE, folder, fake, models=frozenset({"small", "medium"}))
    assert list(some.models) == ["small", "medium"]
    assert (some.of("large"), some.of(None), some.of("medium").parameters) == (None, some.main, 7_000)
    solver = Solver(load_bundle(folder), some, fake)
    assert {str(arm) for arm in solver.left_out} == {BEST[3], BEST[4]}
    assert set(solver.left_out.values()) == {"the model 'large' is not served"}
    with pytest.raises(InvalidRequest, match="the model 'large' is not served"):
        await solver.solve(Request(ASKED, arm=parse("single(model=large)")))


def test_a_model_may_have_a_backend_of_its_own(tmp_path):
    where = Deployment(backends={"": "vllm", "small": "fake", "medium": "fake", "large": "fake"})
    assert [where.backend(name, spec) for name, spec in THREE.models.items()] == ["fake"] * 3
    engines = load_engines(THREE, tmp_path, replace(where, backends=dict(where.backends) | {VERIFIER: "fake"}))
    assert isinstance(engines, Engines)
    assert isinstance(engines.verifier, FakeVerifier)
    assert all(isinstance(model, FakeGenerator) for model in engines.models.values())


def test_rates_are_of_all_models():
    assert rates_of(PRICED) == {
        "small": Rate(1_000, 0.25, 1.0),
        "medium": Rate(7_000, 1.0, 4.0),
        "large": Rate(70_000, 5.0, 20.0),
        VERIFIER: Rate(500, 0.125),
    }
