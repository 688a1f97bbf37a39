"""Cascades replayed from recorded attempts and runs: what driving them would have given, on average."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from router.backends import Engines
from router.backends.fake import FakeGenerator
from router.prompt import Prompt
from router.solving.bill import Bill
from router.solving.driver import drive
from router.solving.request import Request
from router.tasks import load_task
from strategies import Candidate, Cascade, Extend, Result, Single, Strategy, parse
from strategies.replaying.cascades import replayed
from strategies.replaying.records import Pool, Recorded, Runs, Seen, code_of
from tests.support.searches import finished


def recorded_pool(seed: int, *, right: float, size: int = 12, runs: int = 240, scored: bool = True) -> Pool:
    """Attempts that are right or wrong in two ways, or unanswered; the verifier mostly sees which."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(["1", "2", "3", "."], size, p=[right, 0.7 * (0.9 - right), 0.3 * (0.9 - right), 0.1])
    correct = (kinds == "1").astype(float)
    score = np.round(np.clip(0.3 + 0.4 * correct + rng.normal(0, 0.2, size), 0, 1), 2)
    return Pool(
        [None if kind == "." else str(kind) for kind in kinds],
        correct,
        score if scored else np.full(size, np.nan),
        np.full(size, 7.0),
        rng.integers(5, 40, size).astype(float),
        rng.integers(5, 40, size).astype(float) * scored,
        rng.random((runs, size)).argsort(axis=1),
    )


def recorded_runs(seed: int, *, model: str | None, right: float, count: int = 6) -> Runs:
    """Complete, scored runs of an arm that is no sampling one."""
    rng = np.random.default_rng(seed)
    correct = (rng.random(count) < right).astype(float)
    answered = rng.random(count) < 0.9
    return Runs(
        correct=correct * answered,
        prompt_tokens={model: np.full(count, 9.0)},
        generated_tokens={model: rng.integers(50, 90, count).astype(float)},
        scored_tokens=rng.integers(50, 90, count).astype(float),
        seen=Seen.of(
            answer=np.where(answered, np.where(correct, code_of("1"), code_of("2")), -1),
            score=np.where(answered, np.round(rng.random(count), 2), np.nan),
            lead=np.full(count, np.nan),
        ),
        check_tokens=np.zeros(count),
    )


