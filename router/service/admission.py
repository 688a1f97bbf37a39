"""Decides which searches may run now: a limit, a short queue, fair shares for callers, and early refusals."""

import asyncio
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from router.errors import GaveWay, Overloaded

PATIENCE = 10.0  # seconds that a caller waits before another one with more than a share gives up a place
_WEIGHT = 0.1  # weight of the latest search in the running mean of how long a search takes


class Admission:
    """Gives out places to search: at most ``concurrency`` searches run at once, and at most ``queue`` calls wait.

    A free place goes to the waiting caller that has the fewest places. When the queue is full, the next call is
    refused, unless another caller has more calls in the queue: then that caller's newest call is refused instead. So a
    caller who floods the server is refused, and the others hardly notice.

    One caller may have all places while nobody else wants any. A caller's share is an equal part of the places. Once a
    caller with less than its share has waited for ``patience`` seconds, the caller with the most, if that is more than
    a share, loses a place: its newest search is ended.
    """

    def __init__(
        self, concurrency: int = 16, queue: int = 8, *, search_seconds: float = 0.0, patience: float = PATIENCE
    ):
        """search_seconds: how long a search is expected to take, until the first one has ended"""
        self.concurrency = concurrency
        self.queue = queue
        self.patience = patience
        self.running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by caller, least recently served first; none empty
        self._mean = search_seconds
        self._places: defaultdict[str, list[Place]] = defaultdict(list)  # by caller, oldest first

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting.values()))

    def expected_wait(self, caller: str) -> float:
        """Estimate the seconds until a search asked for now would start, from how long recent searches took."""
        if not self._full:
            return 0.0
        own = len(self._waiting.get(caller, ()))
        if not own and self.running[caller] < self._share(caller) < max(self.running.values()):
            return min(self.patience, self._expected(caller, own))
        return self._expected(caller, own)

    def _expected(self, caller: str, own: int) -> float:
        ahead = own + sum(min(len(queue), own + 1) for name, queue in self._waiting.items() if name != caller)
        return (ahead + 1) * self._mean / self.concurrency

    async def place(self, caller: str, seconds: float | None) -> "Place":
        """Wait for a place to search, and return it. ``seconds``: left for the call; None: any. Raises Overloaded.

        with await admission.place("search-team", 10.0):
            ...
        """
        await self._enter(caller, seconds)
        place = Place(partial(self._release, caller))
        self._places[caller].append(place)
        return place

    @property
    def _full(self) -> bool:
        return self.running.total() >= self.concurrency

    async def _enter(self, caller: str, seconds: float | None) -> None:
        if not self._full:
            self.running[caller] += 1
            return
        if seconds is not None and self.expected_wait(caller) >= seconds:
            raise self._refusal(caller, "the wait would pass the deadline")
        if self.waiting >= self.queue:
            self._make_room(caller)
        place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(place)
        claim = asyncio.get_running_loop().call_later(self.patience, self._claim, caller)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and not place.exception():  # given just before the cancellation
                self._leave(caller)
            raise
        finally:
            claim.cancel()
            self._forget(caller, place)

    def _share(self, caller: str) -> int:
        """Return an equal part of the places for each caller who has some or waits, ``caller`` included."""
        return max(1, self.concurrency // len({caller, *self._waiting, *self.running}))

    def _claim(self, caller: str) -> None:
        """End a search of the caller with the most places for ``caller``, which has waited long enough.

        Do so only where ``caller`` has less than its share and the other one more.
        """
        share = self._share(caller)
        most = max(self.running, key=lambda name: self.running[name], default=caller)
        if self.running[caller] < share < self.running[most]:
            for place in reversed(self._places[most]):
                if place.end():
                    return

    def _make_room(self, caller: str) -> None:
        most = max(self._waiting, key=lambda name: len(self._waiting[name]), default=caller)
        if len(self._waiting.get(most, ())) <= len(self._waiting.get(caller, ())) + 1:
            raise self._refusal(caller, "the queue is full")
        place = self._waiting[most][-1]
        self._forget(most, place)
        if not place.done():  # a call that was cancelled a moment ago is done
            place.set_exception(self._refusal(most, "the queue is full, and other callers have fewer calls in it"))

    def gives_way(self, caller: str) -> GaveWay:
        """Return the error of a search that was ended because others have waited for its place."""
        return GaveWay(
            f"others have waited {self.patience:.0f} s for a place to search, and you held more than an equal share of "
            "the places: your newest search was ended; run fewer at once",
            retry_seconds=self._retry_seconds(caller),
        )

    def _release(self, caller: str, place: "Place", seconds: float) -> None:
        """Take a place back from ``caller``, whose search took so many seconds."""
        self._places[caller].remove(place)
        if not self._places[caller]:
            del self._places[caller]
        self._mean = seconds if not self._mean else (1 - _WEIGHT) * self._mean + _WEIGHT * seconds
        self._leave(caller)

    def _leave(self, caller: str) -> None:
        """Free a place, and give it to the next caller in turn."""
        self.running[caller] -= 1
        self.running += Counter()  # drops callers with zero places
        while self._waiting and not self._full:
            following = min(self._waiting, key=lambda name: self.running[name])
            places = self._waiting.pop(following)
            place = places.popleft()
            if places:
                self._waiting[following] = places  # behind all others
            if not place.done():  # a call that was cancelled a moment ago is done
                self.running[following] += 1
                place.set_result(None)

    def _forget(self, caller: str, place: "asyncio.Future[None]") -> None:
        places = self._waiting.get(caller, deque())
        if place in places:
            places.remove(place)
        if not places:
            self._waiting.pop(caller, None)

    def _retry_seconds(self, caller: str) -> float:
        """Return when to try again, spread at random so that calls refused together do not come back together."""
        return max(0.1, self.expected_wait(caller)) * random.uniform(1, 2)

    def _refusal(self, caller: str, why: str) -> Overloaded:
        seconds = self._retry_seconds(caller)
        return Overloaded(
            f"{self.running.total()} searches run and {self.waiting} wait: {why}; try again in {seconds:.1f} s",
            retry_seconds=seconds,
        )


class Place(AbstractContextManager["Place"]):
    """A place to search. Leaving the ``with`` block gives it back, unless :meth:`release` has done so.

    on_end  ends the search when others have waited for a place; None: the search can't be ended
    """

    def __init__(self, give_back: "Callable[[Place, float], None]"):
        """give_back: called once, with this place and the seconds that it was held"""
        self._give_back = give_back
        self._started: float | None = time.monotonic()
        self.on_end: Callable[[], None] | None = None

    def __exit__(self, *raised: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the place back; doing so again does nothing."""
        if self._started is not None:
            seconds, self._started = time.monotonic() - self._started, None
            self._give_back(self, seconds)

    def end(self) -> bool:
        """End the search that holds the place. Return False where it can't be ended, or has been told to end before."""
        on_end, self.on_end = self.on_end, None
        if on_end is None or self._started is None:
            return False
        on_end()
        return True
