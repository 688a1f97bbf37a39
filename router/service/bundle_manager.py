"""Manages which bundle decides.

A new bundle is loaded beside the active one, then replaces it by one assignment. The bundle before is kept for a
roll-back. A shadow bundle may decide the same requests, for the log only.
"""

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from router.backends import Engines
from router.backends.registry import close_unused
from router.backends.specs import Deployment
from router.bundle.bundle import Bundle, load_bundle
from router.bundle.manifest import read_manifest
from router.errors import InvalidBundle, InvalidRequest, RouterError
from router.prompt import Prompt
from router.solving.request import Request
from router.solving.solver import Decision, Solver

_TEST_REQUEST = Request(Prompt.of("1 + 1 ="))  # a bundle must decide it before it is activated
_MAX_COMPARISONS = 100  # shadow decisions that may be pending; further ones are skipped, so that they delay nothing
_Changed = TypeVar("_Changed")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BundleListing:
    """A bundle's folder. ``problem``: why it can't be served, in which case ``digest`` and ``id`` are empty."""

    name: str
    digest: str
    id: str
    problem: str


class BundleManager:
    """Holds the solver that decides. A call keeps the solver it began with, and engines close after their last call.

    active      the solver of the bundle that decides
    shadow      the solver of the bundle that decides for the log only; None: there is none
    root        folder whose subfolders are bundles that may be activated; None: no other bundle may be
    load        loads a bundle's engines where it needs others than those that run; None: such bundles are refused
    deployment  where models are served, and what runs them
    fits        raises InvalidRequest where the model servers lack something that a bundle needs
    activated   called with each bundle that becomes active
    """

    def __init__(
        self,
        solver: Solver,
        root: Path | None = None,
        load: Callable[[Bundle], Engines] | None = None,
        deployment: Deployment | None = None,
        *,
        fits: Callable[[Bundle], None] = lambda bundle: None,
        activated: Callable[[Bundle], None] = lambda bundle: None,
    ):
        self.active = solver
        self.shadow: Solver | None = None
        self._previous: Solver | None = None
        self._root = root
        self._load_engines = load
        self._deployment = deployment
        self._fits, self._activated = fits, activated
        self._calls: Counter[Solver] = Counter()
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()

    def solver(self) -> "_SolverInUse":
        """Return the solver that decides now, as a context manager that keeps its engines open."""
        return _SolverInUse(self, self.active)

    # Changes

    def list(self) -> Sequence[BundleListing]:
        """Return every bundle in ``root``, its files checked. Reads files, so don't call it in the event loop."""
        folders = sorted(path.parent for path in self._root.glob("*/manifest.json")) if self._root else []
        return [_listed(folder) for folder in folders]

    async def activate(self, name: str, digest: str) -> tuple[Bundle, Bundle | None]:
        """Load and try a bundle, then make it active; return it and the one that a roll-back activates, if any.

        Nothing changes where the bundle is active already: a call that is repeated must not lose the one before.
        A caller who leaves while the bundle is loaded does not stop that, see :meth:`_change`.
        Raises InvalidRequest, InvalidBundle, MissingWeights, MissingDependency; the active bundle then stays.
        """
        folder = self._folder(name, digest)
        return await self._change(lambda: self._activate(folder, digest))

    async def _activate(self, folder: Path, digest: str) -> tuple[Bundle, Bundle | None]:
        if digest.lower() == self.active.bundle.digest:
            return self.active.bundle, self._previous.bundle if self._previous else None
        solver = await self._loaded(folder, digest)
        replaced, self._previous, self.active = self._previous, self.active, solver
        if replaced:
            self._retire(replaced)
        self._activated(self.active.bundle)
        _log.info("%s decides, %s did before", self.active.bundle.id, self._previous.bundle.id)
        return self.active.bundle, self._previous.bundle

    async def roll_back(self) -> Bundle:
        """Make the bundle before the active one active again, and return it. Raises InvalidBundle without one."""
        async with self._changing:
            if self._previous is None:
                raise InvalidBundle("there is no bundle to roll back to: none was activated since the last time")
            left, self.active, self._previous = self.active, self._previous, None
            self._retire(left)
            self._activated(self.active.bundle)
            _log.info("%s decides again, %s is rolled back", self.active.bundle.id, left.bundle.id)
            return self.active.bundle

    async def set_shadow(self, name: str, digest: str) -> str:
        """Set the shadow bundle and return its id; an empty ``name`` unsets it. Raises as :meth:`activate`."""
        folder = self._folder(name, digest) if name else None
        return await self._change(lambda: self._set_shadow(folder, digest))

    async def _set_shadow(self, folder: Path | None, digest: str) -> str:
        if folder and self.shadow and self.shadow.bundle.digest == digest.lower():
            return self.shadow.bundle.id
        shadow = await self._loaded(folder, digest) if folder else None
        left, self.shadow = self.shadow, shadow
        if left:
            self._retire(left)
        return self.shadow.bundle.id if self.shadow else ""

    async def _change(self, begin: Callable[[], Coroutine[Any, Any, _Changed]]) -> _Changed:
        """Make one change at a time, and to its end. If the caller leaves, it goes on, and the log says how it ended.

        Loading engines can't be stopped, and two bundles loaded at once might not fit into memory. A caller who leaves
        before its change began takes that back. One who asks again for the same bundle waits for it, and is told.
        """
        await self._changing.acquire()
        change = self._start_task(begin())
        change.add_done_callback(lambda ended: self._changing.release())
        try:
            return await asyncio.shield(change)
        except asyncio.CancelledError:
            change.add_done_callback(_tell)
            raise

    def _folder(self, name: str, digest: str) -> Path:
        """Return the folder of the bundle that a caller names. Raises InvalidRequest."""
        if self._root is None or not re.fullmatch(r"\w[\w.-]*", name):
            raise InvalidRequest("name", f"{name!r} is no bundle's folder; see ListBundles", reason="UNSPECIFIED")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise InvalidRequest("digest", "digest must be all 64 hexadecimal digits", reason="UNSPECIFIED")
        return self._root / name

    async def _loaded(self, folder: Path, digest: str) -> Solver:
        name = folder.name
        try:
            solver = await asyncio.to_thread(self._load, folder, digest)
        except InvalidRequest as error:  # it is about this server's options, not about the caller's request
            raise InvalidBundle(f"{name} can't be served on the engines of this server: {error}") from error
        except RouterError:
            raise
        except Exception as error:  # a pickle may raise anything
            raise InvalidBundle(f"{name} does not load ({error!r}); rebuild it") from error
        try:
            await solver.decide(_TEST_REQUEST)
            (read,) = await solver.read(
                [_TEST_REQUEST.prompt]
            )  # where it is unlike training prompts, decide reads nothing
            solver.bundle.difficulty.probabilities(read)
            for table in solver.policy.tasks.values():
                table.decide(solver.shares, table.default)
        except BaseException as error:
            self._retire(solver)
            if not isinstance(error, Exception):
                raise
            raise InvalidBundle(f"{name} loads and then fails to decide ({error!r}); rebuild it") from error
        return solver

    def _load(self, folder: Path, digest: str) -> Solver:
        bundle = load_bundle(folder, digest)
        self._fits(bundle)
        for running in filter(None, (self.active, self._previous, self.shadow)):
            if bundle.served_by == running.bundle.served_by:
                return self._solver(bundle, running.engines)
        if self._load_engines is None:
            raise InvalidBundle(f"{folder} needs other engines than those running; start another server with it")
        engines = self._load_engines(bundle)
        try:
            return self._solver(bundle, engines)
        except BaseException:
            close_unused([engines])
            raise

    def _solver(self, bundle: Bundle, engines: Engines) -> Solver:
        active = self.active
        return Solver(bundle, engines, self._deployment, explore=active.explore, allow_code=active.tasks.allow_code)

    # The shadow

    def compare(self, request: Request, decision: Decision) -> None:
        """Have the shadow bundle decide the same request later, and log both decisions."""
        chosen = request.arm is None and request.kept_arm is None  # else both bundles take the same arm
        if self.shadow and chosen and len(self._tasks) < _MAX_COMPARISONS:
            self._start_task(self._compare(self.shadow, request, decision))

    async def _compare(self, shadow: Solver, request: Request, decision: Decision) -> None:
        record: dict[str, object] = {
            "bundle": decision.bundle_id,
            "level": decision.level,
            "arm": str(decision.arm),
            "shadow_bundle": shadow.bundle.id,
        }
        try:
            other = await shadow.decide(request)
            record |= {"shadow_level": other.level, "shadow_arm": str(other.arm), "agree": other.arm == decision.arm}
        except Exception as error:
            record |= {"shadow_error": type(error).__name__}
        _log.info("shadow decision", extra={"shadow": record})

    # Closing

    async def close(self) -> None:
        """Close all engines, and those of a bundle that is still being loaded once it is. All calls must have ended."""
        closed: list[Engines] = []
        while True:
            for solver in filter(None, (self.active, self._previous, self.shadow)):
                if all(solver.engines is not each for each in closed):
                    closed.append(solver.engines)
                    await solver.engines.close()
            if not self._tasks:
                return
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _retire(self, solver: Solver) -> None:
        """Close a solver's engines once no call uses them."""
        if self._calls[solver] == 0:
            del self._calls[solver]
        held = [*filter(None, (self.active, self._previous, self.shadow)), *self._calls]
        if all(other.engines is not solver.engines for other in held):
            self._start_task(solver.engines.close())

    def _start_task(self, work: Coroutine[Any, Any, _Changed]) -> asyncio.Task[_Changed]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _SolverInUse(AbstractContextManager[Solver]):
    """Counts a call as a user of a solver. A class, since contextlib's manager takes several times as long per call."""

    __slots__ = ("_manager", "_solver")

    def __init__(self, manager: BundleManager, solver: Solver):
        self._manager, self._solver = manager, solver

    def __enter__(self) -> Solver:
        self._manager._calls[self._solver] += 1
        return self._solver

    def __exit__(self, *raised: object) -> None:
        self._manager._calls[self._solver] -= 1
        if self._solver is not self._manager.active:
            self._manager._retire(self._solver)


def _tell(change: asyncio.Task[Any]) -> None:
    """Log why a change failed whose caller left."""
    if not change.cancelled() and (error := change.exception()):
        _log.error("a bundle whose caller did not wait for it is not used: %s", error)


def _listed(folder: Path) -> BundleListing:
    try:
        manifest, digest = read_manifest(folder)
    except InvalidBundle as error:
        return BundleListing(folder.name, "", "", str(error))
    return BundleListing(folder.name, digest, f"{manifest.name}@{digest[:12]}", "")
