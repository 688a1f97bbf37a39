"""DeepConf's confidence where it was lowest: by hand, step by step, and from the engines' own probabilities."""

from math import log
from pathlib import Path

import pytest
import torch

from router.backends import Usage
from router.backends.in_process.sampling import confidences
from router.backends.registry import why_not
from router.backends.specs import Deployment, ModelSpec, Setup, VerifierSpec
from router.backends.steps import StepText, Writing
from router.backends.template import CHATML
from router.backends.verifiers.lowest_window import LowestWindow, Options
from router.backends.vllm.generator import _Piece
from router.prompt import Prompt
from strategies import Candidate, parse


class Characters:
    """A token is a character."""

    def decode(self, tokens):
        return "".join(map(chr, tokens))

    def encode(self, text, **options):
        return list(map(ord, text))


async def scores_of(candidate: Candidate, window: int) -> tuple[float, ...] | None:
    (scored,) = await LowestWindow(Options(window=window)).score(
        Prompt.of("?"), [candidate], max_tokens=None, usage=Usage()
    )
    return scored.scores


def nats(scores: tuple[float, ...] | None) -> list[float]:
    assert scores
    return [-10 * log(1 - score) for score in scores]


async def test_the_lowest_mean_of_a_window_up_to_each_step():
    candidate = Candidate(steps=("a", "b", "c"), token_counts=(1, 3, 2), confidences=(8.0, 2.0, 4.0, 6.0, 9.0, 1.0))
    # Windows of two: 5, 3, 5, 7.5, 5. The first step is shorter than one.
    assert nats(await scores_of(candidate, 2)) == pytest.approx([8.0, 3.0, 3.0])
    assert nats(await scores_of(candidate, 1)) == pytest.approx([8.0, 2.0, 1.0])
    assert nats(await scores_of(candidate, 100)) == pytest.approx([8.0, 5.0, 5.0])


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(),
        Candidate(steps=("a",), token_counts=(2,)),
        Candidate(steps=("a",), token_counts=(2,), confidences=(1.0,)),
    ],
)
async def test_without_confidences_there_is_no_score(candidate):
    assert await scores_of(candidate, 2) is None


def test_confidences_follow_the_tokens_of_the_steps():
    writing = Writing(StepText(Characters(), "\n"), Candidate())
    for i, character in enumerate("ab\ncd\n\n"):
        writing.append(ord(character), -1.0, float(i))
    whole = writing.ended("stop")
    assert whole.token_counts == (3, 4)
    assert whole.confidences == tuple(map(float, range(7)))
    going_on = Writing(StepText(Characters(), "\n"), whole)
    going_on.append(ord("e"), -1.0, 7.0)
    assert going_on.ended("stop").confidences == tuple(map(float, range(8)))


def test_a_rows_confidence_is_that_of_its_likeliest_tokens():
    logits = torch.tensor([[3.0, 1.0, 0.0, -50.0], [0.0, 0.0, 0.0, 0.0]])
    log_probs = logits.log_softmax(-1)
    assert confidences(logits, 2, at_once=1) == pytest.approx([-log_probs[0, :2].mean().item(), log(4)])
    assert confidences(logits, 100, at_once=8)[1] == pytest.approx(log(4))


def test_what_vllm_sends_is_read():
    choice = {
        "index": 0,
        "token_ids": [7, 8],
        "finish_reason": None,
        "logprobs": {
            "top_logprobs": [{"token_id:7": -3.0, "token_id:1": -0.1, "token_id:2": -2.5}, {"token_id:8": 0.0}]
        },
    }
    piece = _Piece.of(choice, False, 2)
    assert piece.confidences == pytest.approx([1.3, 0.0])
    assert piece.log_probs == [None, None]
    with pytest.raises(ValueError, match="lists of the likeliest"):
        _Piece.of(choice | {"logprobs": {"top_logprobs": [{}]}}, False, 2)


def test_it_needs_an_engine_that_says_how_likely_other_tokens_were(tmp_path: Path):
    model = ModelSpec("m", 1_000, CHATML, temperature=0.8, max_tokens=512)
    setup = Setup("tiny", "small", {"small": model}, VerifierSpec("lowest_window"))
    assert setup.verifier.options == {"window": 64, "top": 20}
    assert why_not(parse("beam_search(n=4, m=2)"), setup, Deployment()) is None
    elsewhere = Deployment(backends={"": "openai"})
    assert "top_log_probs" in str(why_not(parse("best_of_n(n=4)"), setup, elsewhere))
    assert why_not(parse("majority(n=4)"), setup, elsewhere) is None
