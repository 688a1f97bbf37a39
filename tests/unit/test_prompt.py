"""Prompts: chat messages as people send them, read and written."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.prompt import ROLES, Message, Prompt

SYSTEM, ASKED = {"role": "system", "content": "Be short."}, {"role": "user", "content": "3 + 4?"}
SAID = {"role": "assistant", "content": "7"}


def test_a_string_is_one_message_of_the_user():
    prompt = Prompt.of("3 + 4?")
    assert prompt == Prompt.read("3 + 4?") == Prompt.read([ASKED]) == Prompt((Message("user", "3 + 4?"),))
    assert (prompt.plain, prompt.question, prompt.characters) == (True, "3 + 4?", 6)


def test_a_conversation_asks_its_last_message():
    prompt = Prompt.read([SYSTEM, ASKED, SAID, {"role": "user", "content": "5 + 6?"}])
    assert (prompt.plain, prompt.question, prompt.characters) == (False, "5 + 6?", 22)
    assert [message.role for message in prompt.messages] == ["system", "user", "assistant", "user"]


def test_a_transcript_is_what_was_said_as_one_text():
    prompt = Prompt.read([SYSTEM, ASKED, SAID, {"role": "user", "content": "And 1 more?"}])
    assert prompt.transcript == "user: 3 + 4?\n\nassistant: 7\n\nAnd 1 more?"
    assert Prompt.read([SYSTEM, ASKED]).transcript == Prompt.of("3 + 4?").transcript == "3 + 4?"


@st.composite
def conversations(draw: st.DrawFn) -> Prompt:
    text = st.text(max_size=20)
    system = [Message("system", draw(text))] if draw(st.booleans()) else []
    turns = draw(st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), text), max_size=4))
    return Prompt((*system, *turns, Message("user", draw(text))))


@given(conversations())
def test_what_is_written_is_read_again(prompt):
    assert Prompt.read(prompt.json) == prompt


@given(conversations(), conversations())
def test_different_prompts_have_different_digests(one, other):
    assert (one.digest == other.digest) == (one == other)
    assert hash(one) == hash(Prompt.read(one.json))


def test_the_digest_of_a_text_is_the_texts():
    assert Prompt.of("Größe").digest == hashlib.sha256("Größe".encode()).hexdigest()
    assert len(Prompt.of("\ud800").digest) == 64  # half a character, which JSON may hold


def test_content_may_come_in_parts():
    parts = [{"type": "text", "text": "3 + "}, {"type": "text", "text": "4?"}]
    assert Prompt.read([{"role": "user", "content": parts}]) == Prompt.of("3 + 4?")


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "at least one message"),
        (None, "list of objects"),
        (7, "list of objects"),
        ({"role": "user", "content": "a"}, "list of objects"),
        (["3 + 4?"], "list of objects"),
        ([{**ASKED, "name": "me"}], "unknown key 'name'"),
        ([{"role": "user"}], "content must be a string"),
        ([{"role": "user", "content": None}], "content must be a string"),
        ([{"role": "user", "content": 3}], "content must be a string"),
        ([{"role": "user", "content": ["a"]}], "content must be a string"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "'image_url' can't be read"),
        ([{"role": "user", "content": [{"type": "text"}]}], "'text' can't be read"),
        ([{"content": "a"}], "unknown role None"),
        ([{"role": "tool", "content": "a"}], "unknown role 'tool'; the roles are system, user, assistant"),
        ([{"role": ["user"], "content": "a"}], "unknown role"),
        ([ASKED, SAID], "last message must be the user's"),
        ([SYSTEM], "last message must be the user's"),
        ([ASKED, SYSTEM, ASKED], "only the first message may be the system's"),
        ([SYSTEM, SYSTEM, ASKED], "only the first message may be the system's"),
    ],
)
def test_what_is_no_prompt_says_why(value, says):
    with pytest.raises(ValueError, match=says):
        Prompt.read(value)


def test_every_role_is_one_that_can_be_sent():
    for role in ROLES:
        assert Message(role, "text").role == role
