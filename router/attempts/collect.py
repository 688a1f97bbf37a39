"""Samples attempts at many prompts, resumably: prompts → searches on the engines → attempts file.

A unit of work is one prompt under one arm. Each finished unit is a line of a journal beside the output, synced to disk.
A run that was killed at any moment continues with the missing units. The last run turns the journal into the attempts
file and removes it.
"""

import asyncio
import os
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import Empty
from typing import Any, BinaryIO

import pandas as pd

from router.attempts.files import JOURNAL
from router.attempts.journal import Key, append, open_journal
from router.attempts.pools import pool_of
from router.attempts.prompts import Problem, inputs_json
from router.attempts.schema import read_attempts, write_attempts
from router.backends import Asked, Engines, Usage, asks, prepared
from router.errors import EngineUnavailable, InvalidFile, InvalidRequest, RouterError
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import Task, Tasks, runnable
from router.tasks.math import close as close_workers
from strategies import Candidate, Result, Strategy, WeightedBestOfN

# Attempts that are written at the same time. A server gets twice what vLLM runs at a time on most GPUs (256): it never
# waits for us, and no request waits there for more than about one solution's time. The engine in process limits itself,
# and shares more prefixes the more it sees. A chat endpoint may be a small machine with an unreported queue, or have a
# rate limit.
ON_A_SERVER, ON_AN_ENDPOINT, IN_PROCESS = 512, 64, 1024


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt under one arm, for the ``sample``-th time; if arm is None, its pool of ``n`` attempts of one model."""

    problem: Problem
    arm: Strategy | None
    n: int
    sample: int = 0
    model: str | None = None

    @property
    def key(self) -> Key:
        return self.problem.id, pool_of(self.model) if self.arm is None else str(self.arm), self.sample

    @property
    def rows(self) -> int:
        """The most attempts that the unit writes at the same time."""
        return self.n if self.arm is None else self.arm.rows


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of generated tokens, attempts, attempts without an answer, attempts judged by a reference, right ones.

    cut  attempts without an answer that reached the longest solution
    """

    tokens: int = 0
    attempts: int = 0
    unanswered: int = 0
    cut: int = 0
    judged: int = 0
    right: int = 0

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], cut: int = 0) -> "Tally":
        judged = [row["correct"] for row in rows if row["correct"] is not None]
        unanswered = sum(row["answer"] is None for row in rows)
        return cls(sum(row["generated_tokens"] for row in rows), len(rows), unanswered, cut, len(judged), sum(judged))

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __str__(self) -> str:
        """Format like ``3.1% without an answer (2.0% cut at max_tokens), pass rate 0.42``."""
        if not self.attempts:
            return "no attempts"
        cut = f" ({self.cut / self.attempts:.1%} cut at max_tokens)" if self.cut else ""
        rate = f", pass rate {self.right / self.judged:.3f}" if self.judged else ", no references"
        return f"{self.unanswered / self.attempts:.1%} without an answer{cut}{rate}"


