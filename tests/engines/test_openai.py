"""The client of chat completions endpoints: what it asks for, and what it makes of what servers do differently."""

import asyncio
import logging
from base64 import b64encode
from dataclasses import replace

import pytest

from router.backends import Usage
from router.backends.openai import base_url, load_model, load_verifier
from router.backends.openai.samples import Sample, candidates
from router.backends.registry import why_not
from router.backends.specs import Deployment, Endpoint, Setup, VerifierSpec
from router.backends.template import CHATML
from router.errors import EngineUnavailable, InvalidFile, InvalidRequest
from router.prompt import Message, Prompt
from strategies import Candidate, Earlier, parse
from tests.support.fake_chat import PROMPT, SPEC, FakeChat, extend

# What is asked for


async def test_messages_are_sent_as_they_are_after_the_default_system_message():
    server = FakeChat()
    spec = replace(SPEC, template=replace(SPEC.template, default_system="Be brief."))
    talk = Prompt((Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "What is 3 + 4?")))
    await extend(server.generator(spec), prompt=talk)
    await extend(server.generator(spec), prompt=Prompt((Message("system", "Mine."), Message("user", "Hi"))))
    sent = [[(each["role"], each["content"]) for each in body["messages"]] for _, body, _ in server.asked]
    assert sent[0] == [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "What is 3 + 4?")]
    assert sent[1] == [("system", "Mine."), ("user", "Hi")]


async def test_earlier_attempts_are_turns_of_the_conversation():
    server = FakeChat()
    await extend(server.generator(), candidates=[Candidate(earlier=(Earlier("Answer: 8"),))])
    ((_, body, _),) = server.asked
    roles = [(each["role"], each["content"]) for each in body["messages"]]
    assert roles == [("user", "What is 3 + 4?"), ("assistant", "Answer: 8"), ("user", "Again.")]


async def test_what_was_found_wrong_is_told_in_the_users_turn():
    server = FakeChat()
    await extend(server.generator(), candidates=[Candidate(earlier=(Earlier("Answer: 8", "8 is {too} high."),))])
    ((_, body, _),) = server.asked
    assert [each["content"] for each in body["messages"]][1:] == [
        "Answer: 8",
        "8 is {too} high.\n\nWrite the corrected function, in one code block.",
    ]
    assert body["messages"][-1]["role"] == "user"


async def test_an_extra_body_adds_keys_and_null_leaves_one_out():
    server = FakeChat()
    extra = Endpoint({"top_k": 0, "seed": None}, length_key="max_completion_tokens")
    await extend(server.generator(replace(SPEC, endpoint=extra)))
    ((_, body, _),) = server.asked
    assert body["top_k"] == 0
    assert "seed" not in body
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] == SPEC.max_tokens


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080/v1"),
        ("https://api.example.com/openai/v1", "https://api.example.com/openai/v1"),
        ("https://api.example.com/v1beta/openai", "https://api.example.com/v1beta/openai"),
    ],
)
def test_a_bare_address_has_the_api_under_v1(url, base):
    assert base_url(url) == base


# Samples of one prompt


async def test_samples_of_one_prompt_are_one_request():
    server = FakeChat()
    written = await extend(server.generator(), 4)
    assert [body["n"] for _, body, _ in server.asked] == [4]
    assert len({candidate.text for candidate in written}) == 4


async def test_what_a_server_that_ignores_n_left_out_is_asked_for_with_other_seeds():
    server, usage = FakeChat(n="ignored"), Usage()
    generator = server.generator()
    written = await extend(generator, 4, usage)
    assert [candidate.end for candidate in written] == ["stop"] * 4
    assert len({candidate.text for candidate in written}) == 4
    assert len({body["seed"] for _, body, _ in server.asked}) == 4 == usage.calls
    await extend(generator, 4)
    assert ["n" in body for _, body, _ in server.asked] == [True] + [False] * 7  # it is known from then on


@pytest.mark.parametrize(("n", "tried"), [("refused", [4, 2, 2, 1, 1, 1, 1]), (2, [4, 2, 2])])
async def test_a_server_that_refuses_so_many_samples_is_asked_for_fewer(n, tried):
    server = FakeChat(n=n)
    written = await extend(server.generator(), 4)
    assert [body.get("n", 1) for _, body, _ in server.asked] == tried
    assert len({candidate.text for candidate in written}) == 4


