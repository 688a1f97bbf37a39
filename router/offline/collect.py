"""Sample attempts at many prompts, resumably: prompts → searches on the engines → attempts file.

A unit of work is one prompt under one arm. Each finished unit is a line of a journal beside the output, synced to disk;
a run that was killed at any moment goes on with the units that are missing. The last run turns the journal into the
attempts file and removes it.
"""

import asyncio
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from router import answers
from router.backends import Engines, Usage
from router.errors import InvalidFile
from router.offline.attempts import SAMPLE, read_attempts, write_attempts
from router.offline.prompts import Prompt
from router.solver import Request, drive, new_bill
from strategies import Arm, Outcome
from strategies import Path as Attempt

SEARCHES = 64  # run at once: enough different paths to fill the batch of an engine that shares equal ones


@dataclass(frozen=True, slots=True)
class Unit:
    """One prompt under one arm, or, with arm None, its pool of ``n`` independent attempts."""

    prompt: Prompt
    arm: Arm | None
    n: int

    @property
    def key(self) -> tuple[str, str]:
        return self.prompt.id, SAMPLE if self.arm is None else str(self.arm)


def collect(
    units: Sequence[Unit],
    engines: Engines,
    out: Path,
    *,
    settings: dict[str, Any],
    seed: int = 0,
    on_start: Callable[[int], None] = lambda finished: None,
    on_unit: Callable[[Unit, int], None] = lambda unit, tokens: None,
) -> None:
    """Run every unit that ``out`` or its journal does not hold yet, write them all to ``out``, close the engines.

    settings  what shapes the samples (model, temperature, seed, ...); a journal made with others is not continued
    on_start  called with the number of units that earlier runs finished
    on_unit   called with each further finished unit and its generated tokens

    Raises InvalidFile where the journal belongs to another run, EngineUnavailable; either way nothing is lost.
    """
    journal = out.with_name(out.name + ".journal.jsonl")
    done = _finished(journal, settings)
    earlier = read_attempts([out]) if out.exists() else None
    in_file = set() if earlier is None else _check_pools(earlier, units, out)
    # A kill between writing the file and removing the journal leaves the same units in both.
    done = {key: rows for key, rows in done.items() if key not in in_file}
    held = in_file | set(done)
    todo = [unit for unit in units if unit.key not in held]
    on_start(len(units) - len(todo))
    missing = iter(todo)
    with _append(journal, settings) as write:

        async def work() -> None:
            for unit in missing:  # shared by the workers: each takes the next
                rows = await _run(unit, engines, seed)
                write({"prompt_id": unit.key[0], "arm": unit.key[1], "rows": rows})
                done[unit.key] = rows
                on_unit(unit, sum(row["generated_tokens"] for row in rows))

        async def work_all() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(SEARCHES):
                        group.create_task(work())
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from failures  # they all met the same broken engine
            finally:
                await engines.close()

        asyncio.run(work_all())
    frames = [pd.DataFrame([row for rows in done.values() for row in rows])] if done else []
    frames += [] if earlier is None else [earlier]
    if frames:
        write_attempts(pd.concat(frames).sort_values(["prompt_id", "arm", "sample"]), out)
    journal.unlink()


async def _run(unit: Unit, engines: Engines, seed: int) -> list[dict[str, Any]]:
    arm = unit.arm or Arm("weighted_best_of_n", unit.n)
    bill = new_bill(engines)
    # Seeded by what the unit is, not by its place in the run: a resumed run draws the same samples.
    request = Request(unit.prompt.prompt, seed=seed + zlib.crc32("\0".join(unit.key).encode()))
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
    return [await _row(unit, 0, outcome.best or Attempt(), bill)]


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


def _check_pools(earlier: pd.DataFrame, units: Sequence[Unit], out: Path) -> set[tuple[str, str]]:
    """Keys of the units that a finished file holds. Raises InvalidFile where its pools have another size."""
    sizes = earlier[earlier["arm"] == SAMPLE].groupby("prompt_id").size()
    for unit in units:
        held = sizes.get(unit.prompt.id)
        if unit.arm is None and held not in (None, unit.n):
            raise InvalidFile(
                f"{out} holds {held} attempts at prompt {unit.prompt.id!r}, {unit.n} were asked for; "
                "write to another --out, or ask for as many"
            )
    return set(zip(earlier["prompt_id"], earlier["arm"], strict=True))


def _finished(journal: Path, settings: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Units in the journal. A kill can tear its last line: that unit is run again, and the torn line is cut off."""
    if not journal.exists():
        return {}
    raw = journal.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    lines = whole.splitlines()
    if lines and json.loads(lines[0]) != {"settings": settings}:
        raise InvalidFile(
            f"{journal} belongs to a run with other settings ({lines[0].decode()[:200]}); "
            "run that one to its end, write to another --out, or delete the journal"
        )
    if len(whole) < len(raw):
        os.truncate(journal, len(whole))
    units = [json.loads(line) for line in lines[1:]]
    return {(unit["prompt_id"], unit["arm"]): unit["rows"] for unit in units}


@contextmanager
def _append(journal: Path, settings: dict[str, Any]) -> Iterator[Callable[[dict[str, Any]], None]]:
    journal.parent.mkdir(parents=True, exist_ok=True)
    with journal.open("a", encoding="utf-8") as stream:
        if not stream.tell():
            _sync(stream, {"settings": settings})
        yield lambda line: _sync(stream, line)


def _sync(stream: TextIO, line: dict[str, Any]) -> None:
    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    stream.flush()
    os.fsync(stream.fileno())
