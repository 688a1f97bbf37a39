"""A strategy of one's own is a dataclass and a line: it is parsed, run, served, replayed and tuned like any other."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest

from difficulty import LEVELS
from router.backends import Engines
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.registry import why_not
from router.backends.specs import Deployment
from router.policy.objectives import Budget
from router.policy.table import Policy
from router.prompt import Prompt
from router.service import conversion
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import load_task
from router.training.difficulty import Training
from router.tuning.evidence import evidence
from router.tuning.tune import tune
from router.v1 import router_pb2 as pb
from strategies import (
    Candidate,
    Cascade,
    Extend,
    InvalidArm,
    Result,
    Sampling,
    Search,
    Strategy,
    parse,
    parsing,
    register,
)
from strategies.replaying.records import Pool, Recorded
from strategies.selection import answered, majority
from tests.conftest import SETUP
from tests.support.searches import finished


@dataclass(frozen=True)
class Longest(Sampling):
    """Whoever thinks longest is right."""

    name: ClassVar[str] = "longest"

    def choose(self, candidates: Sequence[Candidate]) -> Result:
        best = max(filter(answered, candidates), key=lambda candidate: candidate.cost, default=None)
        return Result(best, weight=1.0, share=float(best is not None), candidates=tuple(candidates))

    def certainty(self, candidates: Sequence[Candidate]) -> float:
        return 0.9 * any(candidate.cost >= 40 for candidate in candidates)


@dataclass(frozen=True)
class UntilAgreed(Strategy):
    """One solution after another, at most ``n``, until ``votes`` of them agree."""

    name: ClassVar[str] = "until_agreed"

    n: int = 1
    votes: int = 2

    def search(self) -> Search:
        written: list[Candidate] = []
        while len(written) < self.n:
            written += yield Extend((Candidate(model=self.model),))
            counted = Counter(candidate.answer for candidate in written if answered(candidate))
            if any(count >= self.votes for count in counted.values()):
                break
        return majority(written)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register(Longest, UntilAgreed)
    yield
    for strategy in (Longest, UntilAgreed):
        del parsing._STRATEGIES[strategy.name]


def test_the_parser_knows_them():
    for text in ("longest(n=4)", "longest(n=8, stop=0.9, model=large)", "until_agreed(n=8, votes=3)"):
        assert str(parse(text)) == text
    assert parse("until_agreed(n=8)") == UntilAgreed(n=8, votes=2)
    cascade = parse("longest(n=4) @0.5 > until_agreed(n=4)")
    assert isinstance(cascade, Cascade)
    assert cascade.stages == (Longest(n=4), UntilAgreed(n=4))
    for text, field in [("longest(n=0)", "n"), ("longest(n=4, stop=0.2)", "stop"), ("until_agreed(n=4, m=2)", "m")]:
        with pytest.raises(InvalidArm) as raised:
            parse(text)
        assert raised.value.field == field


def test_they_are_unknown_where_they_are_not_registered():
    del parsing._STRATEGIES["longest"]
    try:
        with pytest.raises(InvalidArm, match="unknown strategy 'longest'"):
            parse("longest(n=4)")
    finally:
        register(Longest)


async def run(text: str, answers: Sequence[str]) -> tuple[Result, FakeGenerator]:
    """On a model whose samples say these texts in turn."""
    said = iter(answers)
    model = FakeGenerator(write=lambda prompt, candidate, rng: next(said))
    engines = Engines({"small": model}, "small", FakeVerifier())
    request = Request(Prompt.of("1 + 1 ="))
    _, result, _ = await finished(drive(parse(text), request, engines, load_task("math"), Bill()))
    return result, model


async def test_they_run():
    result, _ = await run("longest(n=3)", ["Answer: 2", "Let me think.\nAnswer: 3", "Well.\nAnswer: 4"])
    assert result.answer == "3"
    result, model = await run("until_agreed(n=8)", [f"Answer: {answer}" for answer in (2, 3, 2, 3)])
    assert (result.answer, model.counted.calls) == ("2", 3)


def test_they_are_served():
    message = conversion.arm(parse("until_agreed(n=8, votes=3)"))
    assert (message.text, message.strategy) == ("until_agreed(n=8, votes=3)", "until_agreed")
    assert dict(message.parameters) == {"n": 8, "votes": 3}
    pinned = pb.SolveRequest(prompt="p", options=pb.SolveOptions(arm="longest(n=4, model=large)"))
    assert conversion.request(pinned, None).arm == Longest(n=4, model="large")
    assert why_not(Longest(n=4), SETUP, Deployment()) is None
    assert why_not(Longest(n=4, model="large"), SETUP, Deployment()) == "the model 'large' is not served"


def pool(lengths: Sequence[int], answers: Sequence[str]) -> Pool:
    size = len(lengths)
    zero, written = np.zeros(size), np.array(lengths, dtype=float)
    right = np.array([float(answer == "1") for answer in answers])
    return Pool(answers, right, zero, zero, written, zero, np.stack([np.arange(size), np.arange(size)[::-1]]))


def test_what_only_samples_is_replayed_by_its_own_search():
    recorded = Recorded({None: pool([10, 50, 30, 20], "2132")}, {})
    runs = Longest(n=2).replay(recorded)  # one meets 10 and 50, the other 20 and 30
    assert runs.correct.tolist() == [1, 0]
    assert runs.generated_tokens[None].tolist() == [55, 55]  # of two attempts the expectation
    stopped = Longest(n=4, stop=0.8).replay(recorded)  # the first round is of two
    assert stopped.generated_tokens[None].tolist() == [60, 20 + 30 + 50 + 10]
    assert stopped.correct.tolist() == [1, 1]


def attempts(prompts_a_level: int = 15) -> tuple[pd.DataFrame, Training]:
    """Below level 4 the first attempt is right, at level 4 only the longest one, at level 5 only two that agree."""
    rows, levels = [], {}
    for level in LEVELS:
        for i in range(prompts_a_level):
            prompt = f"{level}-{i}"
            levels[prompt] = level
            for sample in range(4):
                right = level < 4 or (level == 4 and sample == 2)
                length = 30 if sample == 2 else 20
                rows.append(row(prompt, sample, "sample", right, length, "1" if right else f"no {sample % 2}"))
            rows.append(row(prompt, 0, str(UntilAgreed(n=4)), level == 5, 60, "1" if level == 5 else None))
    frame = pd.DataFrame(rows).astype({"correct": "boolean"})
    index = pd.Index(list(levels), name="prompt_id")
    of_each = np.array(list(levels.values()))
    prompts = pd.DataFrame({"digest": "", "attempts": 4, "statistic": 1 - of_each / 5, "level": of_each}, index=index)
    prompts = prompts.assign(**{f"p{each}": np.where(of_each == each, 0.8, 0.05) for each in LEVELS})
    return frame, Training("pass_rate", 0, (0.7, 0.5, 0.3, 0.1), "text_logistic", {}, prompts)


def row(  # noqa: PLR0917
    prompt: str, sample: int, arm: str, correct: bool, length: int, answer: str | None
) -> dict[str, object]:
    tokens = {"prompt_tokens": 10, "generated_tokens": length, "scored_tokens": 0, "scores": None, "usage": None}
    return {
        "prompt_id": prompt,
        "prompt": prompt,
        "sample": sample,
        "arm": arm,
        "correct": correct,
        "answer": answer,
    } | tokens


@pytest.mark.long
def test_they_are_measured_and_tuned_without_a_second_table():
    frame, training = attempts(20)
    tuning = tune(frame, training, [1, 2, 4], setup=SETUP, cascades=False)
    arms = set(tuning.policy.arms)
    assert {Longest(n=1), Longest(n=2), Longest(n=4), UntilAgreed(n=4)} < arms
    chosen = [str(tuning.policy.decide(np.eye(5)[level - 1], Budget(4)).arm) for level in LEVELS]
    assert chosen[3:] == ["longest(n=4)", "until_agreed(n=4, votes=2)"]
    assert not any(arm.startswith(("longest(n=4)", "until_agreed")) for arm in chosen[:3])
    assert set(Policy.loads(tuning.policy.dumps()).arms) == arms


def test_where_they_stop_early_is_tried_as_the_class_says():
    frame, _ = attempts(2)
    points = evidence(frame, [1, 2, 4], reference="small")["4-0"]
    assert [arm for arm in points if arm.name == "longest"] == Longest.variants([1, 2, 4])
    eager = replace(Longest(n=4), stop=0.8)
    assert eager not in points  # from eight on, unless the class says otherwise
    Longest.stops_from = 4
    try:
        assert eager in evidence(frame, [1, 2, 4], reference="small")["4-0"]
    finally:
        del Longest.stops_from
