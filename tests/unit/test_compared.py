"""The demo's last table: what the policy spent, beside the best arm for all prompts."""

import io

import pytest
from rich.console import Console

from router.cli.compared import Ran, best_within, fixed_arms, table
from router.v1 import router_pb2 as pb

ACCURACY = {"single": (0.9, 0.1), "majority(n=4)": (0.95, 0.5), "single @0.7 > majority(n=4)": (0.99, 0.9)}
TOKENS = {"single": 10, "majority(n=4)": 40, "single @0.7 > majority(n=4)": 20}


def bundle() -> pb.Bundle:
    """Levels 1 to 3 are easy, 4 and 5 hard."""
    cells = [
        pb.Cell(
            level=level,
            arm=pb.Arm(text=arm, strategy="cascade" if ">" in arm else arm.partition("(")[0]),
            accuracy=accuracy[level > 3],
            prompts=10,
            cost=pb.Cost(generated_tokens=TOKENS[arm], generator_flops=100 * TOKENS[arm]),
        )
        for arm, accuracy in ACCURACY.items()
        for level in range(1, 6)
    ]
    return pb.Bundle(cells=cells)


def ran(tokens: int, *, right: bool = True, promised: bool = True) -> Ran:
    """At a prompt that is of level 1 or 5."""
    decision = pb.Decision(probabilities=[0.5, 0, 0, 0, 0.5])
    if promised:
        decision.expectation.CopyFrom(pb.Expectation(accuracy=0.95, cost=pb.Cost(generated_tokens=20)))
    return Ran(decision, pb.Bill(generated_tokens=tokens, generator_flops=100.0 * tokens), right)


def shown(*prompts: Ran) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=200).print(table(bundle(), prompts))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_fixed_arms_are_no_cascades_and_are_expected_by_the_prompts_levels():
    best, other = fixed_arms(bundle(), [ran(20), ran(20)])
    assert (best.arm, best.tokens, best.flops) == ("majority(n=4)", 80, 8000)
    assert best.right == pytest.approx(2 * (0.95 + 0.5) / 2)
    assert other.arm == "single"


def test_the_best_fixed_arm_spends_no_more_than_what_ran():
    arms = fixed_arms(bundle(), [ran(20), ran(20)])
    assert [best_within(arms, tokens).arm for tokens in (100, 80, 79, 5)] == ["majority(n=4)"] * 2 + ["single"] * 2


def test_the_table_says_what_ran_and_what_is_only_expected():
    _, head, policy, expected, fixed = shown(ran(50), ran(40, right=False))
    assert head == "right tokens FLOPs"
    assert policy == "the policy 1 90 9e+03 ran"
    assert expected == "1.9 40 0 as it was expected to"
    assert fixed == "best fixed arm: majority(n=4) 1.4 80 8e+03 expected; it did not run here"


def test_nothing_is_said_of_expectations_that_are_missing():
    assert not any("as it was expected" in line for line in shown(ran(50, promised=False)))
