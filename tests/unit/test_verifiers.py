"""Kinds of verifiers that any engine's models can have, but for judges; what they are billed as; calibration."""

from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from router.attempts.collect import Unit, collect
from router.attempts.prompts import Problem
from router.attempts.schema import read_attempts
from router.backends import Asked, Engines, Usage, prepared, registry
from router.backends.calibrated import Calibrated, platt
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.prompt_length import too_long
from router.backends.registry import load_engines, why_not
from router.backends.specs import Deployment, Platt, Setup, VerifierSpec
from router.backends.template import CHATML
from router.backends.verifiers import KINDS, options_of
from router.backends.verifiers.executed_tests import ExecutedTests
from router.backends.verifiers.judge import Judge, Options
from router.backends.verifiers.none import NoVerifier
from router.backends.verifiers.written_tests import Options as WritingOptions
from router.backends.verifiers.written_tests import WrittenTests
from router.bundle.bundle import load_bundle
from router.errors import CodeNotAllowed, InvalidRequest
from router.prompt import Prompt
from router.schema import read
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.solving.solver import Solver
from router.tasks import PlainTask, Tasks, load_task
from strategies import Candidate, Earlier, parse
from tests.support.judging import ASKED, LARGE, MODEL, Preferring, done, saying, setup

# The schema


def test_a_judge_has_the_parameters_and_the_price_of_its_model():
    spec = setup("judge", model="large").verifier
    assert (spec.parameters, spec.input_price) == (5_000, 20.0)
    assert "{solution}" in spec.options["prompt"]  # a bundle keeps what it was measured with


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "judge"}, "asks one of the models small, large, not None"),
        ({"kind": "judge", "model": "huge"}, "not 'huge'"),
        ({"kind": "judge", "model": "large", "parameters": 3}, "'large' has 5000"),
        ({"kind": "judge", "model": "large", "options": {"sample": 3}}, "verifier.options.sample: is no known key"),
        ({"kind": "judge", "model": "large", "options": {"prompt": "Right?"}}, "verifier.options.prompt"),
        ({"kind": "written_tests", "model": "small", "options": {"count": 0}}, "verifier.options.count"),
        ({"kind": "none", "options": {"x": 1}}, "verifier.options.x: is no known key"),
        ({"kind": "log_prob", "options": {"x": 1}}, "a 'log_prob' verifier has no options"),
    ],
)
def test_what_is_wrong_in_models_json_is_named(fields, says):
    document = {"name": "x", "reference": "small", "verifier": fields}
    models = {
        name: {"model": "m", "parameters": spec.parameters, "template": {}, "temperature": 1.0, "max_tokens": 9}
        for name, spec in (("small", MODEL), ("large", LARGE))
    }
    with pytest.raises(ValueError, match=says):
        read(Setup, {**document, "models": models})


def test_free_text_needs_a_judge():
    assert setup("judge", model="small", task="text").tasks == ("text",)
    with pytest.raises(ValueError, match="the verifier's kind must be judge"):
        setup("log_prob", task=("math", "text"))


def test_the_kinds_are_loaded_by_name(tmp_path):
    expected = {"none": NoVerifier, "judge": Judge, "tests": ExecutedTests, "written_tests": WrittenTests}
    assert set(KINDS) >= set(expected)
    for kind, verifier in expected.items():
        model = "large" if KINDS[kind].asks else None
        engines = load_engines(setup(kind, model=model), tmp_path, Deployment(), models=frozenset())
        assert type(engines.verifier) is verifier
        assert set(engines.models) == ({model} if model else set())
        assert options_of(kind, {}) is not None


# Arms that can't be run with it


