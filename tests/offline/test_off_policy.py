"""Valuing a policy from another one's log: against a truth that is known, and on what a real server wrote."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import sqlalchemy as sql
from typer.testing import CliRunner

from router.cli.main import main
from router.errors import InvalidRequest
from router.evaluation.estimators import Logged, effective_size, estimators, importance, intervals, predict
from router.evaluation.off_policy import estimate
from router.outcomes import tables as database
from router.policy.objectives import Budget
from router.policy.table import LEVELS, Cell, Cost, Policy
from router.prompt import Prompt
from router.service.recorder import Recorder
from strategies import parse

ARMS = ("majority(n=1)", "majority(n=4)", "beam_search(n=4, m=4)")


class World:
    """Eight kinds of prompts whose accuracy under each of four arms is known; a policy that explores serves them."""

    explore = 0.4

    def __init__(self, seed=0):
        rng = np.random.default_rng(seed)
        self.probabilities = rng.dirichlet(np.ones(5), size=8)
        self.accuracy = rng.random((8, 4))  # no model of the levels knows it
        self.greedy, self.target = rng.integers(4, size=8), rng.integers(4, size=8)
        self.truth = self.accuracy[np.arange(8), self.target].mean()

    def draw(self, n, rng):
        """What was logged, how it turned out, and what the target would have taken."""
        kind = rng.integers(8, size=n)
        taken = np.where(rng.random(n) < self.explore, rng.integers(4, size=n), self.greedy[kind])
        propensity = self.explore / 4 + (1 - self.explore) * (taken == self.greedy[kind])
        outcome = (rng.random(n) < self.accuracy[kind, taken]).astype(float)
        log = Logged(self.probabilities[kind], taken, propensity, np.arange(n), np.ones(n))
        return log, outcome, self.target[kind]


@pytest.mark.long
def test_estimates_are_unbiased_and_their_intervals_cover_the_truth():
    world, rng, runs = World(), np.random.default_rng(1), 150
    found = []
    for run in range(runs):
        log, outcome, target = world.draw(400, rng)
        expected, expected_taken = predict(log, outcome[:, None], [target, log.taken], seed=run)
        ratios = estimators(log, outcome, target, expected[:, 0], expected_taken[:, 0])
        found.append(intervals(ratios, log.prompt, resamples=200, seed=run))
    values = {name: np.array([each[name]["value"] for each in found]) for name in found[0]}
    for name in ("ips", "snips", "dr"):
        error = values[name].std() / np.sqrt(runs)
        assert abs(values[name].mean() - world.truth) < 3 * error, name
        covered = np.mean([each[name]["low"] <= world.truth <= each[name]["high"] for each in found])
        assert 0.9 <= covered <= 0.99, name  # of 150, 95% is 143 with a standard deviation of 2.7
    assert values["dr"].var() < values["ips"].var() / 2


def test_doubly_robust_needs_the_model_or_the_propensities_but_not_both():
    world, rng = World(), np.random.default_rng(2)
    log, outcome, target = world.draw(200_000, rng)
    kind = (log.probabilities[:, None, 0] == world.probabilities[:, 0]).argmax(axis=1)
    perfect = world.accuracy[kind, target], world.accuracy[kind, log.taken]
    useless = np.full(len(outcome), 0.2), np.full(len(outcome), 0.2)
    wrong = Logged(log.probabilities, log.taken, np.full(len(outcome), 0.5), log.prompt, log.weight)

    def value(log, expected, name):
        numerator, denominator = estimators(log, outcome, target, *expected)[name]
        return numerator.sum() / denominator.sum()

    assert value(log, useless, "dr") == pytest.approx(world.truth, abs=0.01)
    assert value(wrong, perfect, "dr") == pytest.approx(world.truth, abs=0.01)
    assert abs(value(wrong, useless, "dr") - world.truth) > 0.03
    assert abs(value(wrong, useless, "ips") - world.truth) > 0.03
    assert abs(value(log, useless, "direct") - world.truth) > 0.03


def test_estimates_by_hand():
    log = Logged(np.eye(5)[:4], np.array([0, 1, 1, 0]), np.array([0.5, 0.5, 0.25, 1.0]), np.arange(4), np.ones(4))
    outcome, target = np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 1, 1, 1])
    weights = importance(log, target)
    assert weights.tolist() == [2, 2, 4, 0]
    ratios = estimators(log, outcome, target, np.full(4, 0.5), np.array([0.5, 0.5, 0.75, 0.5]))
    found = {name: numerator.sum() / denominator.sum() for name, (numerator, denominator) in ratios.items()}
    assert found == {"ips": 6 / 4, "snips": 6 / 8, "direct": 0.5, "dr": (0.5 * 4 + 2 * 0.5 - 2 * 0.5 + 4 * 0.25) / 4}
    assert effective_size(weights) == 64 / 24


@pytest.mark.parametrize(("weights", "size"), [([1, 1, 1], 3), ([5, 0, 0], 1), ([0, 0], 0), ([0.1] * 7, 7)])
def test_the_effective_size_of_equal_weights_is_their_number(weights, size):
    assert effective_size(np.array(weights, dtype=float)) == pytest.approx(size)


def test_calls_at_one_prompt_are_one_draw():
    rng = np.random.default_rng(0)
    per_prompt = rng.random(40)
    once = {"mean": (per_prompt, np.ones(40))}
    often = {"mean": (np.repeat(per_prompt, 10), np.ones(400))}
    assert intervals(often, np.repeat(np.arange(40), 10)) == {
        "mean": pytest.approx(intervals(once, np.arange(40))["mean"])
    }


def test_a_prompt_is_not_expected_from_its_own_outcome():
    rng = np.random.default_rng(0)
    n = 60
    log = Logged(rng.dirichlet(np.ones(5), n), np.zeros(n, int), np.ones(n), np.repeat(np.arange(20), 3), np.ones(n))
    outcome = rng.random((n, 1))
    (before,) = predict(log, outcome, [log.taken])
    outcome[log.prompt == 7] += 100
    (after,) = predict(log, outcome, [log.taken])
    own = log.prompt == 7
    assert np.allclose(before[own], after[own])
    assert not np.allclose(before[~own], after[~own])


# The log in its database.


def policy(best, default=4):
    """Takes ``best`` at every level, within the budget."""
    return Policy(
        [
            Cell(level, parse(arm), 0.9 if arm == best else 0.5, 0.1, 0.95, 60, Cost(1, 10, 20, 0, 100, 0))
            for level in LEVELS
            for arm in {*ARMS, best}
        ],
        Budget(default),
    )


def row(number, arm=ARMS[1], choice=ARMS[1], **changes):
    """A decision of a policy that always chooses ``choice`` and explores three arms half of the time."""
    return {
        "caller": "ann",
        "call_id": f"call-{number}",
        "at": datetime(2026, 1, 1, tzinfo=UTC),
        "method": "Solve",
        "bundle": "b@1",
        "prompt_sha256": f"{number:064}",
        "prompt": None,
        "level": 1,
        "probabilities": np.random.default_rng(number).dirichlet(np.ones(5)).tolist(),
        "arm": arm,
        "propensity": 0.5 / 3 + 0.5 * (arm == choice),
        "code": "OK",
        "reason": "",
        "prompt_tokens": 10,
        "generated_tokens": 100 * (1 + ARMS.index(arm)) if arm in ARMS else 0,
        "scored_tokens": 0,
        "flops": 1e6,
        "seconds": 0.5,
        "objective": "budget",
        "objective_value": 4.0,
        "objective_given": False,
        "choice": choice,
        "explore": 0.5,
        "levels_by": "here",
    } | changes


def explored(count, right, seed=0, **changes):
    """Rows whose arms are drawn as :func:`row` says, right with the probability ``right[arm]``."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        arm = str(rng.choice(ARMS)) if rng.random() < 0.5 else ARMS[1]
        yield row(number, arm, **changes), bool(rng.random() < right[arm])


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/log.db"


