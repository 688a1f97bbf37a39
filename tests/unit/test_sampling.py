"""Tokens drawn from logits in process."""

import random

import pytest
import torch

from router.backends.in_process.sampling import BLOCK, sample

VOCABULARIES = [1, BLOCK - 1, BLOCK, 5 * BLOCK, 1000]
ROWS = 12


def logits_of(vocabulary: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, vocabulary, generator=torch.Generator().manual_seed(seed)) * 4


def numbers_of(counts: list[int], seed: int = 0) -> list[list[float]]:
    draw = random.Random(seed)
    return [[draw.random() for _ in range(count)] for count in counts]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 3.0])
def test_a_draw_is_that_of_running_sums_over_the_vocabulary(vocabulary, temperature):
    logits, numbers = logits_of(vocabulary), numbers_of([50] * ROWS)
    sums = (logits.double() / temperature).softmax(-1).cumsum(-1)
    wanted = torch.searchsorted(sums, torch.tensor(numbers, dtype=torch.float64) * sums[:, -1:], right=True)
    drawn = sample(logits, [temperature] * ROWS, numbers, at_once=5)
    assert [[token for token, _ in row] for row in drawn] == wanted.tolist()


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_rows_may_differ_in_temperature_and_in_the_number_of_draws(vocabulary):
    logits, numbers = logits_of(vocabulary), numbers_of([1 + row % 3 for row in range(ROWS)])
    temperatures = [0.0 if row % 4 == 0 else 0.5 + row / 10 for row in range(ROWS)]
    together = sample(logits, temperatures, numbers, at_once=ROWS)
    assert list(map(len, together)) == list(map(len, numbers))
    for row, drawn in enumerate(together):
        for number, (token, log_prob) in zip(numbers[row], drawn, strict=True):
            ((alone,),) = sample(logits[row : row + 1], temperatures[row : row + 1], [[number]], at_once=1)
            assert token == alone[0]
            assert log_prob == pytest.approx(alone[1], abs=1e-6)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_greedy_row_takes_the_likeliest_token(vocabulary):
    logits = logits_of(vocabulary)
    drawn = sample(logits, [0.0] * ROWS, numbers_of([2] * ROWS), at_once=4)
    assert [[token for token, _ in row] for row in drawn] == [[token] * 2 for token in logits.argmax(-1).tolist()]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_log_probability_is_that_of_temperature_1(temperature):
    logits = logits_of(1000)
    log_probs = logits.double().log_softmax(-1)
    for row, drawn in enumerate(sample(logits, [temperature] * ROWS, numbers_of([20] * ROWS), at_once=16)):
        for token, log_prob in drawn:
            assert log_prob == pytest.approx(log_probs[row, token].item(), abs=1e-5)


@pytest.mark.parametrize("number", [0.0, 1 - 2**-53])
def test_an_impossible_token_is_never_drawn(number):
    """Not by the smallest or the largest number either, whatever is rounded on the way."""
    logits = torch.full((ROWS, 200), -torch.inf)
    possible = torch.randint(200, (ROWS, 3), generator=torch.Generator().manual_seed(1))
    logits.scatter_(1, possible, torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(2)))
    for row, ((token, log_prob),) in enumerate(sample(logits, [0.8] * ROWS, [[number]] * ROWS, at_once=ROWS)):
        assert token in possible[row]
        assert log_prob > -torch.inf


def test_the_logits_stay_as_they_are():
    logits = logits_of(2 * BLOCK)
    before = logits.clone()
    sample(logits, [0.7] * ROWS, numbers_of([1] * ROWS), at_once=ROWS)
    assert torch.equal(logits, before)
