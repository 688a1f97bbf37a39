"""The commands as a person meets them: clear output, one clear line for an error, nothing heavy imported."""

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from typer.testing import CliRunner

from router.bundle.bundle import read_policy
from router.bundle.manifest import digests, write_manifest
from router.cli.demo import PROBLEMS
from router.cli.main import main
from router.policy.table import Policy
from router.tasks.code import CodeTask
from strategies import parse
from tests.support.processes import serve

SHIPPED = Path(__file__).parent.parent.parent / "models" / "smollm2-135m"
EASY = "7 + 7 ="
HEAVY = {"torch", "transformers", "sklearn", "pandas", "pyarrow", "matplotlib", "joblib"}


async def router(*arguments: str, server=None, stdin: str | None = None):
    address = ["--address", f"127.0.0.1:{server.port}"] if server else []
    return await asyncio.to_thread(CliRunner().invoke, main, [*arguments, *address], input=stdin)


async def test_route(server):
    result = await router("route", EASY, server=server)
    assert result.exit_code == 0
    assert re.search(r"level +1 of 5 .*\narm +single\nexpected +accuracy 0.90 \[0.70, 0.95\]", result.stdout)


@pytest.mark.parametrize(
    ("objective", "shown"),
    [
        (["--objective", "average_budget=1.5"], r"arm +single"),
        (["--objective", "price_per_flop=0.001"], r"arm +single"),
        (["--objective", "target_accuracy=0.6"], r"arm +single\nexpected .*\nbundle"),
        (["--objective", "target_accuracy=0.99"], r"evidence +insufficient: no measured arm"),
    ],
)
async def test_route_by_objective(server, objective, shown):
    result = await router("route", EASY, *objective, server=server)
    assert result.exit_code == 0
    assert re.search(shown, result.stdout)


async def test_solve(server):
    result = await router("solve", "-", "--candidates", "--arm", "best_of_n(n=2)", server=server, stdin=EASY)
    assert result.exit_code == 0
    assert "0.900  7 + 7 = 14" in result.stdout
    assert re.search(r"bill .*44 generated.*\n(.*\n)*answer +14", result.stdout)


async def test_solve_streams_rounds(server):
    result = await router("solve", EASY, "--stream", "--arm", "beam_search(n=4, m=2)", server=server)
    assert result.exit_code == 0
    assert [line for line in result.stdout.splitlines() if line.startswith("round")][-1].endswith("answer 14 (100%)")
    assert result.stdout.splitlines()[-1].startswith("answer      14")


async def streamed(server, arm: str, prompt: str = EASY) -> list[str]:
    result = await router("solve", prompt, "--stream", "--arm", arm, server=server)
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


async def test_solve_streams_a_cascades_stages_and_why_it_went_on_or_stopped(server):
    stops = await streamed(server, "single @0.5 > majority(n=4)")
    assert "stage 1: single: answer 14, confidence 0.90, reaches 0.5: done" in stops
    assert not any(line.startswith("stage 2") for line in stops)
    goes_on = await streamed(server, "single @1 > best_of_n(n=4)")
    first = goes_on.index("stage 1: single: answer 14, confidence 0.90, below 1: on to the next stage")
    (second,) = {line for line in goes_on if line.startswith("stage 2")}
    assert re.fullmatch(r"stage 2: best_of_n\(n=4\): answer 14, confidence 0\.\d\d, the last stage", second)
    rounds = [i for i, line in enumerate(goes_on) if line.startswith("round")]
    assert rounds[0] < first < rounds[-1] < goes_on.index(second)  # each as it happens
    assert not any(line.startswith("ended") for line in [*stops, *goes_on])  # the stages have said it


@pytest.mark.parametrize(
    ("arm", "why"),
    [
        ("single", "the arm had run to its end"),
        ("majority(n=4)", "the arm had run to its end"),
        (
            "majority(n=16, stop=0.8)",
            r"with [2-8] of at most 16 solutions finished; it stops once it is sure enough \(0.8\)",
        ),
    ],
)
async def test_solve_streams_why_a_plain_arm_ended(server, arm, why):
    (line,) = (line for line in await streamed(server, arm) if line.startswith("ended"))
    assert re.fullmatch(f"ended {{7}}{why}", line)


