"""Files that a running server reads or writes are broken, replaced or emptied beside it."""

import asyncio
import json
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from router.bundle.manifest import digests, sha256
from router.v1 import admin_pb2 as admin
from router.v1 import router_pb2 as pb
from tests.support.faults import Caller, many_calls, recorded

pytestmark = pytest.mark.processes


def _document(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        change(document)
        (folder / name).write_text(json.dumps(document))

    return breaks


def _content(name: str, content: bytes) -> Callable[[Path], None]:
    def breaks(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return breaks


def _add_adapter(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "adapter_model.safetensors").write_bytes(b"weights")
    _document("manifest.json", lambda it: it["setup"]["models"]["small"].update(adapter=name))(folder)
    _document("manifest.json", lambda it: it.update(files=digests(folder, [name])))(folder)


def _rename(setup: dict[str, Any], name: str) -> None:
    setup.update(models={name: setup["models"]["small"]}, reference=name)


BROKEN: dict[str, Callable[[Path], None]] = {
    "edges nan": _document("manifest.json", lambda it: it.update(edges=[float("nan")] * 4)),
    "edges text": _document("manifest.json", lambda it: it.update(edges="abcd")),
    "edges rise": _document("manifest.json", lambda it: it.update(edges=[0.2, 0.4, 0.6, 0.8])),
    "negative size": _document("manifest.json", lambda it: it["setup"]["models"]["small"].update(parameters=-1)),
    "no setup": _document("manifest.json", lambda it: it.update(setup=[])),
    "outside": _document("manifest.json", lambda it: it["files"].update({"../tokens": "0" * 64})),
    "empty manifest": _content("manifest.json", b""),
    "nested manifest": _content("manifest.json", b"[" * 300_000 + b"]" * 300_000),
    "accuracy 7": _document("policy.json", lambda it: it["cells"][0].update(accuracy=7)),
    "accuracy nan": _document("policy.json", lambda it: it["cells"][0].update(accuracy=float("nan"))),
    "cost infinite": _document("policy.json", lambda it: it["cells"][0]["cost"].update(generations=float("inf"))),
    "no prompts": _document("policy.json", lambda it: [cell.update(prompts=0) for cell in it["cells"]]),
    "no cells": _document("policy.json", lambda it: it.update(cells=[])),
    "text policy": _content("policy.json", b'"policy"'),
    "binary policy": _content("policy.json", bytes(range(256))),
    "no model": _content("difficulty.joblib", b"\x80\x04."),
}
# What the fake vLLM servers lack, and the word for it.
UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "adapter": (lambda folder: _add_adapter(folder, "mine"), "not 'mine'"),
    "context": (_document("manifest.json", lambda it: it["setup"]["models"]["small"].update(max_tokens=5000)), "5000"),
    "model": (_document("manifest.json", lambda it: _rename(it["setup"], "tiny")), "tiny"),
}
OF_MANIFEST = {"edges nan", "edges text", "edges rise", "negative size", "no setup", "outside"}
OF_MANIFEST |= {"empty manifest", "nested manifest", *UNFIT}


async def test_broken_bundles_are_activated(router, bundles, engines, often, tallied):
    ways = {what: (breaks, "") for what, breaks in BROKEN.items()} | UNFIT
    with tallied(f"bundles broken in {len(ways)} ways, or unfit for the engines, activated while calls run") as tally:
        async with router.channel() as channel:
            caller, ops = Caller(channel, tally), Caller(channel, tally, "ops")
            for i in range(often(1, 5)):
                for j, (what, (breaks, because)) in enumerate(ways.items()):
                    folder = bundles / "broken"
                    shutil.copytree(bundles / "two", folder)
                    breaks(folder)
                    if what not in OF_MANIFEST:  # it was made so: digests agree
                        _document("manifest.json", lambda it: it.update(files=digests(folder)))(folder)  # noqa: B023
                    calls = asyncio.create_task(many_calls(caller, 5, first=100 * i + j))
                    request = admin.ActivateBundleRequest(name="broken", digest=sha256(folder / "manifest.json"))
                    activate = partial(ops.admin.ActivateBundle, request, timeout=60, metadata=ops.metadata)
                    await ops.refused(f"a bundle with {what}", activate, "FAILED_PRECONDITION", because)
                    listing = await ops.admin.ListBundles(admin.ListBundlesRequest(), metadata=ops.metadata)
                    found = {each.name: bool(each.problem) for each in listing.bundles}
                    if found.get("one") is not False or found.get("two") is not False:
                        tally.lost.append(f"{what} hides others: {found}")
                    await calls
                    tally.times += 1
                    shutil.rmtree(folder)


async def test_tokens_that_are_broken(scripted, often, tallied):
    good = scripted.tokens.read_text()
    ours = good.split("\n[ops]")[0]
    app, empty = ours.split('"')[1], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    broken = [
        "",
        "[",
        "\0",
        good + f'[other]\nsha256 = "{app}"\n',  # a digest twice
        good + f'[nobody]\nsha256 = "{empty}"\n',
        '[app]\nsha256 = "short"\n',
        "app = 7\n",
    ]
    with tallied(f"the file of tokens replaced by {len(broken)} broken ones, then well again") as tally:
        async with scripted.channel() as channel:
            caller = Caller(channel, tally, exact=False)
            try:
                for i in range(often(1, 10)):
                    for j, text in enumerate(broken):
                        scripted.tokens.write_text(text)
                        tally.times += 1
                        await caller.solve(100 * i + j, "single")
                        for token in ("other", ""):
                            metadata = (("authorization", f"Bearer {token}"),)
                            route = partial(
                                caller.stub.Route, pb.RouteRequest(prompt="7 + 7 ="), timeout=60, metadata=metadata
                            )
                            await caller.refused(f"token {token!r}", route, "UNAUTHENTICATED")
                    scripted.tokens.write_text(good)
                    await caller.solve(i, "single")
            finally:
                scripted.tokens.write_text(good)


async def test_sighup(router, engines, often, tallied):
    with tallied("terminal closed (SIGHUP) in mid-search") as tally:
        async with router.channel() as channel:
            caller = Caller(channel, tally)
            for i in range(often(2, 20)):
                calls = asyncio.create_task(many_calls(caller, 10, first=10 * i))
                await asyncio.sleep(0.05)
                router.process.signal(signal.SIGHUP)
                tally.times += 1
                await calls


async def test_records_are_purged_while_others_are_made(scripted, often, tallied):
    command = [sys.executable, "-m", "router.cli", "outcomes", "purge", "--outcomes", scripted.outcomes]
    with tallied("one caller's records purged while another's are made") as tally:
        kept: set[str] = set()
        async with scripted.channel() as channel:
            app, ops = (Caller(channel, tally, name, exact=False) for name in ("app", "ops"))

            async def record(caller: Caller, number: int) -> str | None:
                reply = await caller.solve(number, "single")
                if reply is None:
                    return None
                message = pb.RecordOutcomeRequest(call_id=reply.solution.call_id, correct=True)
                tell = partial(caller.stub.RecordOutcome, message, timeout=60, metadata=caller.metadata)
                return reply.solution.call_id if await caller.ask("an outcome", tell) else None

            for i in range(often(1, 5)):
                left = {await record(ops, 1000 * i + j) for j in range(10)}
                purging = await asyncio.create_subprocess_exec(
                    *command, "--caller", "ops", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
                )
                tally.times += 1
                ending, number = asyncio.create_task(purging.communicate()), 0
                while not ending.done() or not number:
                    kept |= {call_id for call_id in [await record(app, 1000 * i + number)] if call_id}
                    number += 1
                said, _ = await ending
                if purging.returncode:
                    tally.lost.append(f"purge: {said.decode()[-200:]}")
                decisions, outcomes = recorded(scripted.outcomes)
                tally.lost += [f"not purged: {call_id}" for call_id in left & (decisions | outcomes)]
        decisions, outcomes = recorded(scripted.outcomes)
        tally.lost += [f"decision or outcome {call_id}" for call_id in kept - (decisions & outcomes)]
