"""The outcome log as attempts: what a real server recorded, and what can't be made of it."""

import asyncio

import grpc
import pytest
import sqlalchemy as sql
from typer.testing import CliRunner

from router.attempts.prompts import read_prompts
from router.attempts.schema import read_attempts
from router.bundle.setup import write_setup
from router.cli.main import main
from router.errors import InvalidFile
from router.outcomes.tables import read
from router.prompt import Prompt
from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.service.recorder import Recorder
from router.training.difficulty import prompt_statistics
from router.tuning.evidence import evidence
from router.v1 import router_pb2 as pb
from router.v1.router_pb2_grpc import RouterServiceStub
from tests.conftest import SETUP

EASY, HARD = "7 + 7 =", "7 + 7 + 7 + 7 + 7 + 7 + 7 + 7 ="


async def served(solver, url, *, prompts=True):
    """Two calls at one prompt, one of an arm of the caller's, and four that are no attempts."""
    recorder = Recorder(url, prompts=prompts)
    server = Server(BundleManager(solver), "127.0.0.1", 0, recorder=recorder)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = RouterServiceStub(channel)

        async def solve(prompt, told, **options):
            request = pb.SolveRequest(prompt=prompt, options=pb.SolveOptions(**options))
            found = (await stub.Solve(request)).solution
            if told is not None:
                await stub.RecordOutcome(pb.RecordOutcomeRequest(call_id=found.call_id, **told))
            return found

        solutions = [
            await solve(EASY, {"correct": True}),
            await solve(EASY, {"correct": False}, seed=1),
            await solve(HARD, None),
            await solve(HARD, {"correct": False}, arm="majority(n=2)"),
            await solve(HARD, {"score": 0.5}),
            await solve(HARD, {"correct": False}, max_generated_tokens=3, allow_partial=True),
        ]
        routed = await stub.Route(pb.RouteRequest(prompt=EASY))
        await stub.RecordOutcome(pb.RecordOutcomeRequest(call_id=routed.call_id, correct=True))
    await server.stop(grace=0)
    return solutions


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/log.db"


def collect(url, out, *more):
    return CliRunner().invoke(main, ["collect", "--from-outcomes", url, "--out", str(out), *more])


async def test_each_call_with_prompt_and_outcome_is_a_run_of_its_arm(solver, url, tmp_path):
    right, wrong, _, pinned, *_ = await served(solver, url)
    shown = collect(url, tmp_path / "logged.parquet")
    assert shown.exit_code == 0
    for words in (
        "left out: 1 only routed, nothing was run",
        "left out: 1 cut short by a limit",
        "left out: 1 without an outcome",
        "left out: 1 with a score only",
        "3 of 7 decisions are attempts, at 2 prompts: 0 ran an arm drawn to explore, 1 one that the caller pinned",
        "1 of 2 prompts have a right answer on record",
    ):
        assert words in shown.stdout
    frame = read_attempts([tmp_path / "logged.parquet"])
    assert frame["prompt"].tolist() == [EASY, EASY, HARD]
    assert frame["arm"].tolist() == ["single", "single", "majority(n=2)"]
    assert frame["sample"].tolist() == [0, 1, 0]
    assert frame["correct"].tolist() == [True, False, False]
    assert frame["reference"].tolist()[:2] == ["14", "14"]
    assert frame["text"].tolist() == [right.text, wrong.text, pinned.text]
    assert frame["generated_tokens"].tolist() == [each.bill.generated_tokens for each in (right, wrong, pinned)]
    assert frame["propensity"].tolist()[:2] == [1, 1]
    assert frame["propensity"].isna().tolist() == [False, False, True]
    (prompt,) = read_prompts(tmp_path / "logged.prompts.jsonl")
    assert (prompt.id, prompt.prompt, prompt.reference) == (frame["prompt_id"][0], Prompt.of(EASY), "14")


async def test_it_is_evidence_on_arms_and_none_on_levels(solver, url, tmp_path):
    await served(solver, url)
    collect(url, tmp_path / "logged.parquet")
    frame = read_attempts([tmp_path / "logged.parquet"])
    found = {str(arm): point.accuracy for points in evidence(frame, [1]).values() for arm, point in points.items()}
    assert found == {"single": 0.5, "majority(n=2)": 0}
    with pytest.raises(InvalidFile, match="levels come from"):
        prompt_statistics(frame, "pass_rate")


async def test_more_is_sampled_at_its_prompts_into_the_same_file(solver, url, tmp_path):
    await served(solver, url)
    collect(url, tmp_path / "logged.parquet")
    write_setup(SETUP, tmp_path)
    arguments = ["collect", "--backend", "fake", "--bundle", str(tmp_path), "--attempts", "4", "--arm", "single"]
    files = ["--prompts", str(tmp_path / "logged.prompts.jsonl"), "--out", str(tmp_path / "logged.parquet")]
    assert (await asyncio.to_thread(CliRunner().invoke, main, [*arguments, *files])).exit_code == 0
    frame = read_attempts([tmp_path / "logged.parquet"])
    assert frame["arm"].value_counts().to_dict() == {"sample": 4, "single": 2, "majority(n=2)": 1}
    assert frame.loc[frame["arm"] == "sample", "propensity"].isna().all()
    assert prompt_statistics(frame, "pass_rate")["attempts"].tolist() == [4]


async def test_without_prompts_there_is_nothing_to_learn_from(solver, url, tmp_path):
    await served(solver, url, prompts=False)
    shown = collect(url, tmp_path / "logged.parquet")
    assert shown.exit_code == 2
    assert "left out: 6 without the prompt (serve --outcome-prompts records it)" in shown.stdout
    assert "none of the log's 7 decisions" in shown.stderr
    assert [row["text"] or row["answer"] for row in read(url, ["text", "answer"])] == [None] * 7


async def test_it_samples_nothing_and_replaces_nothing(solver, url, tmp_path):
    await served(solver, url)
    out = tmp_path / "logged.parquet"
    assert "takes no --attempts" in collect(url, out, "--attempts", "4").stderr
    out.write_bytes(b"precious")
    assert "exists already" in collect(url, out).stderr
    assert out.read_bytes() == b"precious"
    assert "there is no file" in collect(f"sqlite:///{tmp_path}/typo.db", tmp_path / "x.parquet").stderr
    assert not (tmp_path / "typo.db").exists()


def test_a_database_without_decisions_is_a_clear_error(tmp_path):
    engine = sql.create_engine(f"sqlite:///{tmp_path}/other.db")
    with engine.begin() as connection:
        connection.execute(sql.text("create table t (x int)"))
    engine.dispose()
    shown = collect(f"sqlite:///{tmp_path}/other.db", tmp_path / "x.parquet")
    assert (shown.exit_code, shown.stderr.count("\n")) == (2, 1)
    assert "can't use the outcome database (no decisions were ever recorded in it)" in shown.stderr
