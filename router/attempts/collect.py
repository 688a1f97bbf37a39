"""Sample attempts at many prompts, resumably: prompts → searches on the engines → attempts file.

A unit of work is one prompt under one arm. Each finished unit is a line of a journal beside the output, synced to disk;
a run that was killed at any moment goes on with the units that are missing. The last run turns the journal into the
attempts file and removes it.
"""

import asyncio
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Empty
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa

from router.attempts.files import JOURNAL
from router.attempts.prompts import Prompt
from router.attempts.schema import SAMPLE, SCHEMA, read_attempts, to_frame, write_attempts
from router.backends import Engines, Usage
from router.errors import EngineUnavailable, InvalidFile, InvalidRequest, RouterError
from router.solving.driver import Request, drive, new_bill
from router.tasks import math as answers
from strategies import Arm, Outcome
from strategies import Path as Attempt

# Attempts being written at once. A server has twice what vLLM runs at a time on most GPUs (256), so that it never waits
# for us, and nothing waits there for more than about one solution's time. The engine in process takes what it has room
# for by itself, and has more to share the more it sees.
ON_A_SERVER, IN_PROCESS = 512, 1024

Key = tuple[str, str, int]  # of a unit: prompt_id, arm and first sample, as in the attempts file


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt under one arm, the ``sample``-th time, or, with arm None, its pool of ``n`` independent attempts."""

    prompt: Prompt
    arm: Arm | None
    n: int
    sample: int = 0

    @property
    def key(self) -> Key:
        return self.prompt.id, SAMPLE if self.arm is None else str(self.arm), self.sample

    @property
    def width(self) -> int:
        """Attempts that it has in writing at the same time, at most; so it never has more requests open."""
        return self.n if self.arm is None else self.arm.chains or self.arm.n


def collect(
    units: Sequence[Unit],
    load: Callable[[], Engines],
    out: Path,
    *,
    settings: dict[str, Any],
    seed: int = 0,
    concurrency: int = IN_PROCESS,
    workers: int = 1,
    on_start: Callable[[int], None] = lambda finished: None,
    on_unit: Callable[[Unit, int], None] = lambda unit, tokens: None,
) -> None:
    """Run every unit that ``out`` or its journal does not hold yet, and write them all to ``out``.

    A unit is begun as soon as there is room for it, in the order given; what it found goes to disk and out of memory.

    load         makes the engines, which are closed in the end; with several workers in each of them, so it is pickled
    settings     what shapes the samples (model, temperature, seed, ...); a journal made with others is not continued
    concurrency  attempts being written at the same time, over all units
    workers      processes that share the units and the concurrency
    on_start     called with the number of units that earlier runs finished
    on_unit      called with each further finished unit and its generated tokens

    Raises InvalidFile where the journal belongs to another run, EngineUnavailable; either way nothing is lost.
    Raises InvalidRequest where one unit alone has more attempts at the same time than a worker.
    """
    check_widths(units, concurrency // workers)
    in_file = held_units(units, out)
    path = out.with_name(out.name + JOURNAL)
    with _open(path, settings) as journal:
        held = in_file | journal.keys
        todo = [unit for unit in units if unit.key not in held]
        on_start(len(units) - len(todo))
        share = _Share(todo, load, seed, concurrency)
        if workers > 1 and todo:
            _run_in_processes(share, min(workers, len(todo)), path, on_unit)
        elif todo:
            asyncio.run(_run(share, journal.stream, on_unit))
        # A kill between writing the file and removing the journal leaves the same units in both.
        found = journal.frame(without=in_file)
    if len(found):
        frames = [found, read_attempts([out])] if in_file else [found]
        write_attempts(pd.concat(frames).sort_values(["prompt_id", "arm", "sample"]), out)
    path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Share:
    """What one process does: see :func:`collect`."""

    todo: Sequence[Unit]
    load: Callable[[], Engines]
    seed: int
    concurrency: int


async def _run(share: _Share, journal: BinaryIO, on_unit: Callable[[Unit, int], None]) -> None:
    """Run the units and put what they found into the journal."""
    engines = share.load()
    running = 0
    freed = asyncio.Event()

    async def work(unit: Unit) -> None:
        nonlocal running
        try:
            rows = await _attempts(unit, engines, share.seed)
            _append(journal, {"prompt_id": unit.key[0], "arm": unit.key[1], "rows": rows})
        finally:
            running -= unit.width
            freed.set()
        on_unit(unit, sum(row["generated_tokens"] for row in rows))

    try:
        async with asyncio.TaskGroup() as group:
            for unit in share.todo:
                while running + unit.width > share.concurrency:
                    freed.clear()
                    await freed.wait()
                running += unit.width
                group.create_task(work(unit))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures  # they all met the same broken engine
    finally:
        await engines.close()


def _run_in_processes(share: _Share, workers: int, path: Path, on_unit: Callable[[Unit, int], None]) -> None:
    """Run the units in processes that append to the same journal, each with engines of its own."""
    context = get_context("spawn")  # a forked process can't use the GPU that its parent used
    events: Any = context.Queue()
    shares = [
        replace(share, todo=share.todo[first::workers], concurrency=share.concurrency // workers)
        for first in range(workers)
    ]
    processes = [context.Process(target=_run_share, args=(each, path, events)) for each in shares]
    for process in processes:
        process.start()
    by_key = {unit.key: unit for unit in share.todo}
    try:
        while any(process.is_alive() for process in processes) or not events.empty():
            try:
                event = events.get(timeout=0.2)
            except Empty:
                continue
            if isinstance(event, RouterError):
                raise event
            key, tokens = event
            on_unit(by_key[key], tokens)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if died := [process for process in processes if process.exitcode]:
        raise EngineUnavailable(
            f"{len(died)} of {workers} workers died (exit code {died[0].exitcode}; killed for memory?); start the same "
            "command again, with fewer --workers, and it goes on where it stopped"
        )


def _run_share(share: _Share, path: Path, events: Any) -> None:
    """In a worker. ``events`` takes the key and the tokens of each finished unit, and an error of ours."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def on_unit(unit: Unit, tokens: int) -> None:
        events.put((unit.key, tokens))

    with path.open("ab") as journal, suppress(KeyboardInterrupt):  # the parent says what that means
        try:
            asyncio.run(_run(share, journal, on_unit))
        except RouterError as error:
            events.put(error)
        finally:
            answers.close()