def collect(
    units: Sequence[Unit],
    load: Callable[[], Engines],
    out: Path,
    *,
    tasks: Tasks | None = None,
    settings: dict[str, Any],
    seed: int = 0,
    concurrency: int = IN_PROCESS,
    one_by_one: bool = False,
    workers: int = 1,
    on_start: Callable[[int], None] = lambda finished: None,
    on_unit: Callable[[Unit, Tally], None] = lambda unit, tally: None,
) -> None:
    """Run every unit that neither ``out`` nor its journal holds yet, and write all units to ``out``.

    Units begin in the order given, each as soon as there is room. A finished unit's result is kept on disk, not in
    memory.

    tasks        find and judge the answers; None: math
    load         makes the engines, which are closed at the end. With several workers each makes its own, so it is
                 pickled
    settings     what shapes the samples (model, temperature, seed, ...); a journal with other settings is not continued
    concurrency  attempts that are written at the same time, over all units
    one_by_one   each worker runs one unit at a time, so that ``seconds`` are those of a call on an idle server
    workers      processes that share the units and the concurrency
    on_start     called with the number of units that earlier runs finished
    on_unit      called for each unit that this run finishes, with its tally

    Raises InvalidFile where the journal belongs to another run, EngineUnavailable; in both cases nothing is lost.
    Raises InvalidRequest where a single unit writes more attempts at the same time than a worker may, InvalidFile where
    a prompt's task or inputs are wrong, CodeNotAllowed.
    """
    tasks = tasks or Tasks()
    check_tasks(units, tasks)
    check_rows(units, concurrency // workers)
    in_file = held_units(units, out)
    path = out.with_name(out.name + JOURNAL)
    with open_journal(path, settings) as journal:
        held = in_file | journal.keys
        todo = [unit for unit in units if unit.key not in held]
        on_start(len(units) - len(todo))
        share = _Share(todo, load, tasks, seed, concurrency, one_by_one)
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
    """The work of one process; see :func:`collect` for the fields."""

    todo: Sequence[Unit]
    load: Callable[[], Engines]
    tasks: Tasks
    seed: int
    concurrency: int
    one_by_one: bool


async def _run(share: _Share, journal: BinaryIO, on_unit: Callable[[Unit, Tally], None]) -> None:
    """Run the units and append their results to the journal."""
    engines = share.load()
    running = 0
    freed = asyncio.Event()

    async def work(unit: Unit) -> None:
        nonlocal running
        try:
            rows, cut = await _attempts(unit, engines, share.tasks, share.seed)
            append(journal, {"prompt_id": unit.key[0], "arm": unit.key[1], "rows": rows})
        finally:
            running -= unit.rows
            freed.set()
        on_unit(unit, Tally.of(rows, cut))

    try:
        async with asyncio.TaskGroup() as group:
            for unit in share.todo:
                while running and (share.one_by_one or running + unit.rows > share.concurrency):
                    freed.clear()
                    await freed.wait()
                running += unit.rows
                group.create_task(work(unit))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures  # all failed at the same engine
    finally:
        await engines.close()


def _run_in_processes(share: _Share, workers: int, path: Path, on_unit: Callable[[Unit, Tally], None]) -> None:
    """Run the units in processes that append to the same journal, each with its own engines."""
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
            key, tally = event
            on_unit(by_key[key], tally)
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
    """Run one process's units. ``events`` receives the key and tally of each finished unit, or a RouterError."""
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def on_unit(unit: Unit, tally: Tally) -> None:
        events.put((unit.key, tally))

    with path.open("ab") as journal, suppress(KeyboardInterrupt):  # the parent reports it
        try:
            asyncio.run(_run(share, journal, on_unit))
        except RouterError as error:
            events.put(error)
        finally:
            close_workers()


def _end_with_parent() -> None:
    """End this process when its parent ends: if it went on, it would disturb the run that takes over."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def check_tasks(units: Sequence[Unit], tasks: Tasks) -> None:
    """Raise InvalidFile, naming a prompt whose task or inputs are wrong, or CodeNotAllowed."""
    for problem in {unit.problem.id: unit.problem for unit in units}.values():
        task = problem.bound(tasks)
        runnable(task, judged=problem.reference is not None)


def check_rows(units: Sequence[Unit], concurrency: int) -> None:
    """Raise InvalidRequest where a unit writes more than ``concurrency`` attempts at the same time."""
    widest = max(units, key=lambda unit: unit.rows, default=None)
    if widest and widest.rows > concurrency:
        raise InvalidRequest(
            "concurrency",
            f"--concurrency leaves each process {concurrency} attempts at the same time, and {widest.key[1]} needs "
            f"{widest.rows}; raise it, or ask for fewer",
            reason="UNSPECIFIED",
        )


async def _attempts(unit: Unit, engines: Engines, tasks: Tasks, seed: int) -> tuple[list[dict[str, Any]], int]:
    """Return the unit's rows, and how many of these have no answer because they were cut."""
    task, name = unit.problem.bound(tasks), unit.problem.task or tasks.names[0]
    # A pool is scored if there is a verifier, so that arms that select by score can be replayed from it.
    arm = unit.arm or WeightedBestOfN(n=unit.n, model=unit.model)
    bill = Bill()
    # The seed depends on the unit, not on its place in the run, so a resumed run draws the same samples.
    *what, sample = unit.key
    number = seed + zlib.crc32("\0".join(what).encode()) + sample
    request = Request(unit.problem.prompt, seed=number, task=name)
    result = Result()
    async for event in drive(arm, request, engines, task, bill):
        if isinstance(event, tuple):
            result, _ = event
    seconds = bill.seconds["generate"] + bill.seconds["score"], bill.seconds["score"]
    wrote, verified = bill.spent("generator"), bill.spent("verifier")
    read = verified.scored_tokens + verified.prompt_tokens + verified.generated_tokens
    if unit.arm is None:
        # A verifier with its own model reads what was written; a judge also reads its instructions and the question.
        each = None if asks(engines.verifier) is None else round(read / max(1, len(result.candidates)))
        rows = [
            await _row(
                unit,
                i,
                attempt,
                task,
                Usage(wrote.prompt_tokens, attempt.cost, (read > 0) * attempt.length if each is None else each),
                seconds,
            )
            for i, attempt in enumerate(result.candidates)
        ]
        return rows, sum(map(_cut, result.candidates))
    total = Usage(wrote.prompt_tokens, wrote.generated_tokens, read)
    if result.best and result.best.scores is None:  # not in the arm's bill: a cascade would need it
        verifier, _ = await prepared(engines.verifier, Asked(request.prompt, task, name), Usage())
        (best,) = await verifier.score(request.prompt, [result.best], max_tokens=None, usage=Usage())
        result = replace(result, best=best)
    shown = result.shown or Candidate()
    row = await _row(unit, unit.sample, shown, task, total, seconds)
    return [row | {"usage": _lines(bill) if len(arm.models) > 1 else None}], _cut(shown)


def _cut(attempt: Candidate) -> int:
    return attempt.answer is None and attempt.end == "length"


def _lines(bill: Bill) -> list[dict[str, Any]]:
    return [
        {
            "model": model,
            "role": role,
            "prompt_tokens": usage.prompt_tokens,
            "generated_tokens": usage.generated_tokens,
            "scored_tokens": usage.scored_tokens,
        }
        for (model, role), usage in bill.lines.items()
    ]


async def _row(  # noqa: PLR0917
    unit: Unit, sample: int, attempt: Candidate, task: Task, usage: Usage, seconds: tuple[float, float]
) -> dict[str, Any]:
    problem = unit.problem
    known = problem.reference is not None
    # Judged as stated in the text: a key may not parse as the answer that it stands for.
    stated = task.extract(attempt.text) if known and attempt.answer is not None else None
    correct = stated is not None and await task.right(stated, str(problem.reference))
    return {
        "prompt_id": problem.id,
        "prompt": problem.prompt.question,
        "messages": None if problem.prompt.plain else problem.prompt.json,
        "reference": problem.reference,
        "sample": sample,
        "text": attempt.text,
        "answer": attempt.answer,
        "correct": correct if known else None,
        "scores": list(attempt.scores) if attempt.scores else None,
        "prompt_tokens": usage.prompt_tokens,
        "generated_tokens": usage.generated_tokens,
        "scored_tokens": usage.scored_tokens,
        "arm": unit.key[1],
        "inputs": inputs_json(problem),
        "task": problem.task,
        "seconds": round(seconds[0], 4),
        "score_seconds": round(seconds[1], 4),
        "log_prob": None if attempt.log_prob is None else round(attempt.log_prob, 5),
    }


def held_units(units: Sequence[Unit], out: Path) -> set[Key]:
    """Return the keys of the units in a finished file, if there is one. Raises InvalidFile where pool sizes differ."""
    if not out.exists():
        return set()
    earlier = read_attempts([out])
    sizes = earlier.groupby(["prompt_id", "arm"]).size()
    for unit in units:
        held = sizes.get(unit.key[:2])
        if unit.arm is None and held not in (None, unit.n):
            raise InvalidFile(
                f"{out} holds {held} attempts at prompt {unit.problem.id!r}, {unit.n} were asked for; "
                "write to another --out, or ask for as many"
            )
    return set(zip(earlier["prompt_id"], earlier["arm"], earlier["sample"], strict=True))
