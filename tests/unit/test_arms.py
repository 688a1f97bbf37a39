"""Arms as text: read, refused, written again, and put in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import STRATEGIES, InvalidArm, Majority, parse
from tests.support.searches import named


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("beam(n=4)", "strategy"),
        ("majority(n=0)", "n"),
        ("majority(n=4097)", "n"),
        ("lookahead(n=2048, m=4, k=2)", "n"),
        ("majority(n=99999999999)", "n"),
        ("majority(n=999999999999999999999999999)", "n"),
        ("single(n=2)", "n"),
        ("single(n=1)", "n"),
        ("beam_search(n=6, m=4)", "n"),
        ("dvts(n=6, m=4)", "n"),
        ("revision(n=6, chains=4)", "n"),
        ("beam_search(n=4)", "m"),
        ("lookahead(n=4, m=2)", "k"),
        ("majority(n=4, m=2)", "m"),
        ("majority(n=4, n=4)", "strategy"),
        ("majority(n=4", "strategy"),
        ("majority n=4", "strategy"),
        ("majority(n)", "strategy"),
        ("majority(x=4)", "x"),
        ("majority(n=4.0)", "n"),
        ("majority(n=-4)", "n"),
        ("majority(n=٤)", "n"),
        ("majority(n=1_0)", "n"),
        ("majority(n=)", "n"),
        ("majority(n=4, model=)", "model"),
        ("majority(n=4, model=a b)", "model"),
        ("majority(n=4, model=-a)", "model"),
        ("larger_model(n=12)", "strategy"),
        ("majority(n=8, stop=0.5)", "stop"),
        ("majority(n=8, stop=1)", "stop"),
        ("majority(n=8, stop=95)", "stop"),
        ("majority(n=8, stop=nan)", "stop"),
        ("majority(n=8, stop=inf)", "stop"),
        ("majority(n=8, stop=0.9.5)", "stop"),
        ("single(stop=0.9)", "stop"),
        ("beam_search(n=8, m=4, stop=0.9)", "stop"),
        ("", "strategy"),
    ],
)
def test_invalid_arms_name_the_field(text, field):
    with pytest.raises(InvalidArm) as error:
        parse(text)
    assert error.value.field == field


EXAMPLES = [
    "single",
    "single(model=large)",
    "majority(n=4)",
    "majority(n=4, model=large)",
    "majority(n=32, stop=0.95)",
    "best_of_n(n=4)",
    "weighted_best_of_n(n=4)",
    "weighted_best_of_n(n=16, stop=0.8)",
    "beam_search(n=16, m=4)",
    "dvts(n=8, m=4)",
    "dvts(n=8, m=4, stop=0.9, model=qwen2.5-1.5b_it)",
    "lookahead(n=4, m=2, k=3)",
    "revision(n=8, chains=2)",
    "repair(n=4)",
    "repair(n=4, model=large)",
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_arms_print_as_they_parse(text):
    assert str(parse(text)) == text


def test_every_strategy_has_an_example():
    assert {parse(text).name for text in EXAMPLES} == set(STRATEGIES)


@given(st.floats(0.5, 1, exclude_min=True, exclude_max=True))
def test_any_stop_survives_its_text(stop):
    assert parse(str(Majority(n=8, stop=stop))) == Majority(n=8, stop=stop)


@pytest.mark.parametrize("text", [" single ", "single()", "majority ( n = 4 , model=large )", "majority(n=4,)"])
def test_blanks_are_free(text):
    assert parse(str(parse(text))) == parse(text)


def test_what_is_quoted_in_a_message_stays_short():
    for text in ("x" * 900, "majority(" + "n" * 900 + "=4)", "majority(n=" + "9" * 900 + ")"):
        with pytest.raises(InvalidArm) as error:
            parse(text)
        assert len(str(error.value)) < 400


def test_a_strategy_without_a_parameter_that_it_needs_is_refused_in_code_too():
    with pytest.raises(InvalidArm, match="m of at least 1"):
        named("beam_search", n=4)
    with pytest.raises(InvalidArm, match="at most 4096"):
        named("majority", n=5000)


def test_arms_with_and_without_a_stop_have_an_order():
    texts = ["majority(n=8)", "majority(n=8, stop=0.8)", "majority(n=8, stop=0.95)", "majority(n=16)"]
    assert sorted(map(parse, reversed(texts))) == [*map(parse, texts)]


def test_a_stop_does_not_change_the_budget():
    assert parse("majority(n=32, stop=0.95)").budget() == 32


def test_lookahead_costs_its_rollouts():
    assert parse("lookahead(n=4, m=2, k=3)").budget() == 16
    assert parse("beam_search(n=4, m=2)").budget() == 4
