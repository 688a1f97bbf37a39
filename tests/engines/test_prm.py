"""Published reward models: each family's format on an example written out by hand, and the checks around it."""

import pytest
from transformers import AutoTokenizer

from router.backends import Usage, check_room
from router.backends.in_process import prm_models
from router.backends.prm import FORMATS, label_ids
from router.backends.specs import VerifierSpec
from router.errors import InvalidRequest, MissingWeights
from router.prompt import Message, Prompt
from router.schema import read
from strategies import Candidate
from tests.support import tiny_models as tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers' own

TEXT = "What is 2 + 3 * 4 ?"
PROMPT = Prompt.of(TEXT)
STEPS = ("3 * 4 = 12\n", "2 + 12 = 14\n", "Answer: 14")
CONVERSATION = Prompt(
    (Message("system", "Be 1 !"), Message("user", "1 + 1 ?"), Message("assistant", "1 !"), Message("user", TEXT))
)
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
BUILD = {
    "qwen2.5-math-prm": tiny.qwen_math_prm,
    "skywork-o1-open-prm": tiny.skywork_prm,
    "rlhflow-prm": tiny.rlhflow_prm,
    "math-shepherd-prm": tiny.math_shepherd_prm,
}
# What the model reads, each scored token between guillemets.
GOLDEN = {
    "qwen2.5-math-prm": (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{TEXT}<|im_end|>\n<|im_start|>assistant\n"
        "3 * 4 = 12«<extra_0>»2 + 12 = 14«<extra_0>»Answer: 14«<extra_0>»<|im_end|>\n"
    ),
    "skywork-o1-open-prm": f"<|endoftext|>{TEXT}\n3 * 4 = 12«\n»2 + 12 = 14«\n»Answer: 14«\n»",
    "rlhflow-prm": (
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{TEXT} 3 * 4 = 12<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n«\n»+<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n2 + 12 = 14<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n«\n»+<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAnswer: 14<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n«\n»+<|eot_id|>"
    ),
    "math-shepherd-prm": f"<s> {TEXT} 3 * 4 = 12« ки»\n2 + 12 = 14« ки»\nAnswer: 14« ки»",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: build(tmp_path_factory.mktemp(kind)) for kind, build in BUILD.items()}


@pytest.fixture(scope="module")
def verifiers(folders):
    return {kind: prm_models.load(VerifierSpec(kind, None, 1, str(folder))) for kind, folder in folders.items()}


@pytest.fixture(params=BUILD)
def verifier(verifiers, request):
    return verifiers[request.param]


@pytest.mark.parametrize("kind", BUILD)
def test_a_format_is_what_its_authors_documented(folders, kind):
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    assert marked(tokenizer, FORMATS[kind].read(tokenizer, PROMPT, STEPS)) == GOLDEN[kind]


@pytest.mark.parametrize("kind", BUILD)
def test_what_was_said_before_is_read_and_the_system_message_is_not(folders, kind):
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])
    turns = "<|im_end|>\n<|im_start|>assistant\n1 !<|im_end|>\n<|im_start|>user\n"
    before = f"1 + 1 ?{turns}" if kind == "qwen2.5-math-prm" else "user: 1 + 1 ?\n\nassistant: 1 !\n\n"
    expected = GOLDEN[kind].replace(TEXT, before + TEXT)
    assert marked(tokenizer, FORMATS[kind].read(tokenizer, CONVERSATION, STEPS)) == expected


def marked(tokenizer, reading) -> str:
    """What the model reads, each scored token between guillemets."""
    text, begun = "", 0
    for at in reading.at:
        before, through = (tokenizer.decode(reading.tokens[:end]) for end in (at, at + 1))
        text, begun = f"{text}{before[begun:]}«{through[len(before) :]}»", len(through)
    return text + tokenizer.decode(reading.tokens)[begun:]


async def test_a_step_has_one_score_and_does_not_see_what_follows(verifier):
    whole, part, other = Candidate(steps=STEPS), Candidate(steps=STEPS[:2]), Candidate(steps=("3 * 4 = 13\n",))
    scored = await verifier.score(PROMPT, [whole, part, other, Candidate(), whole], max_tokens=None, usage=Usage())
    assert [len(candidate.scores) if candidate.scores else None for candidate in scored] == [3, 2, 1, None, 3]
    assert scored[0].scores[:2] == pytest.approx(scored[1].scores, abs=1e-4)
    assert scored[4].scores == scored[0].scores
    assert all(0 < score < 1 for candidate in scored for score in candidate.scores or ())
    assert len({round(score, 3) for candidate in scored[:3] for score in candidate.scores}) >= 3


