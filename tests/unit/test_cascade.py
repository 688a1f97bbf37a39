"""Cascades: arms in turn until an answer is believed. As text, as a search and on the bill."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.backends import Engines, Usage
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.specs import VERIFIER
from router.prompt import Prompt
from router.solving.bill import Bill, Rate
from router.solving.driver import Round, StopReason, drive
from router.solving.request import Request
from router.solving.stages import StageEnd
from router.tasks import load_task
from strategies import AskConfidence, Candidate, Cascade, Extend, InvalidArm, Result, Score, Single, parse
from strategies.confidence import by_score_or_lead
from tests.support.searches import finished

# As text


@pytest.mark.parametrize(
    "text",
    [
        "single @0.7 > single(model=large)",
        "single @0.7 > beam_search(n=4, m=4) @0.7 > single(model=large)",
        "majority(n=8, stop=0.95, model=a-b.c_1) @1 > revision(n=4, chains=2) @0.05 > dvts(n=8, m=4)",
    ],
)
def test_a_cascade_prints_as_it_parses(text):
    assert str(parse(text)) == text
    assert str(parse(text.replace(" ", ""))) == text


@given(st.floats(0, 1, exclude_min=True))
def test_any_confidence_survives_its_text(threshold):
    cascade = Cascade(stages=(Single(), Single(model="large")), thresholds=(threshold,))
    assert parse(str(cascade)) == cascade


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("single @0.7", "strategy"),
        ("@0.7", "strategy"),
        (">", "strategy"),
        ("@", "strategy"),
        ("single >", "strategy"),
        ("> single", "strategy"),
        ("single > single(model=large)", "strategy"),
        ("single @0.7 > single(model=large) @0.7", "strategy"),
        ("single @0.7 > majority(n=4) > single(model=large)", "strategy"),
        ("single @0.7 > unheard_of", "strategy"),
        ("single @0.7 > cascade", "strategy"),
        ("single @ > majority(n=4)", "confidence"),
        ("single @0 > majority(n=4)", "confidence"),
        ("single @1.01 > majority(n=4)", "confidence"),
        ("single @nan > majority(n=4)", "confidence"),
        ("single @-0.5 > majority(n=4)", "confidence"),
        ("single @0.7 @0.8 > majority(n=4)", "confidence"),
        ("single @0.7 > majority(n=0)", "n"),
        (" > ".join(["single @0.7"] * 8 + ["majority(n=4)"]), "stages"),
        ("majority(n=4000) @0.5 > majority(n=97)", "n"),
    ],
)
def test_invalid_cascades_name_the_field(text, field):
    with pytest.raises(InvalidArm) as error:
        parse(text)
    assert error.value.field == field


@pytest.mark.parametrize(
    "values",
    [
        {"stages": (Single(),), "thresholds": ()},
        {"stages": (Single(), Single()), "thresholds": ()},
        {"stages": (Single(), Single()), "thresholds": (0.5, 0.5)},
        {"stages": (Single(), parse("single @0.5 > single")), "thresholds": (0.5,)},
        {"stages": (Single(), Single()), "thresholds": (0.5,), "model": "large"},
    ],
)
def test_a_cascade_made_in_code_is_checked_alike(values):
    with pytest.raises(InvalidArm):
        Cascade(**values)


def test_a_cascade_is_an_arm_made_of_its_stages():
    cascade = parse("single @0.7 > beam_search(n=4, m=4) @0.7 > majority(n=3, model=large)")
    assert cascade.models == {None, "large"}
    assert (cascade.budget(), cascade.budget({"large": 10})) == (8, 35)
    assert (cascade.needs_steps, cascade.needs_scores, cascade.revises, cascade.rows) == (True, True, False, 4)
    assert parse("single @0.7 > revision(n=4, chains=2)").revises
    assert not parse("single @0.7 > majority(n=4)").needs_steps
    assert parse("single @0.7 > repair(n=4)").needs_findings
    assert not parse("single @0.7 > revision(n=4, chains=2)").needs_findings
    assert parse("single(model=small) @0.5 > majority(n=2)").referring("small") == parse("single @0.5 > majority(n=2)")


def test_cascades_have_an_order_among_arms():
    texts = [
        "single",
        "single @0.5 > majority(n=4)",
        "single @0.7 > majority(n=4)",
        "single @0.5 > single(model=large)",
    ]
    assert [str(arm) for arm in sorted(map(parse, reversed(texts)))] == texts
    assert sorted(map(parse, ["single @0.5 > single", "weighted_best_of_n(n=2)"]))[1] == parse("single @0.5 > single")


# As a search


def solved(answer: str | None, score: float | None = None, model: str | None = None) -> Candidate:
    return Candidate(
        steps=(f"{answer}",), end="stop", answer=answer, scores=None if score is None else (score,), model=model
    )


def play(text: str, replies: Sequence[Sequence[Candidate]]) -> tuple[list[Extend | Score], Result]:
    """Feed a search from a list of replies; return its requests of models and its result."""
    search = parse(text).search()
    request, requests, left = next(search), [], iter(replies)
    try:
        while True:
            if isinstance(request, AskConfidence):
                sure = zip(request.candidates, by_score_or_lead(request), strict=True)
                request = search.send([replace(each, confidence=confidence) for each, confidence in sure])
            else:
                requests.append(request)
                request = search.send(list(next(left)))
    except StopIteration as done:
        return requests, done.value


def test_it_ends_at_the_first_stage_whose_answer_is_believed():
    requests, result = play("single @0.7 > majority(n=2)", [[solved("5")], [solved("5", 0.7)]])
    assert [type(request) for request in requests] == [Extend, Score]
    assert (result.answer, result.best.score) == ("5", 0.7)


def test_it_goes_on_where_the_answer_is_doubted_and_returns_the_last_stages():
    doubted = [[solved("5")], [solved("5", 0.69)], [solved("6"), solved("6")]]
    requests, result = play("single @0.7 > majority(n=2, model=large)", doubted)
    assert [request.model for request in requests if isinstance(request, Extend)] == [None, "large"]
    assert result.answer == "6"
    assert [candidate.answer for candidate in result.candidates] == ["5", "6", "6"]  # all that was weighed


def test_the_last_stage_is_not_scored_and_no_score_is_asked_for_twice():
    stages = "best_of_n(n=2) @0.7 > single"
    written, scored = [solved("5"), solved("6")], [solved("5", 0.2), solved("6", 0.4)]
    requests, result = play(stages, [written, scored, [solved("7")]])
    assert [type(request) for request in requests] == [Extend, Score, Extend]
    assert result.answer == "7"


def test_without_an_answer_nothing_is_scored_and_the_next_stage_runs():
    requests, result = play("single @0.1 > single(model=large)", [[solved(None)], [solved("7")]])
    assert [type(request) for request in requests] == [Extend, Extend]
    assert result.answer == "7"


def test_where_the_last_has_no_answer_the_most_believed_earlier_one_stands():
    text = "single @0.9 > single @0.9 > single @0.9 > single(model=large)"
    replies = [[solved("1")], [solved("1", 0.3)], [solved("2")], [solved("2", 0.8)], [solved("3")], [solved("3", 0.5)]]
    _, result = play(text, [*replies, [solved(None)]])
    assert result.answer == "2"
    assert len(result.candidates) == 4
    _, nothing = play("single @0.9 > single", [[solved(None)], [solved(None)]])
    assert (nothing.best, nothing.answer, nothing.share) == (None, None, 0.0)


def test_where_nothing_scores_the_lead_of_the_vote_is_the_confidence():
    unanimous, torn = [solved("5")] * 4, [solved("5"), solved("6"), solved("5"), solved("6")]
    requests, result = play("majority(n=4) @0.96 > single", [unanimous, unanimous[:1]])  # 1 - 0.5 ** 5 is 0.96875
    assert (len(requests), result.answer) == (2, "5")
    requests, result = play("majority(n=4) @0.96 > single", [torn, torn[:1], [solved("7")]])
    assert (len(requests), result.answer) == (3, "7")


def test_a_search_that_a_limit_cut_ends_without_asking_for_ever():
    search = parse("single @0.7 > beam_search(n=4, m=2) @0.7 > single(model=large)").search()
    request, result = next(search), None
    for _ in range(20):
        cut = isinstance(request, Extend)
        try:
            request = search.send([replace(each, end="cut") if cut else each for each in request.candidates])
        except StopIteration as done:
            result = done.value
            break
    assert (result.best, result.answer) == (None, None)
    assert {candidate.end for candidate in result.candidates} == {"cut"}


# On the engines

RATES = {"small": Rate(1_000), "large": Rate(10_000), VERIFIER: Rate(500)}
STAGES = "single @0.7 > majority(n=4) @0.7 > single(model=large)"


def say(answer: int):
    return lambda prompt, candidate, rng: f"Answer: {answer}"


async def run(text: str, *, believed: dict[str, float], answers=None, **request):
    """Drive a cascade whose models always say the same: 1 the small one, 2 the large one."""
    said = {"small": 1, "large": 2} | (answers or {})
    models = {name: FakeGenerator(write=say(said[name])) for name in ("small", "large")}
    verifier = FakeVerifier(judge=lambda prompt, steps: [believed[steps[-1].removeprefix("Answer: ")]] * len(steps))
    engines, bill = Engines(models, "small", verifier), Bill(RATES)
    asked = Request(Prompt.of("1 + 1 ="), **request)
    return *await finished(drive(parse(text), asked, engines, load_task("math"), bill)), bill, engines


async def test_an_easy_prompt_costs_one_solution_of_the_small_model():
    rounds, result, stop, bill, engines = await run(STAGES, believed={"1": 0.9})
    assert (result.answer, stop) == ("1", StopReason.COMPLETE)
    assert list(bill.lines) == [("small", "generator"), (VERIFIER, "verifier")]
    assert bill.generated_tokens == len("Answer: 1.")
    assert bill.scored_tokens == len("1 + 1 =Answer: 1")
    assert engines.models["large"].counted == Usage()
    assert [(type(each), each.model) for each in rounds] == [(Round, "small"), (Round, None)]


async def test_a_doubted_one_goes_through_all_and_its_bill_says_what_each_model_spent():
    rounds, result, stop, bill, engines = await run(STAGES, believed={"1": 0.2})
    assert (result.answer, stop) == ("2", StopReason.COMPLETE)
    assert [each.model for each in rounds] == ["small", None, "small", None, "large"]
    assert [each.number for each in rounds] == [1, 2, 3, 4, 5]
    solution = len("Answer: 1.")
    assert bill.line("small", "generator").generated_tokens == 5 * solution
    assert bill.line("large", "generator").generated_tokens == solution
    for name, model in engines.models.items():
        assert bill.line(name, "generator") == model.counted
    assert bill.line(VERIFIER, "verifier") == engines.verifier.counted
    read = [
        bill.line(name, "generator").prompt_tokens + bill.line(name, "generator").generated_tokens for name in RATES
    ]
    assert bill.flops(role="generator") == 2 * (1_000 * read[0] + 10_000 * read[1])
    assert [(each.generated_tokens, each.scored_tokens) for each in rounds][-1] == (
        bill.generated_tokens,
        bill.scored_tokens,
    )


async def test_a_token_cap_holds_over_all_stages():
    _, result, stop, bill, _ = await run(
        STAGES, believed={"1": 0.2}, max_generated_tokens=len("Answer: 1.") * 5 + 3, allow_partial=True
    )
    assert (stop, bill.generated_tokens) == (StopReason.TOKEN_CAP, len("Answer: 1.") * 5 + 3)
    assert result.answer == "1"  # the most believed of what was found by then


async def test_a_stage_ends_with_what_is_believed_by_then_and_later_rounds_say_so():
    models = {name: FakeGenerator(write=say(said)) for name, said in (("small", 1), ("large", 2))}
    engines, bill = Engines(models, "small", FakeVerifier(judge=lambda prompt, steps: [0.2] * len(steps))), Bill(RATES)
    arm, request = parse(STAGES), Request(Prompt.of("1 + 1 ="))
    events = [event async for event in drive(arm, request, engines, load_task("math"), bill, confidence_of=doubts)]
    ends = [event for event in events if isinstance(event, StageEnd)]
    assert [(each.number, each.answer, each.confidence, each.threshold, each.ends) for each in ends] == [
        (1, "1", 0.3, 0.7, False),
        (2, "1", 0.6, 0.7, False),
        (3, "1", 0.65, None, True),
    ]
    rounds = [(each.stage, each.confidence) for each in events if isinstance(each, Round)]
    assert rounds == [(1, None), (1, None), (2, 0.3), (2, 0.3), (3, 0.6)]
    assert isinstance(events[-1], tuple)
    result, _ = events[-1]
    assert (result.answer, result.best.confidence) == ("1", 0.65)  # the larger model's 2 is believed less
    assert [stage.confidence for stage in result.stages] == [0.3, 0.6, 0.35]


def doubts(wanted: AskConfidence) -> list[float]:
    """Grows with the answers that agree."""
    answers = [stage.result.answer for stage in wanted.stages]
    if len(answers) == 3:
        return [0.65, 0.65, 0.35]
    return [0.3 * answers.count(answer) for answer in answers]


async def test_every_arm_says_how_sure_it_is():
    engines = Engines({"small": FakeGenerator(write=say(1))}, "small", FakeVerifier())
    request, bill = Request(Prompt.of("1 + 1 =")), Bill(RATES)
    arm = parse("majority(n=4)")
    _, result, _ = await finished(
        drive(arm, request, engines, load_task("math"), bill, confidence_of=lambda wanted: [0.25])
    )
    assert result.best.confidence == 0.25
    _, result, _ = await finished(drive(arm, request, engines, load_task("math"), bill))
    assert result.best.confidence == pytest.approx(1 - 0.5**5)  # the lead of four votes, where nothing better is known