def write(url, rows):
    """Rows and what became of them: None, a bool, or a score."""
    Recorder(url).close()
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        for decision, told in rows:
            connection.execute(sql.insert(database.decisions), [decision])
            if told is not None:
                learned = {"correct": told} if isinstance(told, bool) else {"score": told}
                its = {name: decision[name] for name in ("caller", "call_id", "at")}
                connection.execute(sql.insert(database.outcomes), [its | learned])
    engine.dispose()


RIGHT = dict(zip(ARMS, (0.3, 0.5, 0.8), strict=True))


def test_a_policy_is_valued_beside_the_one_that_logged(url):
    write(url, explored(900, RIGHT))
    found = estimate(url, policy(ARMS[2]))
    value = found["outcome"]
    for name in ("dr", "snips", "ips"):
        assert value[name]["low"] < 0.8 < value[name]["high"]
    assert value["before"]["low"] < 0.5 < value["before"]["high"]
    assert value["gain"]["low"] < 0.3 < value["gain"]["high"]
    assert value["gain"]["low"] > 0.1
    assert found["cost"]["generated_tokens"]["dr"]["value"] == pytest.approx(300, abs=15)
    assert found["cost"]["generated_tokens"]["before"]["value"] == pytest.approx(200, abs=5)
    assert found["effective"] == pytest.approx(900 / 6, rel=0.2)
    assert (found["used"], found["changed"], found["warnings"]) == (900, 1.0, [])