async def test_no_more_samples_are_asked_for_at_a_time_than_llama_cpp_has_slots_for():
    server = FakeChat(slots=4)
    generator = server.generator()
    calls = await asyncio.gather(*(extend(generator, 3, seed=seed) for seed in range(6)))
    assert [len(written) for written in calls] == [3] * 6
    assert max(server.at_work) == 3
    assert server.at_work[-1] == 0


async def test_more_samples_than_slots_are_asked_for_in_parts():
    server = FakeChat(slots=3, n=3)
    assert len(await extend(server.generator(), 8)) == 8
    assert [body.get("n", 1) for _, body, _ in server.asked] == [8, 3, 3, 2]


async def test_who_gives_up_waiting_for_a_slot_leaves_it_to_others():
    server = FakeChat(slots=1)
    generator = server.generator()
    async with generator.slots.take(1):
        waiting = asyncio.create_task(extend(generator))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not server.asked
        waiting.cancel()
    (written,) = await extend(generator)
    assert written.finished


async def test_a_replica_that_does_not_answer_is_not_asked_for_its_slots_at_each_call(monkeypatch):
    asked = []

    async def ask_each(path: str) -> list[None]:
        asked.append(path)
        return [None]

    generator = FakeChat().generator()
    monkeypatch.setattr(generator.slots._replicas, "ask_each", ask_each)
    for seed in range(3):
        await extend(generator, seed=seed)
    assert len(asked) == 1
    generator.slots._ask_at = 0.0  # half a minute later
    await extend(generator)
    assert len(asked) == 2


async def test_a_server_that_says_nothing_of_slots_is_asked_for_all_at_once():
    server = FakeChat()
    generator = server.generator()
    await asyncio.gather(*(extend(generator, 3, seed=seed) for seed in range(6)))
    assert max(server.at_work) == 18


async def test_greedy_solutions_are_written_once():
    server, usage = FakeChat(), Usage()
    written = await extend(server.generator(), 3, usage, temperature=0)
    assert len(server.asked) == 1
    assert written[0] == written[1] == written[2]
    assert usage.generated_tokens == written[0].cost


async def test_equal_seeds_give_equal_samples():
    first, again, other = [
        [candidate.text for candidate in await extend(FakeChat().generator(), 3, seed=seed)] for seed in (1, 1, 2)
    ]
    assert first == again != other


# What comes back


@pytest.mark.parametrize("usage_style", ["once", "each", "growing", "none"])
@pytest.mark.parametrize("log_probs", [True, False])
@pytest.mark.parametrize("n", [1, 3])
async def test_the_bill_has_what_was_written_however_it_is_reported(usage_style, log_probs, n):
    usage = Usage()
    written = await extend(FakeChat(usage=usage_style, log_probs=log_probs).generator(), n, usage)
    assert usage.generated_tokens == sum(candidate.cost for candidate in written) == n * 13  # 12 words and the end
    assert usage.prompt_tokens == (3 if usage_style == "none" else 5)  # four characters a token, or as reported


async def test_what_the_prefix_cache_held_is_not_billed():
    usage = Usage()
    await extend(FakeChat(cached_tokens=3).generator(), usage=usage)
    assert usage.prompt_tokens == 2


async def test_steps_have_their_tokens_and_log_probabilities():
    (written,) = await extend(FakeChat().generator())
    assert [step.strip() for step in written.steps[1:]] == ["3 + 4 = 7", "Answer: 7"]
    assert sum(written.token_counts) == written.length == 12
    assert sum(written.log_probs) == pytest.approx(-0.5 * 12)
    assert len(written.log_probs) == len(written.steps)


async def test_a_server_without_log_probabilities_is_told_of_once(caplog):
    generator = FakeChat(log_probs=False).generator()
    with caplog.at_level(logging.WARNING):
        written = await extend(generator, 2) + await extend(generator, 2)
    assert {candidate.log_probs for candidate in written} == {()}
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "it gives no log-probabilities, so a log_prob verifier scores nothing"
    ]