@pytest.mark.parametrize(
    ("kind", "arm", "reason"),
    [
        ("none", "majority(n=4)", None),
        ("none", "revision(n=4, chains=2)", None),
        ("none", "single @0.7 > majority(n=4)", None),
        ("none", "best_of_n(n=4)", "no verifier to choose by"),
        ("none", "single @0.7 > best_of_n(n=4)", "no verifier to choose by"),
        ("judge", "best_of_n(n=4)", None),
        ("judge", "beam_search(n=4, m=2)", "whole solutions only"),
        ("tests", "dvts(n=4, m=2)", "whole solutions only"),
        ("tests", "weighted_best_of_n(n=4)", None),
        ("log_prob", "beam_search(n=4, m=2)", None),
        ("none", "repair(n=4)", "no verifier to choose by"),
        ("judge", "repair(n=4)", "name one of the kind 'tests' or 'written_tests' in models.json, or ask for revision"),
        ("log_prob", "single @0.7 > repair(n=4)", "does not say what is wrong"),
        ("tests", "repair(n=4)", None),
        ("written_tests", "single @0.7 > repair(n=4)", None),
    ],
)
def test_arms_that_need_other_scores_are_left_out(kind, arm, reason):
    found = why_not(
        parse(arm), setup(kind, model="small" if KINDS.get(kind) and KINDS[kind].asks else None), Deployment()
    )
    assert found is None if reason is None else reason in str(found)


def test_a_template_that_does_not_say_how_a_models_turn_ends_can_not_show_what_was_wrong():
    made = setup("tests")
    bare = replace(made.main, template=replace(CHATML, assistant="{text}"))
    made = replace(made, models={**made.models, "small": bare})
    assert "lacks `assistant`" in str(why_not(parse("repair(n=4)"), made, Deployment()))
    assert why_not(parse("revision(n=4, chains=2)"), made, Deployment()) is None


@pytest.mark.parametrize(
    ("kind", "backend", "wanted", "asked"),
    [
        ("log_prob", "vllm", False, True),
        ("tests", "vllm", False, False),
        ("tests", "vllm", True, True),
        ("tests", "openai", True, False),  # some chat completions endpoints refuse a request for them
        ("log_prob", "openai", False, True),
    ],
)
def test_log_probabilities_are_asked_for_where_verifier_or_confidence_read_them(
    monkeypatch, kind, backend, wanted, asked
):
    said = []
    fake = SimpleNamespace(load_model=lambda *args, log_probs: said.append(log_probs))
    monkeypatch.setattr(registry, "_module", lambda name: fake)
    where = Deployment({"small": ("http://127.0.0.1:1",)}, {"": backend})
    registry.load_model("small", setup(kind), Path(), where, log_probs=wanted)
    assert said == [asked]


async def test_without_a_verifier_a_bundle_serves_the_arms_that_need_none(bundle_folder, caplog):
    bundle = load_bundle(bundle_folder)
    alone = replace(bundle.setup, verifier=VerifierSpec("none"))
    bundle = replace(bundle, manifest=replace(bundle.manifest, setup=alone))
    engines = Engines({"small": FakeGenerator()}, "small", NoVerifier())
    with caplog.at_level("WARNING"):
        solver = Solver(bundle, engines)
    assert {arm.name for arm in solver.policy.arms} == {"single", "majority", "revision"}
    assert "the bundle has no verifier to choose by" in caplog.text
    assert (await solver.solve(Request(Prompt.of("7 + 7 =")))).answer == "14"
    with pytest.raises(InvalidRequest, match="has no verifier to choose by"):
        await solver.solve(Request(Prompt.of("7 + 7 ="), arm=parse("best_of_n(n=2)")))


def test_tests_are_refused_at_start_unless_code_is_allowed(bundle_folder):
    bundle = load_bundle(bundle_folder)
    tested = replace(bundle.setup, verifier=VerifierSpec("tests"))
    bundle = replace(bundle, manifest=replace(bundle.manifest, setup=tested))
    with pytest.raises(CodeNotAllowed, match="--allow-code"):
        Solver(bundle, Engines({"small": FakeGenerator()}, "small", ExecutedTests()))


# Tests


class Halves(PlainTask):
    """Shares of passed tests by hand; ``more``: what a model wrote."""

    def __init__(self, more: tuple[str, ...] = ()):
        self.more = more

    async def key(self, answer: str) -> str:
        return f"{answer} on {','.join(self.more)}"

    async def share(self, answer: str) -> float | None:
        return None if answer == "untested" else 1.0 if answer in self.more else 0.5

    def with_written(self, text: str, most: int) -> "Halves":
        return Halves(tuple(text.split()[:most]))


