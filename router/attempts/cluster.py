"""Collects on a Ray cluster: each file of prompts is a shard, and each shard becomes one attempts file.

Ray Data gives the shards to worker processes on any node; if a worker dies, it gives the shard to another one, as often
as needed. A worker calls :func:`router.attempts.collect.collect` on its shard. The journal beside the output makes sure
that no attempt is lost or doubled, and seeds make the result independent of who ran it. So all nodes must have this
package, and see the same files under the same paths.
"""

import json
import logging
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from router.attempts.collect import Tally, Unit, check_rows, check_tasks, collect, held_units
from router.attempts.journal import different, named
from router.attempts.prompts import Problem, read_prompts
from router.backends import Engines
from router.errors import EngineUnavailable, InvalidFile, MissingDependency, RouterError
from router.tasks import Tasks
from router.whole_files import written_whole
from strategies import Strategy

SETTINGS = "collect.json"  # beside the shards: the settings that all of them were sampled with
_OBJECT_STORE = 100 * 2**20  # bytes; only names of shards go through it


@dataclass(frozen=True, slots=True)
class Stage:
    """What each worker does with a shard.

    pools        number of attempts in each prompt's pool, by model; None is the reference model
    tasks        find and judge the answers
    arms         other arms to run, each ``times`` times per prompt
    load         makes the engines, in the worker
    concurrency  attempts that are written at the same time
    """

    pools: Mapping[str | None, int]
    tasks: Tasks
    arms: Sequence[Strategy]
    times: int
    load: Callable[[], Engines]
    settings: dict[str, Any]
    seed: int
    concurrency: int

    def units(self, problems: Sequence[Problem]) -> list[Unit]:
        pools = [Unit(each, None, n, model=model) for model, n in self.pools.items() for each in problems if n]
        runs = [
            Unit(each, arm, arm.rows, sample) for arm in self.arms for sample in range(self.times) for each in problems
        ]
        return pools + runs


def collect_shards(
    shards: Sequence[Path],
    out: Path,
    stage: Stage,
    *,
    address: str,
    workers: int,
    on_start: Callable[[int, int], None] = lambda units, finished: None,
    on_shard: Callable[[int, Tally], None] = lambda units, tally: None,
) -> None:
    """Collect each shard, a file of prompts, into the file of the same name in the folder ``out``.

    A finished shard is skipped. All shards are read and checked before work starts.

    address   "local" for a cluster on this machine only, "auto", or host:port of a cluster's head
    workers   processes, each with one shard at a time and an equal part of the stage's concurrency
    on_start  called with the number of units, and how many of them are in finished shards
    on_shard  called for each shard finished in this run, with its number of units, and the tally of those run now

    Raises InvalidFile where the shards' names or prompts clash, or the folder was collected with other settings; what
    ``collect`` raises in a worker; MissingDependency; EngineUnavailable where the cluster can't be reached, or was
    lost. In each case, nothing that was collected is lost.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependency("--ray needs Ray: pip install 'compute-optimal-router[ray]'") from error

    stage = replace(stage, concurrency=stage.concurrency // workers)
    todo, units, finished = _plan(shards, out.resolve(), stage)
    _keep_settings(out, stage.settings)
    on_start(units, finished)
    if not todo:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **(local if address == "local" else {}))
    except Exception as error:  # Ray raises plain Exception here
        raise EngineUnavailable(f"no Ray cluster at {address!r}: {str(error).strip() or repr(error)}") from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        done = ray.data.from_items(todo, override_num_blocks=len(todo)).map_batches(
            _work,
            fn_kwargs={"stage": stage},
            batch_size=1,
            num_cpus=1,
            compute=ray.data.TaskPoolStrategy(size=workers),
        )
        for row in done.iter_rows():
            if row["error"]:
                raise pickle.loads(row["error"])
            on_shard(row["units"], Tally(*row["tally"]))
    except ray.exceptions.RayTaskError:
        raise  # a bug in our code, not a failure of the cluster
    except ray.exceptions.RayError as error:
        raise EngineUnavailable(
            f"the Ray cluster failed: {str(error).strip().splitlines()[-1]}; start the same command again, it goes on "
            "where it stopped"
        ) from error
    finally:
        ray.shutdown()


def _work(batch: dict[str, Any], stage: Stage) -> dict[str, list[Any]]:
    """Collect on one shard, in a worker. A RouterError is returned, not raised, so that Ray does not retry it."""
    shard, out = Path(str(batch["shard"][0])), Path(str(batch["out"][0]))
    total = Tally()
    error: bytes | None = None

    def on_unit(unit: Unit, tally: Tally) -> None:
        nonlocal total
        total += tally

    units = stage.units(read_prompts(shard))
    try:
        collect(
            units,
            stage.load,
            out,
            tasks=stage.tasks,
            settings=stage.settings,
            seed=stage.seed,
            concurrency=stage.concurrency,
            on_unit=on_unit,
        )
    except RouterError as caught:
        error = pickle.dumps(caught)
    return {"units": [len(units)], "tally": [astuple(total)], "error": [error]}


def _plan(shards: Sequence[Path], out: Path, stage: Stage) -> tuple[list[dict[str, str]], int, int]:
    """Return the unfinished shards, for Ray Data; the number of units; and how many are in finished shards."""
    ids: set[str] = set()
    outputs: dict[Path, Path] = {}
    todo, total, finished = [], 0, 0
    for shard in shards:
        output = out / f"{shard.stem}.parquet"
        other = outputs.setdefault(output, shard)
        if other is not shard:
            raise InvalidFile(f"{shard} and {other} would both be collected into {output.name}; rename one")
        prompts = read_prompts(shard)
        for prompt in prompts:
            if prompt.id in ids:
                raise InvalidFile(
                    f"{shard}: prompt {prompt.id!r} is in another file, too; give each prompt an id of its own"
                )
            ids.add(prompt.id)
        units = stage.units(prompts)
        check_rows(units, stage.concurrency)
        check_tasks(units, stage.tasks)
        total += len(units)
        if {unit.key for unit in units} <= held_units(units, output):
            finished += len(units)
        else:
            todo.append({"shard": str(shard.resolve()), "out": str(output)})
    return todo, total, finished


def _keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings into the folder, or compare them with those there. Raises InvalidFile if they differ."""
    path = out / SETTINGS
    if path.exists():
        if others := different(json.loads(path.read_text()), settings):
            raise InvalidFile(
                f"{out} was collected with other settings ({named(others)}; see {path}); write to another --out"
            )
        return
    with written_whole(path) as partial:
        partial.write_text(json.dumps(settings, indent=2) + "\n")