async def test_log_probabilities_are_not_asked_for_where_nobody_reads_them():
    server = FakeChat()
    await extend(server.generator(log_probs=False))
    await extend(server.generator(replace(SPEC, endpoint=Endpoint(log_probs=False))))
    assert all("logprobs" not in body for _, body, _ in server.asked)


@pytest.mark.parametrize("apart", [True, False])
async def test_a_thought_is_kept_apart_from_the_answer_and_billed(apart):
    usage = Usage()
    (written,) = await extend(FakeChat(thought="I wonder about it.", apart=apart).generator(), usage=usage)
    assert written.text.startswith("Let us see")
    assert written.reasoning == "I wonder about it."
    assert written.thinking_tokens == usage.thinking_tokens > 0
    assert usage.generated_tokens == written.cost


def test_a_thought_that_was_not_closed_is_no_answer():
    ((written),) = candidates([(Candidate(), Sample("<think>Is it 7? Or", reason="length"), False)], None, "\n")
    assert (written.text, written.reasoning, written.end) == ("", "Is it 7? Or", "length")


async def test_the_longest_solution_is_cut():
    (written,) = await extend(FakeChat().generator(replace(SPEC, max_tokens=5)))
    assert (written.end, written.cost) == ("length", 5)


@pytest.mark.parametrize("cap", [1, 10, 21])
async def test_the_cap_is_over_all_candidates_together(cap):
    usage = Usage()
    written = await extend(FakeChat().generator(), 4, usage, max_tokens=cap)
    assert usage.generated_tokens <= cap
    assert {candidate.end for candidate in written} == {"cut"}


# What a judge asks


async def test_a_verdict_is_read_off_the_likeliest_first_tokens():
    server, usage = FakeChat(first_tokens={"Yes": 0.5, " yes": 0.1, "No": 0.2, "Maybe": 0.1, "": 0.1}), Usage()
    prefer = server.generator().prefer
    assert prefer is not None
    assert await prefer([PROMPT], ("Yes", "No"), max_tokens=None, usage=usage) == [pytest.approx(0.75)]
    assert usage == Usage(scored_tokens=9, calls=1)


async def test_no_verdict_is_no_probability():
    prefer = FakeChat(first_tokens={"Well": 0.9}).generator().prefer
    assert prefer is not None
    assert await prefer([PROMPT], ("Yes", "No"), max_tokens=None, usage=Usage()) == [None]
    assert await prefer([PROMPT], ("Yes", "No"), max_tokens=20, usage=Usage()) == [None]  # it may be longer than that


def test_where_there_are_no_log_probabilities_verdicts_are_sampled():
    assert FakeChat().generator(replace(SPEC, endpoint=Endpoint(log_probs=False))).prefer is None


# What goes wrong


@pytest.mark.parametrize("failure", [500, 503, 429, (429, {"retry-after": "0.01"}), (429, {"retry-after": "Monday"})])
async def test_what_may_pass_is_asked_again(failure):
    server = FakeChat(statuses=[failure])
    (written,) = await extend(server.generator())
    assert written.finished
    assert len(server.asked) == 2


async def test_an_answer_that_breaks_off_is_paid_and_asked_for_again():
    server, usage = FakeChat(breaks_after=6), Usage()
    (written,) = await extend(server.generator(), usage=usage)
    assert written.finished
    assert usage.generated_tokens == 6 + written.cost


async def test_a_prompt_that_is_too_long_is_the_callers_fault():
    server = FakeChat(statuses=[400], refusal="request exceeds the available context size (1024 tokens)")
    with pytest.raises(InvalidRequest, match="1024 tokens") as raised:
        await extend(server.generator(), 4)
    assert raised.value.reason == "PROMPT_TOO_LONG"
    assert len(server.asked) == 1


async def test_keys_are_sent_and_never_told(caplog):
    server = FakeChat(statuses=[401] * 9, refusal="no key sk-secret-1 here, nor mine-2")
    generator = server.generator(api_key="sk-secret-1", headers={"X-Key": "mine-2"})
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineUnavailable) as raised:
        await extend(generator)
    assert server.asked[0][2]["authorization"] == "Bearer sk-secret-1"
    assert server.asked[0][2]["x-key"] == "mine-2"
    assert "ROUTER_ENGINE_API_KEY" in str(raised.value)
    assert "secret" not in str(raised.value) + caplog.text
    assert "mine-2" not in str(raised.value) + caplog.text
    assert "secret" not in repr(Deployment(api_key="sk-secret-1", api_keys={"small": "secret"}))


