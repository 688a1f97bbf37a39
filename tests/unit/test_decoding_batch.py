"""Rows that are decoded together get the logits that each gets alone, whatever came and went beside them."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from router.backends.in_process.attention import GROUPED
from router.backends.in_process.batch import COLUMNS, Batch
from router.backends.in_process.kv import prefill

VOCABULARY, WINDOW = 50, 24
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,  # large enough that every token matters
}


@pytest.fixture(params=["all", "window"])
def model(request):
    """Of two kinds of attention: to all tokens, and to the last WINDOW of them."""
    torch.manual_seed(0)
    if request.param == "all":
        made = LlamaForCausalLM(LlamaConfig(**SIZES))
    else:
        made = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=WINDOW))
    made.set_attn_implementation(GROUPED)
    with torch.inference_mode():
        yield made.eval()


class Rows:
    """A batch, and the tokens that its rows should have; the last one of each is not read yet."""

    def __init__(self, model, spread):
        self.model, self.batch, self.tokens = model, Batch(spread), []

    def add(self, tokens):
        (prefix,), _ = prefill(self.model.base_model, [tuple(tokens[:-1])])
        self.batch.add(prefix)
        self.tokens.append(list(tokens))

    def copy(self, row):
        self.batch.copy(row)
        self.tokens.append(list(self.tokens[row]))

    def remove(self, row):
        self.batch.remove(row)
        self.tokens[row] = self.tokens[-1]
        self.tokens.pop()

    def step(self, rng):
        """Give every row its next token, and check one row's logits."""
        logits, order = self.batch.step(self.model, [tokens[-1] for tokens in self.tokens])
        row = rng.randrange(len(self.tokens))
        alone = self.model(torch.tensor([self.tokens[row]])).logits[0, -1]
        torch.testing.assert_close(logits[order[row]], alone, rtol=1e-3, atol=1e-3)
        for tokens in self.tokens:
            tokens.append(rng.randrange(VOCABULARY))


def some(rng, length):
    return [rng.randrange(VOCABULARY) for _ in range(length)]


@pytest.mark.parametrize("spread", [0, 8, 1000])
def test_rows_that_come_and_go_change_no_other_row(model, spread):
    rng = random.Random(1)
    rows = Rows(model, spread)
    for length in (5, 30, 9):
        rows.add(some(rng, length))
    for _ in range(COLUMNS + 10):  # past the room of the first blocks
        rows.step(rng)
        change = rng.random()
        if change < 0.4:
            rows.add(some(rng, rng.randrange(2, 60)))
        elif change < 0.6:
            rows.copy(rng.randrange(len(rows.tokens)))
        elif len(rows.tokens) > 1:
            rows.remove(rng.randrange(len(rows.tokens)))


def test_idle_rows_that_fill_up_a_large_batch_change_nothing(model):
    rng = random.Random(2)
    rows = Rows(model, 4)
    for _ in range(70):
        rows.add(some(rng, rng.randrange(2, 30)))
    for _ in range(5):
        rows.step(rng)


def test_a_batch_that_was_emptied_takes_new_rows(model):
    rng = random.Random(3)
    rows = Rows(model, 8)
    rows.add(some(rng, 4))
    rows.add(some(rng, 40))
    rows.remove(1)
    rows.remove(0)
    assert len(rows.batch) == 0
    rows.add(some(rng, 6))
    rows.step(rng)


def test_a_row_lies_beside_those_of_about_its_length(model):
    rng = random.Random(4)
    rows = Rows(model, 8)
    for length in (5, 100, 7, 104, 12):
        rows.add(some(rng, length))
    assert sorted(len(block) for block in rows.batch._blocks) == [2, 3]
