"""A policy with a table for each of some tasks: the same arms, under the same prices."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from router.bundle.bundle import load_bundle
from router.bundle.manifest import digests
from router.bundle.setup import setup_json
from router.errors import InvalidBundle
from router.policy.objectives import AverageBudget, Budget, BudgetPoint, PricePerFlop, TargetAccuracy
from router.policy.table import LEVELS, Cell, Cost, Policy
from strategies import parse
from tests.conftest import SETUP

ARMS = ("majority(n=1)", "majority(n=4)", "best_of_n(n=4)")
BEST = {"": (0.4, 0.6, 0.6), "code": (0.4, 0.5, 0.9), "choice": (0.4, 0.41, 0.41)}
POINTS = [BudgetPoint(1.0, 1.0), BudgetPoint(2.5, 0.02)]


def cells(accuracies):
    return [
        Cell(level, arm, accuracy, accuracy, accuracy, 60, Cost(arm.budget(), 10, 20, 0, 100 * arm.budget(), 0))
        for level in LEVELS
        for arm, accuracy in zip(map(parse, ARMS), accuracies, strict=True)
    ]


def mixed(**options):
    own = {name: cells(BEST[name]) for name in ("code", "choice")}
    return Policy(cells(BEST[""]), Budget(4), budget_points=POINTS, worth={"small": 1.0}, tasks=own, **options)


def chosen(policy, objective):
    return str(policy.decide((0.2,) * 5, objective).arm)


def test_a_prompt_is_decided_by_the_table_of_its_task():
    policy = mixed()
    assert chosen(policy.for_task("code"), Budget(4)) == "best_of_n(n=4)"
    assert chosen(policy.for_task("choice"), AverageBudget(2.5)) == "majority(n=1)"
    assert chosen(policy.for_task("code"), AverageBudget(2.5)) == "best_of_n(n=4)"
    assert policy.for_task("code").budget_points == policy.budget_points
    assert policy.for_task("math") is policy.for_task(None) is policy


@pytest.mark.parametrize("objective", [Budget(4), AverageBudget(2.5), TargetAccuracy(0.5), PricePerFlop(1e-4)])
def test_many_prompts_of_several_tasks_are_decided_as_each_alone(objective):
    policy = mixed()
    tasks = np.array(["code", "math", "choice", "code"])
    probabilities = np.random.default_rng(0).dirichlet(np.ones(5), len(tasks))
    together = [policy.arms[k] for k in policy.decide_many(probabilities, objective, tasks)]
    alone = [
        policy.for_task(task).decide(row, objective).arm
        for task, row in zip(tasks, probabilities.tolist(), strict=True)
    ]
    assert together == alone


def test_each_prompt_belongs_to_one_table():
    policy = mixed()
    found = {id(table): rows.tolist() for rows, table in policy.tables(np.array(["choice", "math", "choice"]))}
    assert found == {id(policy.for_task("choice")): [0, 2], id(policy): [1]}


def test_tables_of_tasks_are_written_and_read():
    policy = mixed(deciding="mode", tolerance=0.01)
    text = policy.dumps()
    read = Policy.loads(text)
    assert {name: table.cells for name, table in read.tasks.items()} == {
        name: table.cells for name, table in policy.tasks.items()
    }
    assert (read.cells, read.for_task("code").tolerance) == (policy.cells, 0.01)
    assert sum('"level"' in line for line in text.splitlines()) == 45  # a cell a line, for diffs


def test_a_task_of_ones_own_may_have_a_table():
    """Its name is where its class is found."""
    own = Policy(cells(BEST[""]), Budget(4), budget_points=POINTS, tasks={"my_tasks:Sums": cells(BEST["code"])})
    assert set(Policy.loads(own.dumps()).tasks) == {"my_tasks:Sums"}


def test_what_is_changed_is_changed_in_all_tables():
    policy = mixed().only(lambda arm: arm.name == "majority").with_default(AverageBudget(1))
    assert set(map(str, policy.for_task("code").arms)) == {"majority(n=1)", "majority(n=4)"}
    assert policy.for_task("code").default == AverageBudget(1)
    priced = policy.with_budget_points([BudgetPoint(1.0, 0.5)])
    assert priced.for_task("choice").budget_points == priced.budget_points == (BudgetPoint(1.0, 0.5),)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tasks: tasks["code"].pop(), r"policy: tasks\.code: needs exactly one cell"),
        (lambda tasks: tasks.update(code=[]), r"policy: tasks\.code"),
        (lambda tasks: tasks["code"][3].update(accuracy=1.5), r"policy: tasks\.code\.3\.accuracy: .*found 1\.5"),
        (lambda tasks: tasks["choice"][0].pop("low"), r"policy: tasks\.choice\.0\.low: is missing"),
        (lambda tasks: tasks["choice"][0].update(colour=1), r"policy: tasks\.choice\.0\.colour"),
        (
            lambda tasks: [row.update(arm=row["arm"].replace("n=4", "n=8")) for row in tasks["code"]],
            r"policy: tasks\.code: lacks cells of .*n=4.*, unlike the table of all tasks",
        ),
        (lambda tasks: [row.update(prompts=0) for row in tasks["code"]], r"tasks\.code: no prompts at any level"),
    ],
)
def test_a_bad_table_of_a_task_is_refused(damage, message):
    document = json.loads(mixed().dumps())
    damage(document["tasks"])
    with pytest.raises(InvalidBundle, match=message):
        Policy.loads(json.dumps(document))


def test_a_bundle_has_tables_of_its_own_tasks_only(bundle_folder, tmp_path):
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    document = json.loads((folder / "policy.json").read_text())

    def written(*tasks):
        (folder / "policy.json").write_text(json.dumps(document | {"tasks": dict.fromkeys(tasks, document["cells"])}))
        manifest = json.loads((folder / "manifest.json").read_text())
        changed = {"setup": setup_json(replace(SETUP, task=("math", "code"))), "files": digests(folder)}
        (folder / "manifest.json").write_text(json.dumps(manifest | changed))
        return folder

    assert set(load_bundle(written("math", "code")).policy.tasks) == {"math", "code"}
    with pytest.raises(InvalidBundle, match=r"policy\.json: tasks\.choice: the bundle has no such task"):
        load_bundle(written("math", "choice"))