async def test_json_is_one_object_a_line(server):
    (line,) = (await router("solve", EASY, "--json", server=server)).stdout.splitlines()
    assert json.loads(line)["solution"]["bill"]["generated_tokens"] == 22
    (line,) = (await router("route", EASY, "--json", server=server)).stdout.splitlines()
    assert json.loads(line)["decision"]["level"] == 1
    *rounds, text, last = (await router("solve", EASY, "--json", "--stream", server=server)).stdout.splitlines()
    assert all("round" in json.loads(line) for line in rounds)
    assert json.loads(text)["text"] == json.loads(last)["solution"]["text"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["solve", ""], 2, "prompt is empty"),
        (["route", " "], 2, "prompt is empty"),
        (["solve", "x" * 500_000], 2, "500000 characters"),
        (["solve", EASY, "--objective", "budget=0"], 2, "budget 0 is outside"),
        (["route", EASY, "--objective", "budget=64"], 2, "budget 64 is outside"),
        (["route", EASY, "--objective", "target_accuracy=2"], 2, "target_accuracy 2 must be above 0 and at most 1"),
        (["route", EASY, "--objective", "magic=1"], 2, "unknown objective 'magic'; known: budget"),
        (["solve", EASY, "--arm", "magic(n=4)"], 2, "unknown strategy 'magic'; known: single"),
        (["solve", EASY, "--task", "choice"], 2, "the bundle has no task 'choice'; it has math"),
        (
            ["solve", EASY, "--inputs", '{"choices": ["a", "b"]}'],
            2,
            "inputs.choices: unknown input; leave it out (task math)",
        ),
        (["route", EASY, "--inputs", "nothing.json"], 2, "write an object, or name a file of one"),
        (["route", EASY, "--inputs", "{}}"], 2, "write an object, or name a file of one"),
        (["solve", EASY, "--arm", "beam_search(n=10, m=4)"], 2, "n divisible by m"),
        (["solve", EASY, "--arm", "beam_search 10"], 2, "write it like beam_search(n=16, m=4)"),
        (["solve", EASY, "--max-generated-tokens", "0"], 2, "at least 1"),
        (["solve", EASY, "--max-generated-tokens", "3"], 1, "spent: 3 tokens generated"),
    ],
)
async def test_errors_are_one_clear_line(server, arguments, code, message):
    result = await router(*arguments, server=server)
    assert result.exit_code == code
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


async def test_what_has_no_adapter_can_not_be_merged(tmp_path):
    setup = json.loads((SHIPPED / "models.json").read_text())
    setup["verifier"] = {"kind": "log_prob", "adapter": None, "parameters": 0}
    (tmp_path / "models.json").write_text(json.dumps(setup))
    result = await router("merge", "verifier", "--bundle", str(tmp_path), "--out", str(tmp_path / "merged"))
    assert result.exit_code == 2
    assert "names no adapter of a language model as its verifier" in result.stderr
    assert not (tmp_path / "merged").exists()