def _end_with_parent() -> None:
    """A worker that went on alone would be in the way of the run that takes over."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def check_widths(units: Sequence[Unit], concurrency: int) -> None:
    """Raises InvalidRequest where one unit has more attempts at the same time than ``concurrency``."""
    widest = max(units, key=lambda unit: unit.width, default=None)
    if widest and widest.width > concurrency:
        raise InvalidRequest(
            "concurrency",
            f"--concurrency leaves each process {concurrency} attempts at the same time, and {widest.key[1]} needs "
            f"{widest.width}; raise it, or ask for fewer",
            reason="UNSPECIFIED",
        )


async def _attempts(unit: Unit, engines: Engines, seed: int) -> list[dict[str, Any]]:
    arm = unit.arm or Arm("weighted_best_of_n", unit.n)
    bill = new_bill(engines)
    # Seeded by what the unit is, not by its place in the run: a resumed run draws the same samples.
    *what, sample = unit.key
    request = Request(unit.prompt.prompt, seed=seed + zlib.crc32("\0".join(what).encode()) + sample)
    outcome = Outcome()
    async for event in drive(arm, request, engines, bill):
        if isinstance(event, tuple):
            outcome, _ = event
    if unit.arm is None:
        read = bill.scored_tokens > 0
        return [
            await _row(unit, i, attempt, Usage(bill.prompt_tokens, attempt.cost, read * len(attempt.tokens)))
            for i, attempt in enumerate(outcome.candidates)
        ]
    return [await _row(unit, unit.sample, outcome.best or Attempt(), bill)]


async def _row(unit: Unit, sample: int, attempt: Attempt, usage: Usage) -> dict[str, Any]:
    prompt = unit.prompt
    correct = None if prompt.reference is None else await answers.same(attempt.answer, prompt.reference)
    return {
        "prompt_id": prompt.id,
        "prompt": prompt.prompt,
        "reference": prompt.reference,
        "sample": sample,
        "text": attempt.text,
        "answer": attempt.answer,
        "correct": correct,
        "scores": None if attempt.scores is None else list(attempt.scores),
        "prompt_tokens": usage.prompt_tokens,
        "generated_tokens": usage.generated_tokens,
        "scored_tokens": usage.scored_tokens,
        "arm": unit.key[1],
    }


def held_units(units: Sequence[Unit], out: Path) -> set[Key]:
    """Keys of the units that a finished file holds, none without one. Raises InvalidFile where its pools differ."""
    if not out.exists():
        return set()
    earlier = read_attempts([out])
    sizes = earlier[earlier["arm"] == SAMPLE].groupby("prompt_id").size()
    for unit in units:
        held = sizes.get(unit.prompt.id)
        if unit.arm is None and held not in (None, unit.n):
            raise InvalidFile(
                f"{out} holds {held} attempts at prompt {unit.prompt.id!r}, {unit.n} were asked for; "
                "write to another --out, or ask for as many"
            )
    return set(zip(earlier["prompt_id"], earlier["arm"], earlier["sample"], strict=True))


class _Journal:
    """Finished units, one a line, each on disk before it counts. A kill can tear a line: that unit is not in it.

    Several processes append at the same time: the workers of one run, and on a cluster one that was given up too early.
    A unit counts once, and one whose line joined a torn one is run again.
    """

    def __init__(self, stream: BinaryIO, path: Path, settings: dict[str, Any]):
        self.stream = stream
        head = next(self._lines(), b"")
        if head and json.loads(head) != {"settings": settings}:
            raise InvalidFile(
                f"{path} belongs to a run with other settings ({head.decode()[:200].strip()}); "
                "run that one to its end, write to another --out, or delete the journal"
            )
        self.keys: set[Key] = {_key(unit) for unit in self._units()}
        stream.truncate(sum(map(len, self._lines())))
        if not head:
            _append(stream, {"settings": settings})

    def frame(self, *, without: set[Key]) -> pd.DataFrame:
        """Rows of all units but those, with the columns of an attempts file."""
        rows, tables = self._rows(set(without)), [SCHEMA.empty_table()]
        while part := list(islice(rows, 10_000)):
            tables.append(pa.Table.from_pylist(part, schema=SCHEMA))
        return to_frame(pa.concat_tables(tables))

    def _rows(self, seen: set[Key]) -> Iterator[dict[str, Any]]:
        for unit in self._units():
            if _key(unit) not in seen:
                seen.add(_key(unit))
                yield from unit["rows"]

    def _units(self) -> Iterator[dict[str, Any]]:
        for line in islice(self._lines(), 1, None):
            try:
                unit = json.loads(line)
            except ValueError:  # torn
                continue
            yield unit

    def _lines(self) -> Iterator[bytes]:
        """Those that were ended; the first holds the settings."""
        self.stream.seek(0)
        return (line for line in self.stream if line.endswith(b"\n"))


def _append(journal: BinaryIO, line: dict[str, Any]) -> None:
    journal.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
    journal.flush()
    os.fsync(journal.fileno())


@contextmanager
def _open(path: Path, settings: dict[str, Any]) -> Iterator[_Journal]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as stream:
        yield _Journal(stream, path, settings)


def _key(unit: dict[str, Any]) -> Key:
    return unit["prompt_id"], unit["arm"], unit["rows"][0]["sample"]
