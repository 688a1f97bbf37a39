"""The recorded calls on a page: whose, in which order, with which texts."""

import asyncio
import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx2
import pytest
import sqlalchemy as sql

from router.client import connect_aio
from router.outcomes.newest import Place, newest
from router.outcomes.tables import connect, decisions
from router.service.recorder import Recorder
from router.service.ui import calls
from router.v1 import router_pb2 as pb
from tests.support.browsing import ANN, BOB, browsing, log_in, search
from tests.support.http import serving


@pytest.fixture
def texts(tmp_path) -> Iterator[Recorder]:
    """Records prompts and solutions, too."""
    with contextlib.closing(Recorder(f"sqlite:///{tmp_path}/texts.db", prompts=True)) as recorder:
        yield recorder


async def recorded(client, recorder) -> str:
    """The page, once all is written."""
    while recorder.waiting or not recorder.newest(1):
        await client.get("/health")
    return (await client.get("/ui/calls")).text


async def test_where_nothing_is_recorded_it_says_so(solver):
    async with browsing(solver) as client:
        assert "This server records no calls" in (await client.get("/ui/calls")).text


async def test_a_call_is_there_without_its_texts(solver, recorder):
    async with browsing(solver, recorder=recorder) as client:
        assert "is recorded yet" in (await client.get("/ui/calls")).text
        await search(client, "7 + 7 =", arm="best_of_n(n=4)")
        text = await recorded(client, recorder)
    assert "best_<wbr>of_<wbr>n(<wbr>n=4)" in text
    assert "no outcome" in text
    assert "not recorded; its SHA-256 is" in text
    assert "7 + 7 =" not in text


async def test_the_objective_is_told_or_why_there_is_none(solver, recorder):
    objective = pb.Objective(average_budget=2)
    async with serving(solver, ui=True, recorder=recorder) as server, connect_aio(f"127.0.0.1:{server.port}") as stub:
        await stub.Solve(pb.SolveRequest(prompt="7 + 7 =", conversation="c", objective=objective))
        await stub.Solve(pb.SolveRequest(prompt="7 + 7 =", conversation="c"))
        await stub.Solve(pb.SolveRequest(prompt="7 + 7 ="))
        await stub.Solve(pb.SolveRequest(prompt="7 + 7 =", options=pb.SolveOptions(arm="single")))
        batch = pb.RouteBatchRequest(prompts=[pb.BatchPrompt(prompt="7 + 7 =")], budget=pb.BatchBudget(generations=9))
        await stub.RouteBatch(batch)
        while len(recorder.newest(5)) < 5:  # noqa: ASYNC110 - nothing to wait for
            await asyncio.sleep(0.01)
        async with httpx2.AsyncClient() as client:
            page = (await client.get(f"http://127.0.0.1:{server.http_port}/ui/calls")).text
    assert re.findall("<dt>objective</dt><dd>(.*?)</dd>", page)[::-1] == [
        "average budget 2",
        "average budget 2",
        "budget 4 (the default)",
        "none: the arm was named",
        "none: the batch has a budget",
    ]


async def test_texts_are_shown_where_they_are_recorded_and_escaped(solver, texts):
    async with browsing(solver, recorder=texts) as client:
        await search(client, "7 + 7 = <script>alert(1)</script>")
        text = await recorded(client, texts)
    assert "7 + 7 = &lt;script&gt;alert(1)&lt;/script&gt;" in text


async def test_a_caller_sees_its_own_calls_and_an_admin_everybodys(solver, recorder):
    async with browsing(solver, recorder=recorder, tokens=[ANN, BOB]) as client:
        await log_in(client, "ann's")
        await search(client, "7 + 7 =")
        assert await recorded(client, recorder)
        await client.post("/ui/logout")
        await log_in(client, "bob's")
        assert "<dd>ann</dd>" in (await client.get("/ui/calls")).text
        await search(client, "7 + 7 + 7 =")
        while len(recorder.newest(2)) < 2:
            await client.get("/health")
        await client.post("/ui/logout")
        await log_in(client, "ann's")
        text = (await client.get("/ui/calls")).text
    assert text.count('<span class="when">') == 1
    assert "bob" not in text