async def test_no_server_is_a_clear_error():
    result = await router("route", EASY, "--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "no router answers at 127.0.0.1:1" in result.stderr
    assert "router serve" in result.stderr


@pytest.fixture
def refused(bundle_folder):
    """Runs `router serve` to its error: in the main thread, since it handles signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    yield lambda *arguments: CliRunner().invoke(
        main, ["serve", "--backend", "fake", "--bundle", str(bundle_folder), *arguments]
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--bundle", "/nowhere"], 1, "/nowhere is no bundle"),
        (["--bundle-digest", "0123456789ab"], 1, "0123456789ab is pinned"),
        (["--bundle-digest", "0123"], 1, "12 digits"),
        (["--backend", "magic"], 2, "unknown backend 'magic'; known: in_process, vllm, openai, fake"),
        (["--backend", "vllm"], 2, "--url small=http://host:8000"),
        (["--url", "small=http://a"], 2, "the backend of 'small' calls no server; add --backend vllm"),
        (["--url", "localhost:8000"], 2, "like small=http://127.0.0.1:8000"),
        (["--host", "0.0.0.0"], 2, "0.0.0.0 is reachable from other machines"),
        (["--tls-cert", "server.crt"], 2, "--tls-cert and --tls-key go together"),
        (["--tls-client-ca", "ca.pem"], 2, "--tls-client-ca needs both"),
        (["--tls-cert", "/nowhere.crt", "--tls-key", "/nowhere.key"], 2, "can't use the certificates /nowhere.crt"),
        (["--explore", "0.1"], 2, "needs --outcomes"),
        (["--metrics", "127.0.0.1"], 2, "--metrics 127.0.0.1: give host:port"),
        (["--port", "0", "--metrics", "nosuch.invalid:1"], 1, "can't serve metrics on nosuch.invalid:1"),
        (["--port", "0", "--http", "nosuch.invalid:1", "--insecure"], 1, "can't listen on nosuch.invalid:1"),
        (["--http-name", "router.example"], 2, "--http-name needs --http"),
        (["--http", "127.0.0.1:0", "--http-name", "a:80"], 2, "--http-name a:80: give a host's name alone"),
        (["--http", "127.0.0.1:0", "--http-name", "http://a"], 2, "give a host's name alone"),
        (["--http", "127.0.0.1:0", "--http-name", "[a"], 2, "give a host's name alone"),
        (["--ui"], 2, "--ui needs --http"),
        (["--ui", "--share-port", "--http", "127.0.0.1:0"], 2, "--ui can't be with --share-port"),
        (["--outcomes", "magic://"], 2, "can't use the outcome database"),
        (["--tokens", "/nowhere.toml"], 2, "can't read the tokens in /nowhere.toml"),
    ],
)
def test_serve_refuses_what_it_cannot_serve(refused, arguments, code, message):
    result = refused(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert message in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "small=me:s3cret@host"],
        ["--url", "me:s3cret/=@host"],
        ["--backend", "openai", "--url", "small=http://me:s3cret/3@host"],
        ["--outcomes", "postgresql+psycopg://me:p@ss:s3cret@host/db"],
        ["--outcomes", "me:s3cret@host/db"],
        ["--traces", "http://me:s3cret@host:4317"],
    ],
)
def test_serve_refuses_a_url_without_telling_its_password(refused, arguments):
    result = refused(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{arguments[-2]}" in result.stderr or "outcome database" in result.stderr
    assert "s3cret" not in result.stderr


def test_serve_refuses_to_run_code_where_it_cannot_be_isolated(refused, monkeypatch):
    monkeypatch.setattr(CodeTask, "sandbox", None)
    monkeypatch.setenv("PATH", "/nowhere")
    result = refused("--allow-code")
    assert result.exit_code == 1
    assert "bubblewrap" in result.stderr


@pytest.mark.processes
def test_serve_on_an_http_port_in_use_says_only_so(bundle_folder):
    """In a process of its own: what it starts and leaves writes to the same standard error."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        command = [sys.executable, "-m", "router.cli", "serve", "--backend", "fake", "--bundle", str(bundle_folder)]
        command += ["--port", "0", "--http", address]
        result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"router: can't listen on {address}")
    assert result.stderr.count("\n") == 1


def test_serve_on_a_port_in_use(refused):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = refused("--port", str(port))
    assert result.exit_code == 1
    assert f"can't listen on 127.0.0.1:{port}" in result.stderr


@pytest.mark.processes
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_serve_prints_its_port_answers_and_drains_on_a_signal(bundle_folder, signum):
    with serve("--backend", "fake", "--bundle", bundle_folder) as server:
        answered = CliRunner().invoke(main, ["solve", EASY, "--address", server.address])
        server.process.send_signal(signum)
        assert server.process.wait(timeout=60) == 0
    assert "answer      14" in answered.stdout


