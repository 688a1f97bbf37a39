import json
from pathlib import Path

import pandas as pd
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from router.backends.template import Template, encode
from router.errors import InvalidFile
from router.prompt import Prompt
from router.training.chains import LONGEST, chains
from router.training.examples import Example, LabelledSteps, read_examples
from router.training.finetune import train_generator
from router.training.finetune_verifier import pack_trees, train_verifier, tree
from tests.support import tiny_models as tiny
from tests.support.fake_vllm import Characters


def grow(*attempts: LabelledSteps) -> dict:
    return tree(Characters(), [ord("?")], attempts)


P = Prompt.of("p")
RIGHT = LabelledSteps(P, ("a\n", "b"), (1.0, 1.0), count=3)
WRONG = LabelledSteps(P, ("a\n", "c"), (1.0, 0.0), count=1)


def test_attempts_share_the_tokens_that_they_begin_with():
    row = grow(RIGHT, WRONG)
    assert "".join(map(chr, row["input_ids"])) == "?a\nbc"
    assert row["parents"] == [-1, 0, 1, 2, 2]
    assert row["positions"] == [0, 1, 2, 3, 3]


def test_right_and_wrong_weigh_the_same_and_agreement_teaches_nothing():
    row = grow(RIGHT, WRONG)
    assert row["right_weights"] == [0, 0, 0, 0.5, 0]
    assert row["wrong_weights"] == [0, 0, 0, 0, 0.5]


def test_attempts_weigh_by_how_often_they_were_sampled():
    row = grow(RIGHT, WRONG, LabelledSteps(P, ("a\n", "d"), (1.0, 0.0), count=4))
    assert row["wrong_weights"][-2:] == pytest.approx([0.1, 0.4])


def test_soft_labels_count_on_both_sides():
    row = grow(LabelledSteps(P, ("a",), (0.75,)), LabelledSteps(P, ("b",), (0.25,)))
    assert row["right_weights"][1:] == pytest.approx([0.375, 0.125])
    assert row["wrong_weights"][1:] == pytest.approx([0.125, 0.375])


def test_a_packed_token_sees_itself_and_its_ancestors_only():
    packed = pack_trees([grow(RIGHT, WRONG), grow(RIGHT)])
    sees = packed["attention_mask"][0, 0]
    expected = torch.zeros(9, 9, dtype=torch.bool)
    for token, seen in enumerate(
        [(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 4), (5,), (5, 6), (5, 6, 7), (5, 6, 7, 8)]
    ):
        expected[token, list(seen)] = True
    assert torch.equal(sees, expected)
    assert packed["position_ids"].tolist() == [[0, 1, 2, 3, 3, 0, 1, 2, 3]]


def test_packed_trees_share_no_step_number():
    packed = pack_trees([grow(RIGHT, WRONG), grow(RIGHT, WRONG)])
    assert packed["steps"].tolist() == [[0, 0, 0, 2, 2, 0, 0, 0, 4, 4]]
    assert packed["parents"].tolist() == [[-1, 0, 1, 2, 2, 4, 5, 6, 7, 7]]
    assert packed["written"].tolist() == [[False, True, True, True, True] * 2]


TEMPLATE = Template(user="{text} ", answer="", retry="", delimiter="\n")
SUMS = [
    (Prompt.of(f"{a} + {b} ?"), f"{a} + {b} = {a + b}", f"{a} - {b} = {a - b}")
    for a in range(2, 12)
    for b in range(2, 12)
]
JUDGED = [
    LabelledSteps(prompt, (text,), (label,))
    for prompt, right, wrong in SUMS
    for text, label in ((right, 1.0), (wrong, 0.0))
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.rlhflow_prm(tmp_path_factory.mktemp("tiny") / "base")


def mean_log_probs(base: Path, adapter: Path | None, texts: list[tuple[Prompt, str]]) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, str(adapter)) if adapter else model
    means = []
    for prompt, text in texts:
        context = list(encode(tokenizer, TEMPLATE.parts(prompt)))
        target = tokenizer.encode(text, add_special_tokens=False)
        logits = model(torch.tensor([context + target])).logits[0, len(context) - 1 : -1]
        means.append(logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None]).mean())
    return torch.stack(means).detach()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
def test_a_generator_learns_to_write_its_examples(base, tmp_path):
    train_generator(
        [Example(p, right) for p, right, _ in SUMS] * 3, str(base), tmp_path / "out", TEMPLATE, learning_rate=1e-2
    )
    texts = [(prompt, right) for prompt, right, _ in SUMS]
    assert mean_log_probs(base, tmp_path / "out", texts).mean() > mean_log_probs(base, None, texts).mean() + 1


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_a_likelihood_verifier_learns_to_rank(base, tmp_path):
    train_verifier(JUDGED, str(base), tmp_path / "out", TEMPLATE, kind="likelihood", learning_rate=1e-2)

    def ranked(adapter: Path | None) -> float:
        right = mean_log_probs(base, adapter, [(prompt, right) for prompt, right, _ in SUMS])
        wrong = mean_log_probs(base, adapter, [(prompt, wrong) for prompt, _, wrong in SUMS])
        return float((right > wrong).float().mean())

    assert ranked(tmp_path / "out") > 0.8 > ranked(None)


def attempts(*rows: tuple[str, str | None, bool | None]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "prompt_id": "p",
                "prompt": "1 + 1?",
                "messages": None,
                "text": text,
                "answer": answer,
                "correct": correct,
            }
            for text, answer, correct in rows
        ]
    )


def test_a_chain_ends_with_the_wrong_attempt_nearest_to_the_right_one():
    far = [(f"something else {i}", "9", False) for i in range(10)]
    (example,) = chains(attempts(("1 + 1 = 2", "2", True), ("1 + 1 = 3", "3", False), ("1 + 1 =", None, False), *far))
    assert example.completion == "1 + 1 = 2"
    assert example.earlier[-1] == "1 + 1 = 3"
    assert len(set(example.earlier)) == len(example.earlier) <= LONGEST


def test_a_chain_needs_a_right_and_a_wrong_attempt():
    with pytest.raises(InvalidFile, match="both"):
        chains(attempts(("2", "2", True)))


def test_examples_may_be_conversations(tmp_path):
    file = tmp_path / "examples.jsonl"
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 4?"}]
    lines = [{"messages": said, "completion": "7"}, {"prompt": "3 + 4?", "completion": "7", "earlier": ["8"]}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    chat, plain = read_examples(file)
    assert (chat.prompt, plain.prompt, plain.earlier) == (Prompt.read(said), Prompt.of("3 + 4?"), ("8",))
    for wrong in ({"messages": said, "prompt": "x", "completion": "7"}, {"messages": [], "completion": "7"}):
        file.write_text(json.dumps(wrong) + "\n")
        with pytest.raises(InvalidFile, match="line 1"):
            read_examples(file)