class Replayed:
    """The slow way: drives the cascade's own search once over recorded attempts, in one order for all of a model.

    An arm that was run is one of its runs, whose candidate is told apart by its text.
    """

    def __init__(self, cascade: Cascade, recorded: Recorded, rng: np.random.Generator):
        self.recorded, self.rng = recorded, rng
        self.correct, self.generated, self.scored = 0.0, dict.fromkeys(cascade.models, 0.0), 0.0
        self.prompt: dict[str | None, float] = {}
        self.read = False  # whether the verifier has read the prompt
        self.orders = {model: iter(rng.permutation(len(pool))) for model, pool in recorded.pools.items()}
        found, most = None, -1.0
        sure: float | None
        for stage, threshold in zip(cascade.stages, (*cascade.thresholds, None), strict=True):
            right, answered, sure = (
                self.run_of(stage) if str(stage) in recorded.runs else self.search_of(stage, last=threshold is None)
            )
            if answered and (sure is None or sure > most):
                found, most = right, 2.0 if sure is None else sure
            if threshold is not None and most >= threshold:
                break
        self.correct = found or 0.0

    def run_of(self, stage: Strategy) -> tuple[float, bool, float | None]:
        runs = self.recorded.runs[str(stage)]
        i = self.rng.integers(len(runs))
        (model,) = stage.models
        self.generated[model] += runs.generated_tokens[model][i]
        # What the model has read already is prefilled; what the run read beyond the prompt is not.
        prefilled = self.recorded.pools[model].prompt_tokens[0] if model in self.prompt else 0.0
        self.prompt[model] = self.prompt.get(model, 0.0) + runs.prompt_tokens[model][i] - prefilled
        self.scored += runs.scored_tokens[i] - self.read * self.recorded.pools[model].prompt_tokens[0]
        self.read = True
        return runs.correct[i], runs.answered[i], runs.seen.score[i]

    def search_of(self, stage: Strategy, *, last: bool) -> tuple[float, bool, float | None]:
        """Its real search; where it is not the last, its answer is scored as a cascade has it scored."""
        pool = self.recorded.pools[stage.model]
        order = self.orders[stage.model]
        self.prompt.setdefault(stage.model, pool.prompt_tokens[0])
        search, asked = stage.search(), 0
        request = next(search)
        while True:
            reply = []
            for candidate in request.candidates:
                if isinstance(request, Extend):
                    i = int(next(order))
                    asked += 1
                    self.generated[stage.model] += pool.generated_tokens[i]
                    reply.append(replace(candidate, steps=(str(i),), end="stop", answer=pool.answers[i]))
                else:
                    reply.append(self.judged(candidate, pool))
            try:
                request = search.send(reply)
            except StopIteration as done:
                found: Result = done.value
                break
        if found.best is None:
            return 0.0, False, 0.0
        best = found.best
        if best.score is None and not last:
            best = self.judged(best, pool)
        return pool.correct[int(best.text)], True, best.score

    def judged(self, candidate: Candidate, pool: Pool) -> Candidate:
        """Scored, and read: the prompt once."""
        i = int(candidate.text)
        self.scored += pool.scored_tokens[i] + (not self.read) * pool.prompt_tokens[i]
        self.read = True
        return replace(candidate, scores=(float(pool.scores[i]),))


CASCADES = [
    "majority(n=3) @0.6 > majority(n=4, model=large)",
    "best_of_n(n=3) @0.7 > weighted_best_of_n(n=4, model=large)",
    "majority(n=3, model=large) @0.5 > best_of_n(n=4)",
    "majority(n=8, stop=0.8) @0.6 > best_of_n(n=4, model=large)",
    "beam_search(n=4, m=2) @0.5 > majority(n=4)",
    "majority(n=4) @0.65 > beam_search(n=4, m=2) @0.5 > best_of_n(n=4, model=large)",
]


def cascade_of(text: str) -> Cascade:
    arm = parse(text)
    assert isinstance(arm, Cascade)
    return arm


@pytest.mark.long
@pytest.mark.parametrize("text", CASCADES)
def test_the_replay_is_what_driving_the_search_gives_on_average(text):
    """Over prompts whose attempts differ: what a stage draws from a pool, no later one draws again."""
    cascade, rng = cascade_of(text), np.random.default_rng(0)
    differences = []
    for seed in range(40):
        right = [0.15, 0.4, 0.6][seed % 3]
        recorded = Recorded(
            {None: recorded_pool(seed, right=right), "large": recorded_pool(seed + 1000, right=right + 0.25)},
            {"beam_search(n=4, m=2)": recorded_runs(seed, model=None, right=right)},
        )
        found = cascade.replay(recorded)
        driven = [Replayed(cascade, recorded, rng) for _ in range(120)]
        pairs = [(found.correct, [each.correct for each in driven])]
        pairs += [(found.scored_tokens, [each.scored for each in driven])]
        for model in sorted(cascade.models, key=str):
            pairs += [(found.generated_tokens[model], [each.generated[model] for each in driven])]
            pairs += [(found.prompt_tokens[model], [each.prompt.get(model, 0.0) for each in driven])]
        differences.append([mine.mean() - np.mean(theirs) for mine, theirs in pairs])
    table = np.array(differences)
    error = table.std(axis=0) / np.sqrt(len(table))
    assert (np.abs(table.mean(axis=0)) < 3.5 * error + 1e-9).all(), (table.mean(axis=0), error)