async def test_callers_are_told_the_model_and_not_where_it_is(caplog):
    generator = FakeChat(statuses=[500] * 9).generator(model="small")
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineUnavailable, match="engine of small") as raised:
        await extend(generator)
    assert "http://a" not in str(raised.value)
    assert "engine http://a/v1 answered 500" in caplog.text


async def test_user_and_password_of_a_url_are_sent_as_a_header_and_never_told(caplog):
    where = Deployment({"small": ("http://me:s%40cret@a/v1", "http://me:s%40cret@b/v1")}, api_key="sk-key-1")
    assert where.urls == {"small": ("http://a/v1", "http://b/v1")}
    login = b64encode(b"me:s@cret").decode()
    server = FakeChat(statuses=[400], refusal=f"not {login}")
    generator = server.generator(api_key=where.key("small"), headers=where.headers_of("small"))
    with caplog.at_level(logging.DEBUG), pytest.raises(EngineUnavailable, match=r"not \*\*\*") as raised:
        await extend(generator)
    assert server.asked[0][2]["authorization"] == f"Basic {login}"  # and not the key: it is the server's own
    for told in (str(raised.value), caplog.text, repr(where)):
        assert "cret" not in told
        assert login not in told


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        (["http://me:se/cret@a"], "host and port"),
        (["http://me:12#cret@a"], "%23"),
        (["http://me:12?cret@a"], "%3F"),
        (["http://me:cret\u2100@a"], "host and port"),
        (["http://me:[cret@a"], "host and port"),
        (["http://me:cret@a", "http://b"], "share their user and password"),
        (["http://me:80/cret@a/v1"], "its path has an @"),
    ],
)
def test_a_url_with_a_password_that_cannot_be_used_is_refused_without_telling_it(urls, said):
    with pytest.raises(InvalidRequest, match="--url small=…: ") as raised:
        Deployment({"small": tuple(urls)})
    assert said in str(raised.value)
    assert "cret" not in str(raised.value)
    assert raised.value.field == "url"


# What it can't do


async def test_steps_are_refused():
    with pytest.raises(InvalidRequest, match="whole solutions"):
        await extend(FakeChat().generator(), steps=1)


@pytest.mark.parametrize(
    ("arm", "left_out"),
    [
        *((arm, False) for arm in ("single", "majority(n=4)", "revision(n=4, chains=2)", "best_of_n(n=4)")),
        *((arm, True) for arm in ("beam_search(n=4, m=2)", "dvts(n=4, m=2)", "single @0.7 > beam_search(n=4, m=2)")),
    ],
)
def test_arms_that_work_step_by_step_are_left_out(arm, left_out):
    setup = Setup("x", "small", {"small": SPEC}, VerifierSpec("log_prob", None, 0))
    assert (why_not(parse(arm), setup, Deployment()) or "").endswith("'steps'") == left_out


def test_arms_that_need_scores_are_left_out_where_the_server_has_no_log_probabilities():
    spec = replace(SPEC, endpoint=Endpoint(log_probs=False))
    setup = Setup("x", "small", {"small": spec}, VerifierSpec("log_prob", None, 0))
    assert "'log_probs'" in (why_not(parse("best_of_n(n=4)"), setup, Deployment()) or "")
    assert why_not(parse("majority(n=4)"), setup, Deployment()) is None


def test_what_cannot_be_loaded_says_so(tmp_path):
    where = Deployment({"small": ("http://a",)})
    with pytest.raises(InvalidRequest, match="--url small="):
        load_model("small", SPEC, tmp_path, Deployment())
    with pytest.raises(InvalidFile, match=r"models\.small\.template"):
        load_model("small", replace(SPEC, template=CHATML), tmp_path, where)
    with pytest.raises(InvalidRequest, match="reads tokens"):
        load_verifier(VerifierSpec("likelihood", "verifier", 1), SPEC, None, tmp_path, where)