async def test_reading_is_billed_once_and_capped(verifier):
    usage, candidate = Usage(), Candidate(steps=STEPS)
    length = len(verifier.read(PROMPT, candidate).tokens)
    await verifier.score(PROMPT, [candidate, candidate], max_tokens=None, usage=usage)
    assert (usage.calls, usage.scored_tokens) == (1, length)
    scored = await verifier.score(PROMPT, [candidate, Candidate(steps=STEPS[:1])], max_tokens=length, usage=usage)
    assert [candidate.scores is None for candidate in scored] == [False, True]
    scored = await verifier.score(PROMPT, [candidate], max_tokens=length - 1, usage=usage)
    assert scored[0].scores is None
    assert usage.scored_tokens == 2 * length


MARKS = ["<extra_0>", "<|im_end|>", "\n", "<|eot_id|>", "<|start_header_id|>", "</s>", "<s>", "ки", "+"]


@pytest.mark.parametrize("mark", MARKS)
async def test_what_looks_like_a_mark_in_a_text_is_text(verifier, folders, mark):
    steps = (f"3 {mark} 4 = 12\n", f"14 {mark}", f"ру{mark} {mark}")
    (scored,) = await verifier.score(
        Prompt.of(f"{mark} What {mark} ?"), [Candidate(steps=steps)], max_tokens=None, usage=Usage()
    )
    assert len(scored.scores) == 3


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("mark", MARKS)
def test_a_text_adds_no_control_token_and_moves_no_score(folders, kind, mark):
    tokenizer = AutoTokenizer.from_pretrained(folders[kind])

    def control(prompt: str, steps: tuple[str, ...]) -> tuple[list[int], list[int]]:
        """The control tokens that are read, and the tokens that are scored."""
        reading = FORMATS[kind].read(tokenizer, Prompt.of(prompt), steps)
        special = {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        return [each for each in reading.tokens if each in special], [reading.tokens[at] for at in reading.at]

    spelled = control(f"{mark} What {mark} ?", (f"3 {mark} 4 = 12\n", f"{mark} 14", "Answer: 14"))
    assert spelled == control("What ?", STEPS)


async def test_a_solution_longer_than_the_context_is_not_scored(verifier):
    long, short = Candidate(steps=("3 * 4 = 12\n" * 300,)), Candidate(steps=STEPS)
    usage = Usage()
    scored = await verifier.score(PROMPT, [long, short, long], max_tokens=1000, usage=usage)
    assert [candidate.scores is not None and len(candidate.scores) for candidate in scored] == [0, 3, 0]
    assert scored[0].score is None
    assert usage.scored_tokens == len(verifier.read(PROMPT, short).tokens)


async def test_a_prompt_is_refused_where_its_longest_solution_could_not_be_scored(verifier):
    taken = len(verifier.read(PROMPT, Candidate(steps=("0",))).tokens)
    await check_room(verifier, PROMPT, verifier.context - taken)
    with pytest.raises(InvalidRequest, match=f"takes {taken} tokens of the verifier's context of 1024") as raised:
        await check_room(verifier, PROMPT, verifier.context - taken + 1)
    assert (raised.value.field, raised.value.reason) == ("prompt", "PROMPT_TOO_LONG")
    with pytest.raises(InvalidRequest, match="30000 characters"):
        await check_room(verifier, Prompt.of("7" * 30_000), 1)


def test_labels_that_are_one_token_are_refused(folders):
    tokenizer = AutoTokenizer.from_pretrained(folders["skywork-o1-open-prm"])
    ids = label_ids("rlhflow-prm", tokenizer)
    assert ids is not None
    assert [tokenizer.decode([each]) for each in ids] == ["+", "-"]

    class Same:
        unk_token_id = 0

        def encode(self, text, **options):
            return [7]

    for kind in ("rlhflow-prm", "math-shepherd-prm"):
        with pytest.raises(MissingWeights, match="reads them as ids 7 and 7"):
            label_ids(kind, Same())


def test_weights_that_lack_the_head_are_refused(tmp_path):
    folder = tiny.skywork_prm(tmp_path)
    with pytest.raises(MissingWeights, match=r"lacks score\.0\.bias"):
        prm_models.load(VerifierSpec("qwen2.5-math-prm", None, 1, str(folder)))
    with pytest.raises(MissingWeights, match="needs a model"):
        prm_models.load(VerifierSpec("qwen2.5-math-prm", None, 1))


def test_a_verifier_without_a_model_is_read():
    verifier = {"kind": "log_prob", "adapter": None, "parameters": 0}
    assert read(VerifierSpec, verifier).model is None
    assert read(VerifierSpec, {**verifier, "model": "folder"}).model == "folder"


async def test_scores_depend_on_the_conversation_unless_it_has_no_room(verifier):
    long = Prompt((Message("user", "1 + " * 600), Message("assistant", "1"), Message("user", TEXT)))
    candidates = [Candidate(steps=STEPS)]
    alone, talked, cut = [
        await verifier.score(each, candidates, max_tokens=None, usage=Usage()) for each in (PROMPT, CONVERSATION, long)
    ]
    assert alone != talked
    assert alone == cut