@pytest.mark.parametrize("text", CASCADES)
def test_the_replay_is_exact_where_every_run_is_alike(text):
    """All attempts alike: no luck is left, and every token must be accounted for."""
    for score in (0.1, 0.9):
        pools = {
            model: replace(
                recorded_pool(0, right=0.5),
                answers=["1"] * 12,
                correct=np.ones(12),
                scores=np.full(12, score),
                generated_tokens=np.full(12, tokens),
                scored_tokens=np.full(12, tokens - 1),
            )
            for model, tokens in ((None, 20.0), ("large", 30.0))
        }
        run = recorded_runs(0, model=None, right=1.0, count=1)
        seen = Seen.of(np.array([code_of("1")]), np.array([score]), np.array([np.nan]))
        run = replace(run, seen=seen, correct=np.array([1.0]))
        recorded = Recorded(pools, {"beam_search(n=4, m=2)": run})
        found = parse(text).replay(recorded)
        driven = Replayed(cascade_of(text), recorded, np.random.default_rng(0))
        assert set(found.correct) == {driven.correct} == {1.0}
        assert found.scored_tokens == pytest.approx(driven.scored)
        for model in parse(text).models:
            assert found.generated_tokens[model] == pytest.approx(driven.generated[model])
            assert found.prompt_tokens[model] == pytest.approx(driven.prompt.get(model, 0.0))


class Reading:
    """A verifier that bills as those in process do: a search pays for each token once, the prompt's included."""

    parameters = 1_000

    def __init__(self, score: float):
        self._score = score
        self._read: set[tuple[str, ...]] = set()

    async def score(self, prompt, candidates, *, max_tokens, usage):
        texts = [(prompt.question, *each.steps) for each in candidates]
        for read in (text[: end + 1] for text in texts for end in range(len(text))):
            usage.add(scored_tokens=0 if read in self._read else len(read[-1]))
            self._read.add(read)
        return [replace(each, scores=(self._score,) * len(each.steps)) for each in candidates]

    async def close(self):
        pass


def written(prompt: str, candidate: Candidate, rng: Random) -> str:
    """What is left of a solution of three steps, all different and equally long."""
    left = 2 - len(candidate.steps)
    return "".join(f"{rng.randrange(10**8):08}\n" for _ in range(left)) + "Answer: 1"


async def driven(arm: Strategy, score: float) -> Bill:
    models = {"small": FakeGenerator(write=written), "large": FakeGenerator(write=written)}
    engines = Engines(models, "small", Reading(score))
    bill = Bill()
    await finished(drive(arm, Request(Prompt.of("1 ="), seed=3), engines, load_task("math"), bill))
    return bill


@pytest.mark.parametrize("score", [0.1, 0.9])
@pytest.mark.parametrize("text", [*CASCADES, "single @0.5 > majority(n=4) @0.5 > best_of_n(n=3) @0.5 > dvts(n=4, m=2)"])
async def test_the_replay_bills_the_verifier_as_the_driver_does(text, score):
    solution, prompt = 2 * 9 + len("Answer: 1"), len("1 =")
    pool = replace(
        recorded_pool(0, right=0.5),
        answers=["1"] * 12,
        correct=np.ones(12),
        scores=np.full(12, score),
        prompt_tokens=np.full(12, float(prompt)),
        generated_tokens=np.full(12, solution + 1.0),  # and the end
        scored_tokens=np.full(12, float(solution)),
    )
    runs = {}
    for arm in cascade_of(text).stages:
        if arm.needs_steps or arm == Single():
            bill = await driven(arm, score)
            runs[str(arm)] = replace(
                recorded_runs(0, model=None, right=1.0, count=1),
                correct=np.ones(1),
                prompt_tokens={None: np.array([float(bill.prompt_tokens)])},
                generated_tokens={None: np.array([float(bill.generated_tokens)])},
                scored_tokens=np.array([float(bill.scored_tokens)]),
                seen=Seen.of(np.array([code_of("1")]), np.array([score]), np.array([np.nan])),
                check_tokens=np.array([0.0 if arm.needs_scores else float(prompt + solution)]),
            )
    found = parse(text).replay(Recorded({None: pool, "large": pool}, runs))
    bill = await driven(parse(text), score)
    assert set(np.broadcast_to(found.scored_tokens, found.correct.shape)) == {float(bill.scored_tokens)}
    assert set(np.sum(list(found.generated_tokens.values()), axis=0)) == {float(bill.generated_tokens)}


