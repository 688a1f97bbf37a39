"""Remembers the arms of conversations: a conversation that its caller names keeps its arm."""

from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from cachetools import LRUCache, TTLCache

from router.policy.objectives import Objective
from router.solving.request import Request
from router.solving.solver import Decision
from strategies import Strategy


@dataclass(frozen=True, slots=True)
class _Route:
    arm: Strategy
    listed: Strategy | None
    objective: Objective | None
    bundle_id: str
    task: str
    max_seconds: float | None


class Conversations:
    """The arm of each conversation's latest decision by the policy. Each caller has its own names.

    callers      number of callers remembered; the least recent is forgotten first
    each         number of conversations remembered for each caller; the oldest is forgotten first
    seconds      after which a conversation without a call is forgotten
    """

    def __init__(self, *, callers: int = 100, each: int = 1000, seconds: float = 3600.0, timer: Any = monotonic):
        self._each, self._seconds, self._timer = each, seconds, timer
        self._callers: LRUCache[str, TTLCache[str, _Route]] = LRUCache(callers)

    def routed(self, caller: str, request: Request, bundle_id: str) -> Request | None:
        """Return the request with the arm to keep and the objective that it was chosen for.

        None where the policy decides: also under a new objective, task or bundle.
        """
        if not request.conversation or request.arm:
            return None
        routes = self._callers.get(caller)
        route = routes.get(request.conversation) if routes is not None else None
        if route is None or route.bundle_id != bundle_id or (request.task or route.task) != route.task:
            return None
        if request.max_seconds not in (None, route.max_seconds):
            return None
        if request.objective not in (None, route.objective):
            return None
        return replace(request, kept_arm=route.arm, kept_listed=route.listed, objective=route.objective)

    def keep(self, caller: str, request: Request, decision: Decision) -> None:
        """Remember the policy's decision, or that the conversation with its earlier decision goes on.

        The vote on an unfamiliar prompt is not remembered: a greeting says nothing about the prompts to come.
        """
        if not request.conversation or request.arm:
            return
        routes = self._callers.get(caller)
        if routes is None:
            routes = self._callers[caller] = TTLCache(self._each, self._seconds, self._timer)
        before = routes.get(request.conversation)
        if decision.choice is None and before:
            routes[request.conversation] = before
        elif decision.choice is not None:
            routes[request.conversation] = _Route(
                decision.arm,
                decision.listed,
                decision.objective,
                decision.bundle_id,
                decision.task,
                request.max_seconds,
            )
