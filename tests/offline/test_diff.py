"""What a person who reviews a policy is told."""

import json
import shutil
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from router.backends.specs import VerifierSpec
from router.bundle.bundle import read_policy
from router.bundle.manifest import digests, write_manifest
from router.cli.main import main
from router.evaluation.diff import Side, diff, read_side
from router.policy.objectives import Budget, BudgetPoint, PricePerFlop, TargetAccuracy
from router.policy.table import LEVELS, Cell, Cost, Policy
from strategies import parse

ARMS = ("majority(n=1)", "majority(n=4)", "beam_search(n=16, m=4)")
ACCURACY = {1: (0.9, 0.9, 0.9), 2: (0.8, 0.84, 0.86), 3: (0.6, 0.7, 0.75), 4: (0.4, 0.5, 0.6), 5: (0.1, 0.2, 0.5)}


def cells(arms=ARMS, **changed):
    """``changed``: accuracy at "level_arm number"."""
    return [
        Cell(
            level,
            arm,
            accuracy,
            accuracy - 0.05,
            accuracy + 0.05,
            60,
            Cost(arm.budget(), 10, 20, 0, 100 * arm.budget(), 7),
        )
        for level in LEVELS
        for i, arm in enumerate(map(parse, arms))
        for accuracy in [changed.get(f"l{level}_{i}", ACCURACY[level][i])]
    ]


def side(found=None, **options):
    given = {"budget_points": [BudgetPoint(1.0, 1.0), BudgetPoint(5.0, 0.02)], **options}
    return Side("p", Policy(found or cells(), given.pop("default", Budget(16)), **given), None)


def test_nothing_changed():
    found = diff(side(), side())
    assert found["same"]
    assert (found["choices"]["changed"], found["cells"]) == ([], {"same": 15, "changed": []})


def test_a_choice_that_changes_has_both_cells_and_all_the_budgets_it_changes_at():
    found = diff(side(), side(cells(l2_1=0.9)))
    (row, *others) = found["choices"]["changed"]
    assert (row["level"], row["objective"], row["upto"]) == (2, "budget=16", 16)
    assert (row["old"]["arm"], row["old"]["accuracy"], row["old"]["flops"]) == ("beam_search(n=16, m=4)", 0.86, 1607)
    assert (row["new"]["arm"], row["new"]["low"], row["new"]["generations"]) == ("majority(n=4)", 0.9 - 0.05, 4)
    assert {other["objective"] for other in others} <= {f"average_budget={2**i}" for i in range(4)}
    (cell,) = found["cells"]["changed"]
    assert (cell["level"], cell["arm"], cell["apart"]) == (2, "majority(n=4)", True)
    assert not found["same"]


def test_a_measurement_that_changes_no_choice_is_still_a_difference():
    found = diff(side(), side(cells(l5_0=0.12)))
    assert (found["same"], found["choices"]["changed"], found["cells"]["changed"][0]["apart"]) == (False, [], False)


def test_arms_come_and_go_and_budgets_are_refused():
    found = diff(side(cells(ARMS[:2]), default=Budget(4)), side(cells()))
    assert (found["arms_added"], found["arms_removed"]) == (["beam_search(n=16, m=4)"], [])
    refused = [row for row in found["choices"]["changed"] if row["old"] is None]
    assert [(row["level"], row["value"], row["upto"]) for row in refused] == [
        (level, start, upto) for level in LEVELS for start, upto in ([(5, 16)] if level == 1 else [(5, 15), (16, 16)])
    ]
    assert [row["name"] for row in found["settings"]] == ["default objective"]


def test_other_objectives_are_compared_where_they_are_a_default_or_asked_for():
    new = side(cells(l4_1=0.7), default=TargetAccuracy(0.6))
    found = diff(side(), new, [PricePerFlop(1e-9)])
    told = {row["objective"] for row in found["choices"]["changed"]}
    assert {"target_accuracy=0.6", "price_per_flop=1e-09"} <= told
    assert {"name": "default objective", "old": "budget=16", "new": "target_accuracy=0.6"} in found["settings"]


def test_tables_of_tasks_are_compared_with_what_decided_for_the_task_before():
    new = side(tasks={"code": cells(l2_1=0.9)})
    found = diff(side(), new)
    assert {"name": "tables by task", "old": None, "new": "code"} in found["settings"]
    assert {row["task"] for row in found["choices"]["changed"]} == {"code"}
    (cell,) = found["cells"]["changed"]
    assert (cell["task"], cell["level"], cell["arm"]) == ("code", 2, "majority(n=4)")
    assert not found["same"]
    assert diff(new, new)["same"]


