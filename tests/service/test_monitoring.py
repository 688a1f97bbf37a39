"""The dashboard and the alert rules of docs/monitoring, on the metrics that a server really has."""

import json
import math
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from router.client import connect
from router.errors import InvalidRequest
from router.service.admission import Admission
from router.service.bundle_manager import BundleManager
from router.service.metrics import Metrics
from router.service.recorder import Recorder
from router.v1 import router_pb2 as pb

FOLDER = Path(__file__).parent.parent.parent / "docs" / "monitoring"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(f"{panel['title']} {target['refId']}", target["expr"]) for panel in PANELS for target in panel["targets"]]
ALERTS = (FOLDER / "alerts.yml").read_text()
START_SECONDS = 120  # on a busy machine


def test_every_metric_that_is_shown_or_alerted_on_exists_and_none_goes_unseen(solver, tmp_path):
    recorder = Recorder(f"sqlite:///{tmp_path}/outcomes.db")
    text = generate_latest(Metrics(BundleManager(solver), Admission(), recorder).registry).decode()
    recorder.close()
    kinds = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    exported = {
        name + suffix for name, kind in re.findall(r"^# TYPE (\w+) (\w+)$", text, re.M) for suffix in kinds[kind]
    }
    shown, alerted = (
        set(re.findall(r"(?<!:)\b(?:router|process)_\w+(?=[{\[])", queries))
        for queries in ("\n".join(query for _, query in QUERIES), ALERTS)
    )
    assert shown | alerted <= exported
    assert names(exported) == names(shown)


def names(series: set[str]) -> set[str]:
    """Of our own metrics."""
    ours = [name for name in series if name.startswith("router_") and not name.endswith("_created")]
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in ours}


def test_panels_are_numbered_described_and_do_not_overlap():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["title"]
        assert "unit" in panel["fieldConfig"]["defaults"] or panel["type"] == "table"


def test_a_number_that_nothing_is_known_of_yet_says_so_and_is_no_empty_box():
    for panel in PANELS:
        defaults = panel["fieldConfig"]["defaults"]
        if panel["type"] == "stat" and panel["title"] not in ("Servers up", "Bundle"):
            assert defaults["noValue"], panel["title"]  # where there is no series yet
            if "rate" not in panel["targets"][0]["expr"] or re.search("/|quantile", panel["targets"][0]["expr"]):
                matched = [mapping["options"].get("match") for mapping in defaults["mappings"]]
                assert "null+nan" in matched, panel["title"]


class Scraped:
    """A Prometheus that scrapes a real server each second, with our rules."""

    def __init__(self, prometheus: str, server: str):
        self.prometheus = prometheus
        self.server = server

    def get(self, path: str, **parameters: str) -> dict:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://{self.prometheus}/api/v1/{path}?{query}", timeout=30) as reply:
            return json.load(reply)["data"]

    def values(self, query: str) -> list[float]:
        for variable, value in {"$job": "router", "$__rate_interval": "1m", "$__range": "10m"}.items():
            query = query.replace(variable, value)
        return [float(each["value"][1]) for each in self.get("query", query=query)["result"]]


@pytest.fixture(scope="module")
def scraped(bundle_folder, tmp_path_factory) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    if shutil.which("prometheus") is None:
        raise FileNotFoundError("no Prometheus on this machine; `make test-monitoring` installs it")
    command = [sys.executable, "-m", "router.cli", "serve", "--backend", "fake", "--bundle", bundle_folder]
    command += ["--port", "0", "--metrics", "127.0.0.1:0", "--concurrency", "1", "--queue", "0"]
    command += ["--outcomes", f"sqlite:///{folder}/outcomes.db"]
    with ExitStack() as stack:
        log = stack.enter_context((folder / "server.log").open("wb"))
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True))
        stack.callback(server.terminate)
        address = re.search(r" on (\S+)\n", server.stdout.readline())[1]
        exposed = re.search(r"http://(\S+)/metrics", (folder / "server.log").read_text())[1]
        config = (FOLDER / "prometheus.yml").read_text()
        config = config.replace("127.0.0.1:9464", exposed).replace("15s", "1s")
        (folder / "prometheus.yml").write_text(config)
        shutil.copy(FOLDER / "alerts.yml", folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            listening = f"127.0.0.1:{probe.getsockname()[1]}"
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        prometheus = stack.enter_context(
            subprocess.Popen([*command, f"--web.listen-address={listening}"], stdout=log, stderr=log)
        )
        stack.callback(prometheus.terminate)
        scraped = Scraped(listening, address)
        wait(
            lambda: scraped.values("router_bundle"), folder / "server.log"
        )  # scraped before the first call: rates begin at 0
        yield scraped


def wait(done: Callable[[], object], *logs: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        with suppress(OSError):
            if done():
                return
        time.sleep(0.5)
    raise AssertionError("not to be seen in Prometheus; the logs: " + "".join(log.read_text() for log in logs)[-3000:])


def traffic(address: str) -> None:
    """Of every kind: decisions, outcomes, searches, streams, pinned arms, refusals, wrong requests."""
    prompts = [" + ".join(["7"] * terms) + " =" for terms in (2, 3, 4, 6, 8)]
    pinned = pb.SolveOptions(arm="best_of_n(n=256)")
    with connect(address) as router:
        for number in range(100):
            call_id = router.Route(pb.RouteRequest(prompt=prompts[number % 5]), timeout=60).call_id
            router.RecordOutcome(pb.RecordOutcomeRequest(call_id=call_id, correct=number % 3 > 0), timeout=60)
        for prompt in prompts:
            router.Solve(pb.SolveRequest(prompt=prompt), timeout=60)
            list(router.StreamSolve(pb.StreamSolveRequest(prompt=prompt), timeout=60))
        running = [
            router.Solve.future(pb.SolveRequest(prompt=prompts[4], options=pinned), timeout=60) for _ in range(8)
        ]
        assert any(each.exception() is None for each in running)
    with pytest.raises(InvalidRequest), connect(address) as router:
        router.Solve(pb.SolveRequest(prompt=""), timeout=60)


@pytest.mark.prometheus
def test_every_panel_and_every_rule_works_on_a_real_server(scraped):
    for number in (1, 2):  # twice: a rate is one of a series that was there before
        traffic(scraped.server)
        wait(lambda number=number: scraped.values('router_calls_total{reason="PROMPT_EMPTY"}') == [number])  # type: ignore[misc]
    assert scraped.values('router_calls_total{reason="OVERLOADED"}')[0] > 0
    seen = {title: [value for value in scraped.values(query) if not math.isnan(value)] for title, query in QUERIES}
    assert [title for title, values in seen.items() if not values] == []
    assert sum(scraped.values("router_outcomes_total")) == 200
    assert scraped.values("router_calibration_error")[0] > 0.1  # two thirds were right at every level

    def rules() -> list[dict]:
        return [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]

    wait(lambda: all(rule["health"] != "unknown" for rule in rules()))
    assert [(rule["name"], rule.get("lastError")) for rule in rules() if rule["health"] != "ok"] == []
    assert len(rules()) == len(re.findall(r"^ +- (?:alert|record):", ALERTS, re.M))
