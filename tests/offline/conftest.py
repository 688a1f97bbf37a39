"""Bundles of small worlds, and a report: made once, they take a while."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from router.evaluation.evaluate import evaluate
from router.evaluation.report import Goal, Report
from router.policy.objectives import TargetAccuracy
from tests.support.evaluation import WITH_LARGE, make_bundle, rich_world, world

GOALS = (
    Goal("savings_fixed_budget", at_least=1, low_at_least=0.5),
    Goal("savings_average_budget", at_least=1000),
    Goal("gap_recovered", at_least=0.5),
    Goal("budgets_below_best_fixed", at_most=0),
    Goal("accuracy_at_larger_cost", at_least=2),
    Goal("below_best_fixed", at_most=-1),
    Goal("confidence_error", at_most=1),
    Goal("confidence_bins_off", at_most=-1),
)


@pytest.fixture(scope="package", autouse=True)
def quick_tuning() -> Iterator[None]:
    """The same rules on fewer halvings, and cascades of fewer arms: tuning takes a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("router.tuning.tables.SPLITS", 4)
        patch.setattr("router.tuning.cascades.ATOMS", 4)
        yield


@pytest.fixture(scope="package")
def plain_bundle(quick_tuning: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a hundred prompts, sampled and searched. Tests that write into it take a copy."""
    return make_bundle(tmp_path_factory.mktemp("plain"), world("train", 20))


@pytest.fixture(scope="package")
def rich_bundle(quick_tuning: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With revisions and a larger model."""
    return make_bundle(tmp_path_factory.mktemp("rich"), rich_world("train", 20), setup=WITH_LARGE)


@pytest.fixture(scope="package")
def rich_report(rich_bundle: Path) -> Report:
    return evaluate(rich_world("held"), rich_bundle, objectives=[TargetAccuracy(0.65)], goals=GOALS)