async def test_the_share_of_tests_is_the_score_and_costs_no_tokens():
    usage = Usage()
    verifier, task = await prepared(ExecutedTests(), Asked(ASKED, Halves()), usage)
    candidates = [done("a", "a"), done("untested", "x"), Candidate(steps=("b",), end="length"), done("", None)]
    scored = await verifier.score(ASKED, candidates, max_tokens=0, usage=usage)
    assert [each.score for each in scored] == [0.5, None, None, 0.0]
    assert usage == Usage()
    assert isinstance(task, Halves)
    plain, _ = await prepared(ExecutedTests(), Asked(ASKED, load_task("math")), usage)
    assert (await plain.score(ASKED, candidates, max_tokens=None, usage=usage))[0].scores is None


class Telling(Halves):
    async def finding(self, answer: str | None) -> str:
        return "" if answer == "terse" else f"fails\u202e\x1b[2J\ud800\t{answer}\n" + "x" * 600


async def test_what_is_wrong_is_told_in_few_plain_characters():
    async def found(task: PlainTask, *candidates: Candidate) -> list[str]:
        verifier = Calibrated(ExecutedTests(), 0.5, 0.0)  # the finding stays what it was
        bound, _ = await prepared(verifier, Asked(ASKED, task), Usage())
        scored = await bound.score(ASKED, candidates, max_tokens=None, usage=Usage())
        return [each.finding for each in scored]

    told, right, terse, untested = await found(
        Telling(("right",)), *(done(text, text) for text in ("a", "right", "terse", "untested"))
    )
    assert told == "fails  [2J  a\n".ljust(499, "x") + "…"
    assert (right, terse, untested) == ("", "Your solution passes 50% of the tests.", "")
    assert await found(Halves(), done("a", "a"), done("", None)) == [
        "Your solution passes 50% of the tests.",
        "Your solution passes 0% of the tests.",
    ]


async def test_repair_shows_the_model_its_attempt_and_the_verifiers_words_and_bills_every_attempt():
    seen: list[tuple[Earlier, ...]] = []

    def write(prompt: str, candidate: Candidate, rng: Random) -> str:
        seen.append(candidate.earlier)
        return ("a", "terse", "right", "never written")[len(seen) - 1]

    engines = Engines({"small": FakeGenerator(write=write)}, "small", ExecutedTests())
    bill = Bill()
    *_, last = [each async for each in drive(parse("repair(n=4)"), Request(ASKED), engines, Telling(("right",)), bill)]
    assert isinstance(last, tuple)
    assert last[0].answer == "right on right"
    first, second, third = seen
    assert first == ()
    assert [(each.text, each.finding[:5]) for each in second] == [("a", "fails")]
    assert third == (Earlier("terse", "Your solution passes 50% of the tests."),)
    assert bill.generated_tokens == len("a") + len("terse") + len("right") + 3


async def test_a_model_writes_tests_once_a_search_and_votes_are_told_apart_by_them():
    writer, tester = saying("a", "b"), saying("b c d e")
    verifier = WrittenTests(tester, "large", WritingOptions(count=2))
    engines = Engines({"small": writer, "large": tester}, "small", verifier)
    for arm, wrote in (("best_of_n(n=4)", 1), ("majority(n=4)", 1), ("single", 0)):
        bill, before = Bill(), tester.counted.calls
        *_, last = [each async for each in drive(parse(arm), Request(ASKED), engines, Halves(), bill)]
        assert isinstance(last, tuple)
        assert tester.counted.calls - before == wrote
        assert (("large", "verifier") in bill.lines) == bool(wrote)
        assert last[0].answer.endswith(" on b,c" if wrote else " on ")
    assert bill.generated_tokens == 2
    bill = Bill()
    *_, last = [each async for each in drive(parse("best_of_n(n=4)"), Request(ASKED), engines, Halves(), bill)]
    assert last[0].answer == "b on b,c"
    assert bill.lines["large", "verifier"].generated_tokens == len("b c d e") + 1


# Calibration