@pytest.mark.processes
def test_serve_with_certificates_and_tokens(bundle_folder, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    for name in ("server", "client"):
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.crt")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
    made = CliRunner().invoke(main, ["token", "a team", "--admin"]).stdout
    secret, _, table = made.partition("\n")
    (tmp_path / "tokens.toml").write_text(table)
    ours = {"ROUTER_TLS_CERT": "server.crt", "ROUTER_TLS_KEY": "server.key", "ROUTER_TLS_CLIENT_CA": "ca.pem"}
    environment = {name: str(tmp_path / file) for name, file in ours.items()}
    arguments = ["--host", "localhost", "--bundle", str(bundle_folder), "--tokens", str(tmp_path / "tokens.toml")]
    with serve("--backend", "fake", *arguments, stderr=subprocess.PIPE, env=os.environ | environment) as server:
        files = {"--tls-ca": "ca.pem", "--tls-cert": "client.crt", "--tls-key": "client.key"}
        options = ["--address", server.address]
        options += [part for name, file in files.items() for part in (name, str(tmp_path / file))]
        solved = CliRunner().invoke(main, ["solve", EASY, *options], env={"ROUTER_TOKEN": secret})
        refused = CliRunner().invoke(main, ["route", EASY, *options])
        server.process.terminate()
        logged = [json.loads(line) for line in server.process.communicate(timeout=60)[1].splitlines()]
    assert server.process.returncode == 0
    assert [(line["call"]["caller"], line["call"]["code"]) for line in logged if "call" in line] == [
        ("a team", "OK"),
        (None, "UNAUTHENTICATED"),
    ]
    assert "answer      14" in solved.stdout
    assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1)
    assert "--token" in refused.stderr


@pytest.fixture
def cascading_folder(bundle_folder, tmp_path):
    """The small bundle, in which a cascade is the best arm of every prompt."""
    folder = Path(shutil.copytree(bundle_folder, tmp_path / "cascading"))
    manifest, _, policy = read_policy(folder)
    best = parse("single @0.8 > majority(n=3)")
    cells = [
        replace(cell, arm=best, low=0.9, accuracy=0.95) if cell.arm == parse("majority(n=4)") else cell
        for cell in policy.cells
    ]
    changed = Policy(cells, policy.default, deciding=policy.deciding, worth=policy.worth)
    (folder / "policy.json").write_text(changed.dumps())
    write_manifest(folder, replace(manifest, files=digests(folder)))
    return folder


@pytest.mark.processes
def test_the_demo_shows_every_problem_its_stages_and_what_one_arm_would_cost(cascading_folder):
    command = [sys.executable, "-m", "router.cli", "demo", "--backend", "fake", "--bundle", str(cascading_folder)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    address = re.search(r"answers on (\S+)", shown.stdout)[1]
    assert CliRunner().invoke(main, ["route", EASY, "--address", address]).exit_code == 1
    assert len(re.findall(r"\b(right|wrong)\b", shown.stdout)) == len(PROBLEMS) + 1  # and the last table's head
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    stages = [line for line in lines if line.startswith("stage 1: single: answer ")]
    assert len(stages) == len(PROBLEMS)
    assert all("reaches 0.8: done" in line or "below 0.8: on to the next stage" in line for line in stages)
    head, policy, expected, fixed = lines[lines.index(f"the same {len(PROBLEMS)} problems") + 1 :][:4]
    assert head == "right tokens FLOPs"
    number = r"\d+(\.\d+)?(e[+-]\d+)?"
    assert re.fullmatch(rf"the policy [0-8] [1-9]\d* {number} ran", policy)
    assert re.fullmatch(rf"{number} {number} {number} as it was expected to", expected)
    assert re.fullmatch(rf"best fixed arm: \w+.* {number} {number} {number} expected; it did not run here", fixed)


@pytest.mark.processes
def test_the_demo_says_why_it_can_not_start(tmp_path):
    command = [sys.executable, "-m", "router.cli", "demo", "--backend", "fake", "--bundle", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "is no bundle" in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.processes
@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["route", EASY, "--address", "127.0.0.1:1"]])
def test_commands_import_nothing_heavy(arguments):
    code = (
        "import sys\nfrom router.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: print(*sorted(sys.modules), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(shown.stderr.split())
    assert "router.cli" in modules
    assert not HEAVY & modules


@pytest.mark.parametrize("command", ["serve", "route", "solve"])
async def test_help_names_every_setting(command):
    result = await router(command, "--help")
    assert result.exit_code == 0
    assert ("ROUTER_ADDRESS" in result.stdout) == (command != "serve")
    assert ("ROUTER_BUNDLE" in result.stdout) == (command == "serve")
