"""The report as its readers get it: JSON, one page, the card, the terminal."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from router.errors import InvalidFile
from router.evaluation import plan_plots, words
from router.evaluation.card import card
from router.evaluation.goals import MEASURES, read_goals
from router.evaluation.page import page, save_evaluation
from router.evaluation.parts import NO_LARGER, Estimate
from router.evaluation.plots import FIXED, MOST_LINES, POLICIES, draw, fixed_curves, shown_curves
from router.evaluation.report import CurvePoint, LevelAccuracy, Report
from router.evaluation.summary import summary
from router.evaluation.words import CURVES, difference, limits
from router.policy.words import number, si, strategies_in

_MARKERS = {style["marker"] for style in (*POLICIES.values(), *FIXED)}  # others are ends of error bars


@pytest.fixture
def report(rich_report):
    return rich_report


@pytest.fixture
def bundle(rich_bundle):
    return rich_bundle


@pytest.fixture(scope="module")
def saved(rich_report, tmp_path_factory):
    return save_evaluation(rich_report, tmp_path_factory.mktemp("saved") / "out")


@pytest.fixture(scope="module")
def html(saved):
    return saved[1].read_text()


@pytest.fixture(scope="module")
def plain(rich_report):
    """The page of a report without goals and with half of the plots, on which something was not measured."""
    row = replace(rich_report.budgets[-1], predicted=None, predicted_minus_best_fixed=None)
    fewer = replace(rich_report, goals=None, revisions=(), averages=(), plans=(), trust=None, larger=None)
    return page(replace(fewer, budgets=(*rich_report.budgets[:-1], row)))


def test_plot_of_average_budgets_has_a_line_for_every_way(report):
    axes = plan_plots.averages(report.averages).axes[0]
    ways = {words.WAYS[name] for row in report.averages for name in row.ways}
    assert {line.get_label() for line in axes.lines} == {"policy", *ways}


def test_json_is_the_report_field_for_field(report, saved):
    data, _ = saved
    assert Report.from_json(data.read_text()) == report
    document = json.loads(data.read_text())
    for change in ({"unknown": 1}, {"prompts": "many"}, {"bundle": None}):
        with pytest.raises(InvalidFile, match=rf"{next(iter(change))}: "):
            Report.from_json(json.dumps(document | change))


def test_the_page_needs_nothing_else(html):
    assert html.count("<svg") == 8
    body = re.sub(r"<!doctype html>|&\w+;|<meta [^>]*>|<br>|<wbr>", "", html)
    ET.fromstring(body)  # every tag is closed
    for reference in re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^")\s]+)', html):
        assert reference.startswith("#"), reference
    assert "Content-Security-Policy" in html
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)), "ids of different plots collide"


def test_the_page_defines_what_it_speaks_of_before_it_does(html):
    text = html.partition("</style>")[2]
    for term in (
        "levels",
        "held-out",
        "arm",
        "budget",
        "policy",
        "best fixed arm or cascade",
        "cascade",
        "verifier",
        "95% intervals",
    ):
        assert f"<dfn>{term}" in text, term
        assert text.index(f"<dfn>{term}") < text.index("In short")
    for term in ("fixed budget", "average budget", "measured level", "Generations", "FLOPs"):
        assert text.index(f"<dfn>{term}") < text.index("<svg")


def test_private_words_reach_no_reader(html, report, bundle):
    texts = html.partition("</style>")[2], card(bundle, report), "\n".join(summary(report))
    for word in ("rung", "ladder", "headline", "gain kept", "gain_kept", "climb"):
        assert not any(re.search(rf"\b{word}\b", text) for text in texts), word


def test_goals_are_shown_where_there_are_some_only(report, html, plain, bundle):
    missed = [result for result in report.goals if not result.met]
    assert (html.count("✓ met"), html.count("✗ missed")) == (len(report.goals) - len(missed), len(missed))
    (average,) = [result for result in missed if result.goal.measure == "savings_average_budget"]
    assert average.limited_by in ("estimator", "policy", "verifier", "generator")
    assert "on measured levels it would be" in average.because
    without = replace(report, goals=None)
    assert not re.search(r"met</span>|missed</span>|<h2>Goals", plain)
    assert "Where accuracy is lost" in plain  # the diagnosis needs no goals
    assert "## Goals" not in card(bundle, without)
    assert not any(line.startswith("goal") for line in summary(without))


def test_green_and_red_are_for_goals_only(report, html):
    style = html.partition("</style>")[0]
    assert re.search(r"\.met \{ color", style)
    assert len(re.findall(r'class="(?:met|missed)"', html)) == len(report.goals)


def test_a_plot_has_at_most_eight_lines_that_differ_in_colour_marker_and_dashes(report):
    many = dict(report.curves)
    rows = list(report.per_level)
    for i in range(20):
        many[f"new{i}(m=4)"] = tuple(CurvePoint(0.5 + i / 100, 0.4, 0.7, 2.0**k, 1e6, budget=2**k) for k in range(3))
        rows += [LevelAccuracy(level, f"new{i}(n=4, m=4)", f"new{i}(m=4)", 4, 0.5, 0.4, 0.6) for level in range(1, 6)]
    crowded = replace(report, curves=many, per_level=tuple(rows))
    assert len(shown_curves(crowded)) == MOST_LINES
    assert fixed_curves(crowded, 8)[:4] == ["weighted_best_of_n", "majority", "single(model=large)", "new19(m=4)"]
    for name, figure in draw(crowded).items():
        for axes in figure.axes:
            lines = [line for line in axes.get_lines() if line.get_marker() in _MARKERS]
            assert len(lines) <= MOST_LINES, name
            looks = {(line.get_color(), line.get_marker()) for line in lines}
            assert len(looks) == len(lines), name


def test_one_curve_stands_for_each_algorithm(report):
    names = [name.partition("(")[0] for name in fixed_curves(report, 8) if "model=" not in name]
    assert len(names) == len(set(names))


def test_what_was_not_measured_is_said(html, plain):
    assert html.count("not measured") == 1  # what is saved against a cascade: this bundle has none
    assert plain.count("not measured") == 2


def test_the_card_gives_the_reason_of_a_figure_that_is_missing(report, bundle):
    name, why = "savings_against_best_fixed_cascade", "the highest accuracy reached, 0.74, stays below 0.75"
    reasons = report.headline["reasons"] | {name: why, "apgr": NO_LARGER}
    without = replace(report, headline={**report.headline, name: None, "apgr": None, "reasons": reasons})
    assert f"| times fewer generations than the best fixed cascade at its best | none: {why} |" in card(bundle, without)
    assert NO_LARGER not in card(bundle, without)  # where there is none, no figure compares with one


def test_the_card_tells_how_to_read_itself_in_three_sentences(report, bundle):
    text = card(bundle, report)
    (paragraph,) = re.findall(r"\*\*How to read this card\.\*\*(.*)\n", text)
    assert len(re.findall(r"\.(?= |$)", paragraph)) == 3
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({row.count("|") for row in table.splitlines()}) == 1


def test_the_card_compares_verifiers_where_they_were_judged(report, bundle):
    best = {"one_sample": 0.5, "majority": 0.6, "best_of_n": 0.7, "weighted_best_of_n": 0.65, "oracle": 0.9}
    judged = {"file": "a/held.parquet", "auc": 0.9, "auc_within": 0.8, "by_step": [0.6, 0.7], "ece": 0.03}
    text = card(bundle, report, [judged | {"best_of": {"4": best}}])
    assert "| held | 0.900 | 0.800 | 0.60 0.70 | 0.030 | 4 | 0.500 | 0.600 | 0.700 | 0.650 | 0.900 |" in text


def test_the_limit_is_called_clear_only_where_it_is(report):
    found = report.diagnosis
    assert "clearly more" in limits(replace(found, margin=Estimate(0.2, 0.1, 0.3)))
    assert "but not clearly more" in limits(replace(found, margin=Estimate(0.2, -0.1, 0.3)))


def test_numbers_are_written_for_people():
    assert [si(value) for value in (0, 12.34, 1850, 18.5e9, 999.7e9, 2e18)] == [
        "0",
        "12.3",
        "1.85 k",
        "18.5 G",
        "1 T",
        "2 E",
    ]
    assert difference(Estimate(-0.0161, -0.048, 0.016)) == "−0.016 [−0.048, 0.016]"
    assert difference(Estimate(-0.0001, -0.001, 0.0)) == "0.000 [−0.001, 0.000]"
    assert (number(4.0), number(0.829), number(None)) == ("4", "0.83", "")


def test_strategies_are_explained_where_they_occur():
    found = strategies_in(["single @0.7 > majority(n=4, model=large)", "dvts(n=16, m=4, stop=0.6)"])
    assert list(found) == ["single", "majority", "dvts", "cascade", "stop=", "model="]
    assert all(found.values())


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("{}", "should be"),
        ("no json", "Expecting value"),
        ('[{"measure": "luck", "at_least": 1}]', "unknown measure 'luck'"),
        ('[{"measure": "gap_recovered"}]', "give at_least"),
        ('[{"measure": "gap_recovered", "at_least": 1, "budget": 8}]', "only a gain is measured at a budget"),
        ('[{"measure": "gap_recovered", "atleast": 1}]', "atleast: is no known key"),
    ],
)
def test_wrong_goals_are_refused(tmp_path, text, wrong):
    file = tmp_path / "goals.json"
    file.write_text(text)
    with pytest.raises(InvalidFile, match=wrong):
        read_goals(file)


@pytest.mark.parametrize("name", ["goals", "goals-larger"])
def test_the_recipes_goals_are_read(name):
    goals = read_goals(Path(f"models/smollm2-135m/recipe/{name}.json"))
    assert {goal.measure for goal in goals} <= set(MEASURES) == set(words.MEASURES)


def test_every_curve_of_a_policy_has_a_name(report):
    assert set(CURVES) <= set(report.curves)