async def test_a_verifier_is_calibrated_by_task():
    by_task = {"code": Platt(2.0, 1.0)}
    spec = setup("judge", model="small", slope=0.5, by_task=by_task)
    loaded = load_engines(spec, Path(), Deployment(), models=frozenset()).verifier
    assert isinstance(loaded, Calibrated)
    verifier = Calibrated(Judge(Preferring(), "small", Options()), 0.5, 0.0, {"code": (2.0, 1.0)})
    for name, expected in (("code", platt(0.9, 2.0, 1.0)), ("math", platt(0.9, 0.5, 0.0)), ("", platt(0.9, 0.5, 0.0))):
        bound, _ = await prepared(verifier, Asked(ASKED, None, name), Usage())
        (scored,) = await bound.score(ASKED, [done("Answer: 7", "7")], max_tokens=None, usage=Usage())
        assert scored.score == pytest.approx(expected)


async def test_verifiers_that_want_to_know_nothing_score_all_prompts_alike():
    verifier = FakeVerifier()
    assert await prepared(verifier, Asked(ASKED, None), Usage()) == (verifier, None)


# Collecting


def test_attempts_say_what_the_judge_read(tmp_path):
    large = Preferring()
    engines = Engines(
        {"small": saying("Answer: 7", "Answer: 8"), "large": large}, "small", Judge(large, "large", Options())
    )
    problem = Problem("p", ASKED, "7")
    units = [Unit(problem, None, 4), Unit(problem, parse("best_of_n(n=2)"), 2), Unit(problem, parse("single"), 1)]
    collect(units, lambda: engines, tmp_path / "a.parquet", tasks=Tasks(), settings={}, concurrency=4)
    frame = read_attempts([tmp_path / "a.parquet"])
    pool = frame[frame["arm"] == "sample"]
    assert [list(scores) for scores in pool["scores"]] == [[pytest.approx(0.9)], [pytest.approx(0.2)]] * 2
    once = sum(map(len, set(large.asked)))
    assert pool["scored_tokens"].sum() == pytest.approx(once, abs=2)
    run = frame[frame["arm"] == "best_of_n(n=2)"].iloc[0]
    assert (run["scored_tokens"], run["generated_tokens"]) == (once, 2 * len("Answer: 7") + 2)
    assert frame[frame["arm"] == "single"].iloc[0]["scored_tokens"] == 0


async def test_who_writes_tests_sees_an_example_and_the_callers_and_keeps_to_what_may_be_written():
    class Writer(FakeGenerator):
        asked: list[Prompt]

        async def extend(self, prompt: Prompt, *args: Any, **options: Any) -> list[Candidate]:
            self.asked.append(prompt)
            assert options["max_tokens"] == 9
            return [Candidate(steps=("assert add(1, 2) == 3",))]

    writer = Writer()
    writer.asked = []
    verifier = WrittenTests(writer, "small", WritingOptions(count=4))
    task = load_task("code").bound({"tests": ["assert add(5, 6) == 11"]})
    _, more = await prepared(verifier, Asked(ASKED, task, may_generate=lambda: 9), Usage())
    *_, question, known, last = writer.asked[0].messages
    assert "by lines like `assert add(ARGUMENTS) == RESULT`" in question.text
    assert "such lines, 1 in all" in question.text
    assert "What is 3 + 4?" in question.text
    assert (known.role, known.text) == ("assistant", "```python\nassert add(5, 6) == 11\n```")
    assert "Now write 4 more such lines, which call add " in last.text
    assert more._written == ("assert add(1, 2) == 3",)
    _, same = await prepared(verifier, Asked(ASKED, task, may_generate=lambda: 0), Usage())
    assert same is task
    assert len(writer.asked) == 1
    await prepared(verifier, Asked(ASKED, load_task("code").bound({}), may_generate=lambda: 9), Usage())
    assert "such lines, 4 in all" in writer.asked[1].question


async def test_a_prompt_too_long_to_be_asked_about_is_solved_without_written_tests():
    class Short(FakeGenerator):
        async def extend(self, *args: Any, **options: Any) -> list[Candidate]:
            raise too_long(600, 512)

    task = load_task("code").bound({"tests": ["assert add(5, 6) == 11"]})
    _, same = await prepared(WrittenTests(Short(), "small", WritingOptions()), Asked(ASKED, task), Usage())
    assert same is task
