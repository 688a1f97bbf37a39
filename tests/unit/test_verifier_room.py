"""A verifier whose context is smaller than the generator's is known at the start, not once solutions are written."""

from dataclasses import replace
from pathlib import Path

import pytest

from router.backends import Engines
from router.backends.calibrated import Calibrated
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.prompt_length import check_verifier
from router.backends.registry import check_context, load_engines
from router.backends.specs import Deployment, ModelSpec, Setup, VerifierSpec
from router.backends.template import CHATML
from router.errors import InvalidFile, InvalidRequest
from router.prompt import Prompt
from router.solving.bill import Bill
from router.solving.driver import StopReason, drive
from router.solving.request import Request
from router.tasks import load_task
from strategies import parse
from tests.support.searches import finished

PROMPT = Prompt.of("What is 38 + 47 - 16 + 29 - 12 ?")
CONTEXT = 200
LONGEST = {"small": CONTEXT - len(PROMPT.question), "large": CONTEXT}


class Small(FakeVerifier):
    """Has room for ``CONTEXT`` tokens."""

    async def check_room(self, prompt, longest):
        check_verifier(len(prompt.question), longest, CONTEXT)

    async def score(self, prompt, candidates, **options):
        scored = await super().score(prompt, candidates, **options)
        return [
            replace(each, scores=()) if len(prompt.question) + len(each.text) > CONTEXT else each for each in scored
        ]


def long_or_short(prompt, candidate, rng):
    return "9 " * CONTEXT + "\nAnswer: 99" if rng.random() < 0.5 else "38 + 47 = 85\nAnswer: 86"


async def search(arm: str, *, write=None, longest=LONGEST, **request):
    models = {name: write or FakeGenerator() for name in ("small", "large")}
    engines = Engines(models, "small", Calibrated(Small(), 1.0, 0.5), longest)
    bill = Bill()
    try:
        return *await finished(drive(parse(arm), Request(PROMPT, **request), engines, load_task("math"), bill)), bill
    except InvalidRequest as error:
        assert bill.generated_tokens == bill.scored_tokens == 0
        return error


@pytest.mark.parametrize("arm", ["best_of_n(n=4)", "best_of_n(n=1)", "beam_search(n=4, m=2)"])
async def test_a_prompt_that_nothing_could_score_is_refused_before_anything_is_written(arm):
    assert not isinstance(await search(arm), InvalidRequest)
    error = await search(arm, longest={"small": LONGEST["small"] + 1})
    assert (error.field, error.reason) == ("prompt", "PROMPT_TOO_LONG")
    assert "pin an arm that needs no scores" in str(error)


@pytest.mark.parametrize("arm", ["best_of_n(n=4, model=large)", "single @0.5 > best_of_n(n=4, model=large)"])
async def test_it_counts_how_long_the_solutions_of_the_arms_own_models_are(arm):
    assert (await search(arm)).reason == "PROMPT_TOO_LONG"


async def test_a_request_for_shorter_solutions_leaves_more_room():
    assert not isinstance(await search("best_of_n(n=4, model=large)", max_tokens=LONGEST["small"]), InvalidRequest)


@pytest.mark.parametrize("arm", ["majority(n=4, model=large)", "single(model=large)", "revision(n=4, chains=2)"])
async def test_arms_that_need_no_scores_take_what_the_generator_takes(arm):
    assert not isinstance(await search(arm), InvalidRequest)


async def test_a_solution_that_turns_out_too_long_is_not_chosen_and_ends_nothing():
    writer = FakeGenerator(write=long_or_short)
    _, result, stop, _ = await search("best_of_n(n=16)", write=writer, max_scored_tokens=100_000)
    assert stop is StopReason.COMPLETE
    assert {each.answer: each.score is None for each in result.candidates} == {"99": True, "86": False}
    assert result.answer == "86"


def test_a_context_that_holds_no_solution_is_found_when_models_are_loaded(tmp_path: Path):
    spec = ModelSpec("m", 1000, CHATML, temperature=1.0, max_tokens=256)
    check_context("verifier", 257, {"small": spec})
    check_context("verifier", None, {"small": spec})
    with pytest.raises(InvalidFile, match="'verifier' has 256 tokens, and the model 'small''s longest solution alone"):
        check_context("verifier", 256, {"small": spec})
    fake = Deployment(backends={"": "fake"})
    setup = Setup("x", "small", {"small": spec, "large": replace(spec, max_tokens=512)}, VerifierSpec("prm", "x", 1))
    assert load_engines(setup, tmp_path, fake).longest == {"small": 256, "large": 512}
