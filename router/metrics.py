"""What Prometheus scrapes: counts and sums by level and arm, never a prompt, an answer or a caller's name."""

import math
from collections import Counter as Counts
from collections import deque
from collections.abc import Sequence
from functools import cache

import prometheus_client as prometheus

from router.admission import Admission
from router.calls import Call
from router.errors import AddressUnavailable
from router.outcomes import Recorder
from router.policy import LEVELS, Policy
from router.serving import Serving
from router.solver import Bill

DRIFT_WINDOW = 1000  # decisions
_FEWEST = 100  # decisions that a drift is worth computing for
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """``observe`` takes a finished call; ``registry`` is what is scraped."""

    def __init__(self, serving: Serving, admission: Admission, recorder: Recorder | None = None):
        self.registry = prometheus.CollectorRegistry()
        self._serving = serving
        self._levels: deque[int] = deque(maxlen=DRIFT_WINDOW)
        self._bundle = ""
        self._of = cache(lambda metric, *labels: metric.labels(*labels))  # looking labels up costs more than counting

        def counter(name: str, text: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> prometheus.Gauge:
            return prometheus.Gauge(name, text, registry=self.registry)

        self._calls = counter("router_calls", "Finished calls.", "method", "code", "reason")
        self._decisions = counter("router_decisions", "Decisions.", "level", "arm")
        self._tokens = counter("router_tokens", "Tokens spent.", "level", "arm", "kind")
        self._flops = counter("router_flops", "Floating-point operations spent.", "level", "arm", "engine")
        self._seconds = prometheus.Histogram(
            "router_seconds",
            "Seconds of a call by phase: queue, route, generate, score, total.",
            ("method", "phase"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._engine_up = gauge("router_engine_up", "1 after a search that the engines answered, 0 after one not.")
        self._expect(serving.active.bundle.policy)
        gauge("router_running", "Searches that run.").set_function(admission.running.total)
        gauge("router_waiting", "Searches that wait for a place.").set_function(lambda: admission.waiting)
        if recorder:
            gauge("router_decisions_dropped", "Decisions that the outcome database had no room for.").set_function(
                lambda: recorder.dropped
            )
        gauge("router_level_drift", "Population stability index of predicted levels.").set_function(self._drift)

    def observe(self, call: Call) -> None:
        self._of(self._calls, call.method, call.code, call.reason).inc()
        self._of(self._seconds, call.method, "total").observe(call.seconds)
        if call.bill:
            self._of(self._seconds, call.method, "queue").observe(call.queued)
            for phase, seconds in call.bill.seconds.items():
                self._of(self._seconds, call.method, phase).observe(seconds)
        if call.decision and call.bill and call.request:
            # A pinned arm's numbers are the caller's: as a label they would grow without end.
            arm = str(call.decision.arm) if call.request.arm is None else f"{call.decision.arm.strategy} (pinned)"
            self._decided(call.decision.level, arm, call.decision.bundle_id)
            self._spent((str(call.decision.level), arm), call.bill)
        if call.reason == "ENGINE_UNAVAILABLE":
            self._engine_up.set(0)
        elif call.solution:
            self._engine_up.set(1)

    def _decided(self, level: int, arm: str, bundle_id: str) -> None:
        if bundle_id != self._bundle:  # another bundle's levels mean something else
            self._bundle = bundle_id
            self._levels.clear()
            self._expect(self._serving.active.bundle.policy)
        self._levels.append(level)
        self._of(self._decisions, str(level), arm).inc()

    def _expect(self, policy: Policy) -> None:
        """Show a policy's levels and arms as 0 before their first call, so that what gets no traffic can be seen."""
        for cell in policy.cells:
            self._decisions.labels(str(cell.level), str(cell.arm))

    def _spent(self, labels: tuple[str, str], bill: Bill) -> None:
        if not bill.calls:  # a decision alone spends nothing
            return
        for kind in ("prompt", "generated", "scored"):
            self._of(self._tokens, *labels, kind).inc(getattr(bill, f"{kind}_tokens"))
        self._of(self._flops, *labels, "generator").inc(bill.generator_flops)
        self._of(self._flops, *labels, "verifier").inc(bill.verifier_flops)

    def _drift(self) -> float:
        counts = Counts(self._levels)
        if counts.total() < _FEWEST:
            return math.nan
        return stability([counts[level] for level in LEVELS], training_counts(self._serving.active.bundle.policy))


def expose(metrics: Metrics, address: str) -> int:
    """Serve the metrics over HTTP on ``host:port``, in a thread; the bound port. Raises AddressUnavailable."""
    host, _, port = address.rpartition(":")
    try:
        server, _ = prometheus.start_http_server(int(port), host.strip("[]") or "127.0.0.1", metrics.registry)
    except (OSError, ValueError, OverflowError) as error:
        raise AddressUnavailable(f"can't serve metrics on {address} ({error}); give a free host:port") from error
    return int(server.server_port)


def training_counts(policy: Policy) -> list[float]:
    """How many of the prompts that a policy was tuned on were predicted to be at each level."""
    return [max((cell.prompts for cell in policy.cells if cell.level == level), default=0) for level in LEVELS]


def stability(counts: Sequence[float], expected: Sequence[float]) -> float:
    """Population stability index of two histograms: sum of (p - q) ln(p / q). Below 0.1 alike, above 0.25 shifted.

    Half a count is added to each bin, so that an empty one counts much, and not infinitely.
    """

    def shares(bins: Sequence[float]) -> list[float]:
        return [(count + 0.5) / (sum(bins) + len(bins) / 2) for count in bins]

    return sum((p - q) * math.log(p / q) for p, q in zip(shares(counts), shares(expected), strict=True))