async def test_pages_follow_each_other(solver, recorder, monkeypatch):
    monkeypatch.setattr(calls, "ON_PAGE", 2)
    async with browsing(solver, recorder=recorder) as client:
        for _ in range(3):
            await search(client, "7 + 7 =")
        while len(recorder.newest(3)) < 3:
            await client.get("/health")
        first = (await client.get("/ui/calls")).text
        assert first.count('<span class="when">') == 2
        older = first.partition('" rel="next"')[0].rpartition('href="')[2].replace("&amp;", "&")
        rest = (await client.get(older)).text
    assert rest.count('<span class="when">') == 1
    assert 'rel="next"' not in rest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("at", "yesterday"),
        ("at", "2026-01-01T00:00:00"),
        ("at", "2026-01-01T00:00:00+00:00\0"),
        ("at", "0001-01-01T00:00:00+14:00"),
        ("at", "9999-12-31T23:59:59-14:00"),
        ("id", "\0"),
        ("id", "é"),
        ("id", "x" * 129),
    ],
)
async def test_a_place_that_is_none_is_refused(solver, recorder, field, value):
    async with browsing(solver, recorder=recorder) as client:
        place = {"at": "2026-01-01T00:00:00+00:00", "id": "x", field: value}
        reply = await client.get("/ui/calls", params=place)
        assert reply.status_code == 400
        assert f"{field} must be" in reply.text


def test_a_place_in_another_time_zone_is_the_same():
    assert calls.place("at=2026-01-01T02:00:00%2B02:00&id=x") == Place(datetime(2026, 1, 1, tzinfo=UTC), "x")
    assert str(calls.place("at=2026-01-01T02:00:00%2B02:00").at) == "2026-01-01 00:00:00+00:00"


async def test_an_address_with_many_fields_is_refused_once_its_caller_is_known(solver, recorder):
    many = "/ui/calls?" + "&".join(f"x{i}=1" for i in range(11))
    async with browsing(solver, recorder=recorder) as client:
        reply = await client.get(many)
        assert reply.status_code == 400
        assert "more than 10 fields" in reply.text
    async with browsing(solver, recorder=recorder, tokens=[ANN]) as client:
        assert (await client.get(many)).status_code == 401


async def test_a_database_that_is_gone_is_said(solver, tmp_path):
    with contextlib.closing(Recorder(f"sqlite:///{tmp_path}/gone.db")) as recorder:
        async with browsing(solver, recorder=recorder) as client:
            (tmp_path / "gone.db").rename(tmp_path / "elsewhere.db")
            reply = await client.get("/ui/calls")
    assert reply.status_code == 503
    assert "does not answer" in reply.text


def test_the_newest_come_first_and_none_twice(url):
    engine, at = connect(url), datetime(2026, 1, 1, tzinfo=UTC)
    row = {"method": "Solve", "bundle": "b", "prompt_sha256": "0" * 64, "level": 1, "probabilities": [1, 0, 0, 0, 0]}
    row |= {"arm": "single", "code": "OK", "reason": "", "prompt_tokens": 1, "generated_tokens": 1, "scored_tokens": 0}
    row |= {"flops": 1.0, "seconds": 1.0}
    times = [at, at, at + timedelta(seconds=1)]  # two at the same time
    with engine.begin() as connection:
        for i, time in enumerate(times):
            for caller in ("ann", "bob"):
                connection.execute(sql.insert(decisions).values(**row, caller=caller, call_id=f"{caller}{i}", at=time))
    seen, before = [], None
    while found := newest(engine, 1, caller="ann", before=before):
        seen.append(found[0]["call_id"])
        before = Place(found[0]["at"], found[0]["call_id"])
    engine.dispose()
    assert seen == ["ann2", "ann1", "ann0"]
