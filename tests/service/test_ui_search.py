"""A search that somebody watches on a page: its parts, what models write in it, and what bounds it."""

import asyncio
import re
from typing import Any

import pytest

from router.service.admission import Admission
from router.service.ui import search as watching
from tests.support.browsing import ANN, browsing, log_in, search

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="
SCRIPT = {"accept": "application/x-ndjson"}


def text(html: str) -> str:
    """Without tags, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html)).strip()


async def test_a_search_shows_level_plan_answer_and_bill(solver):
    async with browsing(solver) as client:
        names, parts = await search(client, HARD, objective="budget", budget="16")
    assert names[:2] == ["decision", "status"]
    assert "level 5" in text(parts["decision"])
    assert "lookahead( n=8, m=4, k=1)" in text(parts["decision"]).replace("m=4, ", "m=4, ")
    assert "fixed budget 16" in text(parts["decision"])
    shown = text(parts["solution"])
    assert shown.startswith("Answer 56")
    assert "It ended because its arm had run to the end." in shown
    assert "best fixed arm, on average" in shown
    assert parts["status"] == ""


@pytest.mark.parametrize("objective", [{}, {"objective": "budget", "budget": "4"}])
async def test_arms_that_take_longer_than_asked_are_left_out(timed, objective):
    async with browsing(timed) as client:
        page = (await client.get("/ui")).text
        _, free = await search(client, HARD, **objective, max_seconds="")
        _, bound = await search(client, HARD, **objective, max_seconds="5")
    (field,) = re.findall(r'<input [^>]*name="max_seconds"[^>]*>', page)
    assert "disabled" not in field
    assert 'min="0.001"' in field  # so that a browser tells at the field what is wrong
    assert '<label for="max_seconds">' in page
    assert "revision" in text(free["decision"])
    assert "revision" not in text(bound["decision"])


async def test_seconds_that_were_not_measured_cannot_be_asked_for(solver):
    async with browsing(solver) as client:
        page = (await client.get("/ui")).text
    assert "disabled" in re.findall(r'<input [^>]*name="max_seconds"[^>]*>', page)[0]
    assert "how long this bundle's arms take was not measured" in text(page)


async def test_what_earlier_calls_spent_shows(solver):
    async with browsing(solver) as client:
        for told in (False, True):
            _, parts = await search(client, HARD, objective="average_budget", average_budget="2")
            assert ("by what your earlier calls spent" in text(parts["decision"])) == told


async def test_a_cascade_shows_its_stages_and_why_it_ended(solver):
    async with browsing(solver) as client:
        _, parts = await search(client, HARD, arm="single @0.5 > beam_search(n=4, m=2)")
        _, long = await search(client, HARD, arm="single @1 > majority(n=4)")
    assert "after stage 1 of 2 reaches the 0.5 that ends the plan there" in text(parts["solution"])
    assert "ends the plan here" in text(parts["stages"])
    assert "not needed" in text(parts["stages"])
    assert "the last of its 2 stages had run" in text(long["solution"])
    assert "Stage 2:" in text(long["tree"])


async def test_a_tree_shows_steps_scores_votes_and_what_was_given_up(solver):
    async with browsing(solver) as client:
        _, parts = await search(client, HARD, arm="beam_search(n=8, m=4)", seed="3")
    tree = text(parts["tree"])
    assert "0.90 7 + 7 = 14" in tree
    assert "not continued" in tree
    assert "✓ returned" in tree
    assert "56 ✓" in tree
    assert 'class="share" points="' in parts["rounds"]


async def test_the_page_follows_the_search(solver, generator, monkeypatch):
    monkeypatch.setattr(watching, "_STATUS_SECONDS", 0)
    monkeypatch.setattr(watching, "_TREE_SECONDS", 0)
    async with browsing(solver) as client:
        names, _ = await search(client, HARD, arm="beam_search(n=4, m=2)")
    assert names.count("status") > 10
    assert names.count("tree") > 10


async def test_what_models_write_is_text(solver, generator):
    evil = "<script>alert(1)</script>\n<img src=x onerror=alert(2)>\nAnswer: <b>7</b>"
    generator.write = lambda prompt, candidate, rng: evil.removeprefix(candidate.text)
    async with browsing(solver) as client:
        _, parts = await search(client, "<i>7</i> + 7 =", arm="majority(n=4)")
        page = await client.post("/ui/search", data={"prompt": EASY, "arm": "majority(n=4)"})
    for html in (*parts.values(), page.text):
        assert not re.search(r"<script(?! src=\"/ui/static/script.js\" defer>)|<img|<b>7|<i>", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in parts["tree"]


async def test_without_script_the_reply_is_a_page(solver):
    async with browsing(solver) as client:
        reply = await client.post("/ui/search", data={"prompt": HARD, "objective": "budget", "budget": "16"})
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.text.startswith("<!doctype html>")
    assert reply.text.rstrip().endswith("</html>")
    assert [reply.text.count(f"<h2>{name}</h2>") for name in ("Level and plan", "Candidates", "Answer")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prompt": ""}, "prompt is empty"),
        ({"objective": "nope"}, "none of budget, average_budget, target_accuracy, price_per_flop"),
        ({"objective": "budget", "budget": "many"}, "is not a number"),
        ({"objective": "budget", "budget": "1e9"}, "is outside"),
        ({"objective": "budget", "budget": "nan"}, "is not a number"),
        ({"objective": "nothing", "nothing": "1"}, "nothing"),
        ({"max_seconds": "soon"}, "max_seconds: &#39;soon&#39; is not a number"),
        ({"max_seconds": "inf"}, "max_seconds: &#39;inf&#39; is not a number"),
        ({"objective": "budget", "budget": "4", "max_seconds": "0"}, "max_seconds 0 must be above 0"),
        ({"max_seconds": "5"}, "the seconds of this bundle&#39;s arms were not measured"),
        ({"inputs": "{"}, "not JSON"),
        ({"inputs": "[1]"}, "inputs must be an object, found a list"),
        ({"seed": "1.5"}, "seed must be a whole number from 0 to 4294967295, found 1.5"),
        ({"arm": "beam_search(n=9999, m=9)"}, "arm"),
        ({"seed": "-1"}, "seed"),
        ({"task": "weather"}, "weather"),
    ],
)
async def test_a_wrong_field_is_named(solver, fields, told):
    async with browsing(solver) as client:
        reply = await client.post("/ui/search", data={"prompt": EASY, **fields}, headers=SCRIPT)
    assert reply.status_code == 400
    assert told in reply.text
    assert not reply.text.startswith("<!doctype")


async def test_json_is_no_form(solver):
    async with browsing(solver) as client:
        reply = await client.post("/ui/search", json={"prompt": EASY})
        assert reply.status_code == 400


# What bounds it


async def test_it_needs_a_login_and_is_logged_as_its_callers(solver):
    calls: list[Any] = []
    async with browsing(solver, tokens=[ANN], observers=[calls.append]) as client:
        assert (await client.post("/ui/search", data={"prompt": EASY}, headers=SCRIPT)).status_code == 401
        await log_in(client)
        await search(client, EASY)
    refused, found = (call for call in calls if call.method == "StreamSolve")
    assert (refused.caller, refused.code) == (None, "UNAUTHENTICATED")
    assert (found.caller, found.code, found.solution.answer) == ("ann", "OK", "14")


async def test_it_waits_for_a_place_like_others(solver, generator):
    generator.latency, write, begun = 60, generator.write, asyncio.Event()

    def noticed(*given: Any) -> str:
        begun.set()
        return write(*given)

    generator.write = noticed
    async with browsing(solver, admission=Admission(1, 0)) as client:
        first = asyncio.create_task(search(client, HARD, arm="majority(n=4)"))
        await begun.wait()
        reply = await client.post("/ui/search", data={"prompt": EASY}, headers=SCRIPT)
        assert reply.status_code == 429
        assert "overloaded" in reply.text
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


async def test_closing_the_page_ends_the_search(solver, generator):
    generator.latency, ended = 0.05, asyncio.get_running_loop().create_future()
    async with browsing(solver, observers=[ended.set_result]) as client:
        form = {"prompt": HARD, "arm": "beam_search(n=4, m=2)"}
        async with client.stream("POST", "/ui/search", data=form, headers=SCRIPT) as reply:
            await anext(reply.aiter_lines())
        assert (await ended).code == "CANCELLED"


async def test_a_search_that_fails_says_so_where_it_began(solver, generator):
    generator.latency = 0.02
    async with browsing(solver, longest_search=0.3) as client:
        names, parts = await search(client, HARD, arm="beam_search(n=4, m=2)")
    assert "solution" in names
    assert "the longest time that a search may take" in text(parts["solution"])


async def test_a_refusal_is_shown_with_its_reason(solver):
    fields = {"objective": "target_accuracy", "target_accuracy": "1", "refuse": "1"}
    async with browsing(solver) as client:
        names, parts = await search(client, HARD, **fields)
    assert names[-1] == "error"
    assert "confidence insufficient" in text(parts["error"])