def test_a_stage_that_was_not_recorded_leaves_only_the_cascades_own_runs():
    cascade = parse("single @0.7 > majority(n=4)")
    pools: dict[str | None, Pool] = {None: recorded_pool(0, right=0.5)}
    assert cascade.replay(Recorded(pools, {})) is None
    own = recorded_runs(0, model=None, right=0.5)
    assert cascade.replay(Recorded(pools, {str(cascade): own})) is own
    stage = recorded_runs(1, model=None, right=0.5)
    assert cascade.replay(Recorded(pools, {"single": stage, str(cascade): own})) is not own


def test_a_confidence_that_nobody_knows_is_not_made_up():
    cascade = parse("majority(n=3) @0.7 > majority(n=4)")
    recorded = Recorded({None: recorded_pool(0, right=0.5, scored=False)}, {})
    assert cascade.replay(recorded) is None
    assert cascade.replay(replace(recorded, verified=False)) is not None
    runs = recorded_runs(0, model=None, right=0.5)
    unscored = replace(runs, seen=replace(runs.seen, score=np.full(6, np.nan)))
    scored = Recorded({None: recorded_pool(0, right=0.5)}, {"single": unscored})
    assert parse("single @0.7 > majority(n=4)").replay(scored) is None
    assert parse("majority(n=4) @0.7 > single").replay(scored) is not None  # the last one's is not asked for


def test_two_stages_of_one_pool_never_draw_the_same_attempt():
    pool = replace(recorded_pool(0, right=0.5, size=7), answers=["1"] * 7, generated_tokens=np.exp2(np.arange(7.0)))
    arms = cascade_of("majority(n=3) @0.9 > best_of_n(n=4)").stages
    stages = replayed(arms, Recorded({None: pool}, {}))
    assert stages
    first, second = stages
    assert set(first.generated_tokens[None] + second.generated_tokens[None]) == {2.0**7 - 1}
    assert parse("majority(n=4) @0.9 > best_of_n(n=4)").replay(Recorded({None: pool}, {})) is None  # 7 are too few


def test_a_stage_that_comes_twice_needs_two_runs():
    twice = parse("beam_search(n=4, m=2) @0.5 > beam_search(n=4, m=2)")
    one, two = (recorded_runs(0, model=None, right=0.5, count=count) for count in (1, 2))
    assert twice.replay(Recorded({}, {"beam_search(n=4, m=2)": one})) is None
    assert twice.replay(Recorded({}, {"beam_search(n=4, m=2)": two})) is not None


def test_every_stage_keeps_what_it_found():
    """The last one's doubtful answer does not replace one that is believed more."""
    first, last = (recorded_runs(0, model=None, right=1.0, count=1) for _ in range(2))
    first = replace(
        first, correct=np.ones(1), seen=Seen.of(np.array([code_of("1")]), np.array([0.6]), np.full(1, np.nan))
    )
    last = replace(
        last, correct=np.zeros(1), seen=Seen.of(np.array([code_of("2")]), np.array([0.5]), np.full(1, np.nan))
    )
    found = parse("beam_search(n=4, m=2) @0.9 > dvts(n=4, m=2)").replay(
        Recorded({}, {"beam_search(n=4, m=2)": first, "dvts(n=4, m=2)": last})
    )
    assert (found.correct, found.confidence, found.stages) == (1.0, 0.6, 2)
