"""The table of cases, and what must hold for every one of them."""

import re
from dataclasses import dataclass

import pytest

from router.tasks.math import MathTask
from tests.unit.tasks.math_cases import CASES, Case, Verdict, stated

TASK = MathTask()
VERDICTS: tuple[Verdict, ...] = ("right", "wrong", "none")


@dataclass(frozen=True)
class Seen:
    """What the task makes of a case: the answer as written, its key, the reference's key, the verdict."""

    found: str | None
    key: str
    wanted: str
    verdict: Verdict


@pytest.fixture(scope="module")
def seen() -> dict[Case, Seen]:
    import asyncio

    async def see(case: Case) -> Seen:
        found, wanted = TASK.extract(case.text), await TASK.key(case.reference)
        if found is None:
            return Seen(None, "", wanted, "none")
        verdict: Verdict = "right" if await TASK.right(found, case.reference) else "wrong"
        return Seen(found, await TASK.key(found), wanted, verdict)

    async def all_of_them() -> dict[Case, Seen]:
        return dict(zip(CASES, await asyncio.gather(*map(see, CASES)), strict=True))

    return asyncio.run(all_of_them())


def failures(cases: list[Case], seen: dict[Case, Seen]) -> list[str]:
    """The test of the table: one line for each case whose verdict is not the expected one."""
    by_text = {case[:2]: each for case, each in seen.items()}
    return [
        f"{case.text[-100:]!r} for {case.reference!r} is {case.verdict}: {by_text[case[:2]]}"
        for case in cases
        if by_text[case[:2]].verdict != case.verdict
    ]


def test_the_table_is_large_enough_and_has_no_case_twice():
    assert len(CASES) >= 150
    assert len({case[:2] for case in CASES}) == len(CASES)


def test_every_case_is_judged_as_it_should_be(seen):
    assert failures(CASES, seen) == []


def test_changing_one_expected_verdict_fails(seen):
    for i, case in enumerate(CASES):
        for verdict in VERDICTS:
            if verdict != case.verdict:
                mutated = [*CASES[:i], case._replace(verdict=verdict), *CASES[i + 1 :]]
                assert len(failures(mutated, seen)) == 1, case


@pytest.mark.long
async def test_changing_one_expected_value_fails(seen):
    """A right answer is wrong where one digit of the reference differs."""
    mutated = 0
    for case in CASES:
        digits = list(re.finditer(r"\d", case.reference))
        if case.verdict != "right" or not digits:
            continue
        last = digits[-1]
        changed = f"{case.reference[: last.start()]}{(int(last[0]) + 1) % 10}{case.reference[last.end() :]}"
        assert not await TASK.right(seen[case].found or "", changed), (case, changed)
        mutated += 1
    assert mutated > 100


def test_answers_that_are_right_vote_together(seen):
    apart = {case.text for case, each in seen.items() if each.verdict == "right" and each.key != each.wanted}
    # An assignment votes by its value; as an equation it is only recognised as written.
    assert apart == {stated("y = -\\frac{1}{2}x + \\frac{3}{4}", "", "right").text}


def test_answers_that_are_wrong_vote_apart(seen):
    together = {case.text for case, each in seen.items() if each.verdict == "wrong" and each.key == each.wanted}
    assert together == {stated("x = 1", "", "wrong").text}  # an assignment votes by its value: x = 1 and y = 1 are 1


async def test_a_key_is_its_own_key(seen):
    for each in seen.values():
        assert await TASK.key(each.key) == each.key


async def test_a_key_is_judged_like_the_answer(seen):
    named = {stated(answer, "", "right").text for answer in ("x = 1", "y = -\\frac{1}{2}x + \\frac{3}{4}")}
    for case, each in seen.items():
        if each.found is not None and case.text not in named:
            assert await TASK.right(each.key, case.reference) == (each.verdict == "right"), case


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.verdict != "none"][::7], ids=lambda case: case.text[-30:]
)
async def test_equality_goes_both_ways(case, seen):
    assert await TASK.right(case.reference, seen[case].found) == (case.verdict == "right")


async def test_long_answers_that_begin_alike_differ():
    long = "colour " * 200
    one, other = TASK.extract(f"\\boxed{{{long}red}}"), TASK.extract(f"\\boxed{{{long}blue}}")
    assert one
    assert other
    assert await TASK.key(one) != await TASK.key(other)


async def test_spellings_of_a_sum_of_money_are_one_vote():
    assert {await TASK.key(answer) for answer in ("72", "$72", "72.0", "72 dollars", "\\$72.00", "72.")} == {"72"}


@pytest.mark.parametrize("nothing", ["", "$", "**", "\\(\\)", " . "])
async def test_decoration_is_no_answer(nothing):
    assert await TASK.key(nothing) == ""
    assert not await TASK.right(nothing, "5")
    assert not await TASK.right("5", nothing)


async def test_long_answers_are_text():
    long = " + ".join(f"x^{{{i}}}" for i in range(100))
    assert await TASK.key(long) == long
    assert await TASK.right(long, long)
