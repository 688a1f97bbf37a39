"""Metrics for Prometheus: counts and sums by level and arm, never a prompt, an answer or a caller's name."""

import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from functools import cache

import prometheus_client as prometheus
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from router.policy.table import LEVELS
from router.service.admission import Admission
from router.service.bundle_manager import BundleManager
from router.service.drift import calibration_error, stability
from router.service.middleware.call import CallRecord, Part, Verdict
from router.service.recorder import Recorder
from router.service.router_service import DIRECT_METHODS
from router.solving.bill import Bill

WINDOW = 1000  # number of latest decisions for drift, and of latest verdicts for calibration
_MINIMUM = 100  # with fewer of them, these metrics are NaN
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counts finished calls, given to ``observe``. ``registry``: the metrics that Prometheus scrapes."""

    def __init__(self, bundles: BundleManager, admission: Admission, recorder: Recorder | None = None):
        self.registry = prometheus.CollectorRegistry()
        self._bundles, self._admission, self._recorder = bundles, admission, recorder
        self._levels: deque[int] = deque(maxlen=WINDOW)
        self._verdicts: deque[Verdict] = deque(maxlen=WINDOW)
        self._bundle = ""
        # Label lookups are cached, since they cost more than counting.
        self._child = cache(lambda metric, *labels: metric.labels(*labels) if labels else metric)

        def counter(name: str, text: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(name, text, labels, registry=self.registry)

        self._calls = counter("router_calls", "Finished calls.", "door", "method", "code", "reason")
        self._decisions = counter("router_decisions", "Decisions.", "level", "arm")
        self._unfamiliar = counter("router_unfamiliar", "Decisions on prompts unlike those of training.")
        self._asked, self._chosen_for, self._spent = (
            counter(f"router_average_budget_{name}", f"Of searches under average budgets: {text}, in solutions.")
            for name, text in (
                ("asked", "what was asked for"),
                ("chosen_for", "what their arms were chosen for, so that each caller's average is kept"),
                ("spent", "what they spent"),
            )
        )
        self._tokens = counter("router_tokens", "Tokens spent.", "level", "arm", "kind")
        self._flops = counter("router_flops", "Floating-point operations spent.", "level", "arm", "engine")
        self._outcomes = counter("router_outcomes", "Outcomes of decisions that promised an accuracy.", "level", "arm")
        self._right = counter("router_outcomes_right", "Those that were right.", "level", "arm")
        self._expected = counter("router_outcomes_expected", "Sum of the accuracies promised.", "level", "arm")
        self._seconds = prometheus.Histogram(
            "router_seconds",
            "Seconds of a call by phase: queue, route, generate, score, total. Calls refused for overload have none.",
            ("method", "phase"),
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._engine_up = prometheus.Gauge(
            "router_engine_up",
            "1 after a search that the engines answered, 0 after one not, NaN before the first.",
            registry=self.registry,
        )
        self._engine_up.set(math.nan)
        self._follow_bundle()
        prometheus.ProcessCollector(registry=self.registry)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that are looked up at each scrape. Called by the registry."""
        admission, bundle = self._admission, self._bundles.active.bundle
        yield GaugeMetricFamily("router_running", "Searches that run.", admission.running.total())
        yield GaugeMetricFamily("router_running_limit", "Searches that may run.", admission.concurrency)
        yield GaugeMetricFamily("router_waiting", "Searches that wait for a place.", admission.waiting)
        yield GaugeMetricFamily("router_waiting_limit", "Searches that may wait.", admission.queue)
        if recorder := self._recorder:
            yield CounterMetricFamily(
                "router_decisions_dropped",
                "Decisions that the outcome database had no room for.",
                recorder.dropped,
            )
            yield CounterMetricFamily(
                "router_outcome_database_failures",
                "Attempts to write that the outcome database did not answer.",
                recorder.failures,
            )
            yield GaugeMetricFamily(
                "router_outcome_database_waiting", "Decisions and outcomes to be written.", recorder.waiting
            )
        served = GaugeMetricFamily("router_bundle", "1 for the bundle that decides.", labels=["bundle"])
        served.add_metric([bundle.id], 1)
        yield served
        tuned = GaugeMetricFamily("router_level_share", "Share of the tuning prompts at a level.", labels=["level"])
        counts = bundle.policy.level_counts
        for level, count in zip(LEVELS, counts, strict=True):
            tuned.add_metric([str(level)], count / sum(counts))
        yield tuned
        levels = list(self._levels)
        yield GaugeMetricFamily(
            "router_level_drift",
            f"Population stability index of the last {WINDOW} predicted levels; NaN before {_MINIMUM}.",
            stability([levels.count(level) for level in LEVELS], counts) if len(levels) >= _MINIMUM else math.nan,
        )
        verdicts = list(self._verdicts)
        yield GaugeMetricFamily(
            "router_calibration_error",
            f"Expected calibration error of the accuracies promised, last {WINDOW} outcomes; NaN before {_MINIMUM}.",
            calibration_error(verdicts) if len(verdicts) >= _MINIMUM else math.nan,
        )

    def observe(self, call: CallRecord) -> None:
        self._follow_bundle()
        self._child(self._calls, call.door, call.method, call.code, call.reason).inc()
        if call.reason != "OVERLOADED":  # calls refused at once would hide how long the others take
            self._child(self._seconds, call.method, "total").observe(call.seconds)
        if call.bill:
            self._child(self._seconds, call.method, "queue").observe(call.queue_seconds)
            for phase, seconds in call.bill.seconds.items():
                self._child(self._seconds, call.method, phase).observe(seconds)
        if call.parts:
            self._count_batch(call.parts)
        else:
            self._count_decision(call)
        if call.kept:
            self._child(self._asked).inc(call.kept.asked)
            self._child(self._chosen_for).inc(call.kept.chosen_for)
            self._child(self._spent).inc(call.kept.spent)
        if call.verdict and call.verdict.bundle_id == self._bundle:
            self._count_verdict(call.verdict)
        if call.reason == "ENGINE_UNAVAILABLE":
            self._engine_up.set(0)
        elif call.solution:
            self._engine_up.set(1)

    def _count_batch(self, parts: Sequence[Part]) -> None:
        """Count the decisions of a RouteBatch call, which ran no search."""
        made = [part.decision for part in parts]
        self._child(self._unfamiliar).inc(sum(not each.familiar for each in made))
        self._levels.extend(each.level for each in made if each.familiar and each.bundle_id == self._bundle)
        for (level, arm), count in Counter((each.level, each.arm) for each in made).items():
            self._child(self._decisions, str(level), str(arm)).inc(count)

    def _count_decision(self, call: CallRecord) -> None:
        if call.bill and call.method in DIRECT_METHODS:
            self._count_bill(("none", "direct"), call.bill)
        if not (call.decision and call.bill and call.request):
            return
        # Callers choose a pinned arm's numbers, and the accuracy that ends a cascade. As labels they could be endlessly
        # many.
        arm = call.listed_arm or "" if call.request.arm is None else f"{call.decision.arm.name} (pinned)"
        if not call.decision.familiar:
            self._child(self._unfamiliar).inc()
        elif call.decision.bundle_id == self._bundle:
            self._levels.append(call.decision.level)
        self._child(self._decisions, str(call.decision.level), arm).inc()
        self._count_bill((str(call.decision.level), arm), call.bill)

    def _follow_bundle(self) -> None:
        """Start windows anew when another bundle decides, since its levels mean something else.

        Counters of all its levels and arms start at 0 before the first call, so that those without traffic show.
        """
        solver = self._bundles.active
        bundle = solver.bundle
        if bundle.id == self._bundle:
            return
        self._bundle = bundle.id
        self._levels.clear()
        self._verdicts.clear()
        for cell in solver.policy.cells:
            for each in (self._decisions, self._outcomes, self._right, self._expected):
                each.labels(str(cell.level), str(cell.arm))

    def _count_bill(self, labels: tuple[str, str], bill: Bill) -> None:
        if not bill.calls:  # a decision alone may spend nothing
            return
        for kind in ("prompt", "generated", "scored"):
            self._child(self._tokens, *labels, kind).inc(getattr(bill, f"{kind}_tokens"))
        self._child(self._flops, *labels, "generator").inc(bill.flops(role="generator"))
        self._child(self._flops, *labels, "verifier").inc(bill.flops(role="verifier"))

    def _count_verdict(self, verdict: Verdict) -> None:
        labels = str(verdict.level), verdict.arm
        self._child(self._outcomes, *labels).inc()
        self._child(self._right, *labels).inc(verdict.right)
        self._child(self._expected, *labels).inc(verdict.expected)
        self._verdicts.append(verdict)
