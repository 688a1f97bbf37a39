"""A verifier that asks a model, in words, whether a solution is right."""

import pytest

from router.backends import Asked, Engines, Usage, prepared
from router.backends.verifiers.judge import Judge, Options
from router.prompt import Message, Prompt
from router.solving.bill import Bill, rates_of
from strategies import Candidate
from tests.support.judging import ASKED, Preferring, Silent, done, saying, setup, solved


async def test_a_judge_is_asked_once_about_each_solution_that_could_be_chosen():
    model = Preferring()
    candidates = [
        done("Answer: 7", "7"),
        done("Answer: 8", "8"),
        done("Answer: 7", "7"),
        done("Who knows?", None),
        Candidate(steps=("3 + 4 =",), end="length"),
        Candidate(),
    ]
    usage = Usage()
    scored = await Judge(model, "small", Options()).score(ASKED, candidates, max_tokens=None, usage=usage)
    assert [each.score for each in scored] == [0.9, 0.2, 0.9, None, None, None]
    assert len(model.asked) == usage.calls == 2
    assert usage.scored_tokens == sum(map(len, model.asked))
    assert "What is 3 + 4?" in model.asked[0]
    assert model.asked[0].endswith("Reply with one word, Yes or No.")


async def test_every_step_has_the_score_of_the_whole():
    two = Candidate(steps=("3 + 4 is\n", "Answer: 7"), end="stop", answer="7")
    (scored,) = await Judge(Preferring(), "small", Options()).score(ASKED, [two], max_tokens=None, usage=Usage())
    assert scored.scores == (0.9, 0.9)


async def test_a_judge_sees_the_conversation_but_no_system_prompt_and_braces_are_text():
    model = Preferring()
    chat = Prompt(
        (Message("system", "Be brief"), Message("user", "a"), Message("assistant", "b"), Message("user", "{no}?"))
    )
    await Judge(model, "small", Options()).score(chat, [done("{question}", "7")], max_tokens=None, usage=Usage())
    assert "user: a\n\nassistant: b\n\n{no}?" in model.asked[0]
    assert "Be brief" not in model.asked[0]
    assert "Proposed solution:\n{question}" in model.asked[0]


async def test_a_cap_on_what_is_read_holds():
    model, usage = Preferring(), Usage()
    few = [done(f"Answer: {n}", str(n)) for n in range(5)]
    length = len(Judge(model, "small", Options())._question(ASKED, few[0].text).question)
    scored = await Judge(model, "small", Options()).score(ASKED, few, max_tokens=2 * length, usage=usage)
    assert [each.score is None for each in scored] == [False, False, True, True, True]
    assert usage.scored_tokens <= 2 * length


@pytest.mark.parametrize("preferring", [True, False])
async def test_without_probabilities_verdicts_are_sampled_and_counted(preferring):
    said = ["Yes.", "I think so: yes", "No", "Hm.", "No, wait. Yes!"]
    model = saying(*said, kind=Preferring if preferring else Silent)
    usage = Usage()
    judge = Judge(model, "small", Options(sampled=preferring, samples=5, max_tokens=20))
    (scored,) = await judge.score(ASKED, [done("Answer: 7", "7")], max_tokens=None, usage=usage)
    assert scored.score == pytest.approx((3 + 1) / (4 + 2))
    assert usage.generated_tokens == sum(len(each) + 1 for each in said)
    assert usage.scored_tokens > 0
    assert usage.prompt_tokens == 0


async def test_sampled_verdicts_keep_to_what_may_still_be_written():
    usage = Usage()
    judge = Judge(saying("Yes, it is right, of course."), "small", Options())
    bound, _ = await prepared(judge, Asked(ASKED, None, may_generate=lambda: 7 - usage.generated_tokens), Usage())
    scored = await bound.score(ASKED, [done("Answer: 7", "7"), done("8", "8")], max_tokens=None, usage=usage)
    assert usage.generated_tokens == 7
    assert scored[1].score is None
    nothing = await judge.score(ASKED, [done("Answer: 7", "7")], max_tokens=100, usage=Usage())
    assert nothing[0].score is None


async def test_who_says_neither_yes_nor_no_gives_no_score():
    (scored,) = await Judge(saying("Perhaps"), "small", Options()).score(
        ASKED, [done("Answer: 7", "7")], max_tokens=None, usage=Usage()
    )
    assert scored.scores is None


async def test_a_judge_is_billed_as_the_model_that_it_asks():
    judged = setup("judge", model="large")
    writer, large = saying("Answer: 8", "Answer: 7"), Preferring()
    engines = Engines({"small": writer, "large": large}, "small", Judge(large, "large", Options()))
    bill = Bill(rates_of(judged))
    result = await solved("best_of_n(n=2)", engines, bill)
    assert result.answer == "7"
    assert set(bill.lines) == {("small", "generator"), ("large", "verifier")}
    read = bill.lines["large", "verifier"].scored_tokens
    assert read == sum(map(len, large.asked))
    assert bill.flops(role="verifier") == 2 * 5_000 * read
    assert bill.money == pytest.approx(20.0 * read + 2.0 * bill.prompt_tokens + 3.0 * bill.generated_tokens)


async def test_an_arm_that_needs_no_scores_asks_no_judge():
    large = Preferring()
    engines = Engines({"small": saying("Answer: 7"), "large": large}, "small", Judge(large, "large", Options()))
    bill = Bill()
    await solved("majority(n=4)", engines, bill)
    assert set(bill.lines) == {("small", "generator")}