def test_each_decision_is_valued_by_the_table_of_its_task(url):
    own = policy(ARMS[2])
    mixed = Policy(policy(ARMS[1]).cells, Budget(4), tasks={"code": own.cells})
    rows = list(explored(300, RIGHT))
    write(url, [(each | {"task": ("code", "math", None)[i % 3]}, told) for i, (each, told) in enumerate(rows)])
    found = estimate(url, mixed)
    assert found["changed"] == pytest.approx(1 / 2, abs=0.01)
    assert found["left_out"] == {"of an earlier version, which did not record what was asked": 100}


@pytest.mark.parametrize("limit", [0.05, 1.0])
def test_arms_that_were_never_explored_are_no_estimate(url, limit):
    write(url, explored(200, RIGHT))
    with pytest.raises(InvalidRequest, match=r"100\.0% of the decisions .*dvts\(n=4, m=4\) 100\.0%.*--explore"):
        estimate(url, policy("dvts(n=4, m=4)"), unsupported=limit)


def test_the_budget_of_a_call_bounds_what_it_could_explore(url):
    small = [(row(i, ARMS[0], ARMS[0], objective_value=1.0, propensity=1.0), True) for i in range(1000, 1010)]
    write(url, [*explored(190, RIGHT), *small])
    found = estimate(url, policy(ARMS[2]))  # its default is 4; ten calls had 1 as their bundle's default
    assert found["unsupported"] == {"share": 0.05, "arms": {ARMS[2]: 0.05}}
    assert found["used"] == 190
    assert "5.0% of the decisions would go to arms that were never explored" in found["warnings"][0]
    with pytest.raises(InvalidRequest, match="can't value this policy"):
        estimate(url, policy(ARMS[2]), unsupported=0.04)


def test_a_cascade_is_the_one_that_a_target_accuracy_runs(url):
    """The log has the cascade with the caller's threshold, the policy lists it with another one."""
    listed, ran = (f"majority(n=1) @{threshold} > beam_search(n=4, m=4)" for threshold in ("0.5", "0.8"))
    asked = {"objective": "target_accuracy", "objective_value": 0.8, "objective_given": True}
    write(url, [(row(n, ran, ran, **asked), n % 4 > 0) for n in range(60)])
    found = estimate(url, policy(listed))
    assert found["unsupported"]["share"] == 0
    assert found["decisions"] == 60


def test_calls_that_the_new_policy_would_refuse_are_named(url):
    write(
        url,
        [*explored(190, RIGHT), *[(row(i, objective_value=16.0, objective_given=True), True) for i in range(900, 910)]],
    )
    found = estimate(url, policy(ARMS[2]))
    assert (found["refused"], found["used"]) == (0.05, 190)
    assert "10 calls would be refused by the new policy: budget 16 is outside" in found["warnings"][0]