@pytest.fixture
def other(bundle_folder, tmp_path):
    """A copy of the bundle; called with what to change in its manifest."""

    def make(**changes):
        folder = tmp_path / "other"
        shutil.copytree(bundle_folder, folder)
        manifest, _, policy = read_policy(folder)
        (folder / "policy.json").write_text(
            Policy(policy.cells, Budget(16), budget_points=policy.budget_points, worth=policy.worth).dumps()
        )
        setup = replace(manifest.setup, verifier=changes.pop("verifier", manifest.setup.verifier))
        write_manifest(folder, replace(manifest, setup=setup, files=digests(folder), **changes))
        return folder

    return make


def test_bundles_with_other_levels_or_models_are_not_compared_one_to_one(bundle_folder, other):
    folder = other(verifier=VerifierSpec("prm", None, 900), edges=(0.9, 0.7, 0.5, 0.3))
    found = diff(read_side(bundle_folder), read_side(folder))
    assert not found["comparable"]
    assert {row["name"]: (row["old"], row["new"]) for row in found["models"]} == {
        "edges": ([0.8, 0.6, 0.4, 0.2], [0.9, 0.7, 0.5, 0.3]),
        "verifier parameters": (500, 900),
    }


def router(*arguments):
    return CliRunner().invoke(main, ["diff", *map(str, arguments)])


def test_the_command_is_short_where_nothing_changed_and_exits_like_diff(bundle_folder, other):
    same = router(bundle_folder, bundle_folder)
    assert (same.exit_code, same.stdout.count("\n")) == (0, 1)
    folder = other()
    changed = router(bundle_folder, folder)
    assert changed.exit_code == 1
    assert "default objective: budget=4 → budget=16\ndeciding: mode → distribution" in changed.stdout
    assert "both are only listed" not in changed.stdout
    report = json.loads(router(bundle_folder, folder, "--json").stdout)
    assert report["comparable"]
    files = router(bundle_folder / "policy.json", folder / "policy.json")
    assert "doesn't say which difficulty model" in files.stdout


def test_the_command_shows_both_cells_of_a_choice(tmp_path):
    for name, each in (("old", side()), ("new", side(cells(l2_1=0.9)))):
        (tmp_path / f"{name}.json").write_text(each.policy.dumps())
    shown = router(tmp_path / "old.json", tmp_path / "new.json").stdout
    assert "level 2, budget=16\n  - beam_search(n=16, m=4)          0.860 [0.810, 0.910] on 60 prompts" in shown
    assert (
        "\n  + majority(n=4)                   0.900 [0.850, 0.950] on 60 prompts, 4.0 generations, 407 FLOPs" in shown
    )
    assert "1 of 15 cells in both were measured otherwise" in shown


def test_seconds_that_differ_alone_are_counted_alone(tmp_path):
    timed = side(cells(l2_1=0.9)).policy.with_seconds(lambda task, cell: 1.5 if str(cell.arm) == ARMS[1] else None)
    for name, policy in (("old", side().policy), ("new", timed)):
        (tmp_path / name).write_text(policy.dumps())
    shown = router(tmp_path / "old", tmp_path / "new").stdout
    assert "seconds alone differ in 4 of 15 cells in both" in shown
    assert "1 of 15 cells in both were measured otherwise, accuracy by up to 0.060" in shown
    (tmp_path / "new").write_text(side().policy.with_seconds(lambda task, cell: 1.5).dumps())
    shown = router(tmp_path / "old", tmp_path / "new").stdout
    assert "seconds alone differ in 15 of 15 cells in both" in shown
    assert "measured otherwise" not in shown


@pytest.mark.parametrize("arguments", [("nowhere", "."), (".", "."), ("README.md", "README.md")])
def test_trouble_is_neither_same_nor_different(arguments):
    result = router(*arguments)
    assert (result.exit_code, result.stderr.count("\n"), result.stdout) == (2, 1, "")


def test_a_wrong_objective_is_trouble(bundle_folder):
    assert router(bundle_folder, bundle_folder, "--objective", "luck=1").exit_code == 2


def test_two_plans_are_explained_in_the_report_and_on_the_screen(tmp_path):
    for name, arm in (
        ("old", "single @0.7 > majority(n=4)"),
        ("new", "single @0.5 > majority(n=2) @0.5 > majority(n=2)"),
    ):
        rows = cells(("single", arm), **{f"l{level}_1": 0.95 for level in LEVELS})
        (tmp_path / name).write_text(Policy(rows, Budget(4)).dumps())
    result = CliRunner().invoke(main, ["diff", str(tmp_path / "old"), str(tmp_path / "new")])
    told = "runs majority(n=2) > majority(n=2) instead of majority(n=4); ends at 0.5 instead of 0.7"
    assert told in result.output
    found = diff(read_side(tmp_path / "old"), read_side(tmp_path / "new"))
    assert told in {row["explained"] for row in found["choices"]["changed"]}
