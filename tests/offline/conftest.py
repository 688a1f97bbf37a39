"""A bundle with revisions and a larger model, and its report: made once, they take a while."""

from pathlib import Path

import pytest

from router.evaluation.evaluate import evaluate
from router.evaluation.report import Goal, Report
from router.policy.objectives import TargetAccuracy
from tests.support.evaluation import WITH_LARGE, make_bundle, rich_world

GOALS = (
    Goal("savings_fixed_budget", at_least=1, low_at_least=0.5),
    Goal("savings_average_budget", at_least=1000),
    Goal("gap_recovered", at_least=0.5),
    Goal("budgets_below_best_fixed", at_most=0),
)


@pytest.fixture(scope="session")
def rich_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("rich"), rich_world("train", 20), setup=WITH_LARGE)


@pytest.fixture(scope="session")
def rich_report(rich_bundle: Path) -> Report:
    return evaluate(rich_world("held"), rich_bundle, objectives=[TargetAccuracy(0.65)], goals=GOALS)