def test_a_stopped_call_gave_no_answer_and_a_known_outcome_stands_for_the_unknown(url):
    rows = [(row(i), True if i % 2 else None) for i in range(90)]
    rows += [(row(i, code="DEADLINE_EXCEEDED"), None) for i in range(90, 100)]
    rows += [(row(i, code="UNAVAILABLE"), None) for i in range(100, 110)]
    write(url, rows)
    found = estimate(url, policy(ARMS[1]))
    assert found["outcome"]["logged"]["value"] == pytest.approx(0.9)
    assert (found["used"], found["left_out"]) == (
        55,
        {"failed for no reason of the arm's": 10, "without an outcome (correct)": 45},
    )


def test_scores_and_what_is_left_out(url):
    rows = [(decision, 0.25 + 0.5 * told) for decision, told in explored(100, RIGHT)]
    rows += [
        (row(200, method="Route"), 0.5),
        (row(201, propensity=None, choice=None, objective=None), 0.5),
        (row(202, objective=None, objective_value=None, explore=None, choice=None), 0.5),
        (row(203, explore=0.0), 0.5),
        (row(204, levels_by="elsewhere", at=datetime(2025, 1, 1, tzinfo=UTC)), 0.5),
    ]
    write(url, rows)
    found = estimate(url, policy(ARMS[1]), outcome="score")
    assert (found["used"], sum(found["left_out"].values()), len(found["left_out"])) == (100, 5, 5)
    assert 0.25 < found["outcome"]["snips"]["value"] < 0.75
    with pytest.raises(InvalidRequest, match="recorded as score: use --reward score"):
        estimate(url, policy(ARMS[1]))


def test_levels_of_another_model_are_predicted_again_where_the_prompt_is_on_record(url):
    chat = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "4?"},
    ]
    rows = list(explored(60, RIGHT, prompt="a prompt"))
    rows[0][0].update(prompt="4?", messages=chat)
    write(url, rows)
    asked = []

    def predict_levels(prompts):
        asked.extend(prompts)
        return np.full((len(prompts), 5), 0.2)

    found = estimate(url, policy(ARMS[1]), levels_by="new", predict_levels=predict_levels)
    assert (asked.count(Prompt.of("a prompt")), asked.count(Prompt.read(chat)), found["used"]) == (59, 1, 60)
    with pytest.raises(InvalidRequest, match="60 on another difficulty model's levels"):
        estimate(url, policy(ARMS[1]), levels_by="new")


def test_outcomes_recorded_by_arm_give_themselves_away(url):
    write(
        url,
        (
            (decision, told if decision["arm"] == ARMS[1] or i % 4 == 0 else None)
            for i, (decision, told) in enumerate(explored(900, RIGHT))
        ),
    )
    (warning,) = estimate(url, policy(ARMS[2]))["warnings"]
    assert "should be 1: outcomes are recorded more often for some arms" in warning


def test_few_decisions_are_a_warning(url):
    write(url, explored(40, RIGHT))
    (warning,) = estimate(url, policy(ARMS[0]))["warnings"]
    assert "decisions, too few" in warning


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "it is empty"),
        ([(row(i, explore=0.0, propensity=1.0), True) for i in range(5)], "5 made without exploring.*--explore"),
        ([(row(i), None) for i in range(5)], r"5 without an outcome \(correct\).*RecordOutcome"),
        ([(row(i, prompt_sha256="same"), True) for i in range(5)], "at one prompt"),
    ],
)
def test_a_log_that_says_nothing_says_why(url, rows, message):
    write(url, rows)
    with pytest.raises(InvalidRequest, match=message):
        estimate(url, policy(ARMS[1]))


def test_the_command(url, tmp_path):
    write(url, explored(300, RIGHT))
    (tmp_path / "new.json").write_text(policy(ARMS[2]).dumps())
    arguments = ["estimate", str(tmp_path / "new.json"), "--outcomes", url]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0
    for words in (
        "takes another arm at 100.0%",
        "new policy, doubly robust",
        "effective sample size",
        "tokens of a call",
    ):
        assert words in shown.stdout
    report = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert report["outcome"]["dr"]["low"] < report["outcome"]["dr"]["value"] < report["outcome"]["dr"]["high"]
    missing = CliRunner().invoke(main, [*arguments[:-1], f"sqlite:///{tmp_path}/nowhere.db"])
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "nowhere.db").exists()
