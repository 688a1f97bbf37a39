"""What was measured of each arm on each prompt.

Arms that draw independent samples are replayed from a prompt's pool of attempts, cascades from the runs of their
stages. Tree searches and revisions depend on their own earlier output, and ``single`` samples differently. These can't
be replayed: they count only where they were really run. See ``strategies.replaying.samples``.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from router.attempts.pools import SAMPLE, is_pool, model_of
from router.backends.specs import Setup
from router.errors import InvalidFile
from router.policy.table import Cost, in_order
from router.training.difficulty import FEWEST_PROMPTS
from router.tuning.cascades import RUNS, Replayed, Replays
from router.tuning.recordings import DRAWS, recordings
from strategies import STRATEGIES, Cascade, Sampling, Strategy, parse
from strategies.replaying.records import Pool, Recorded, Runs

Floats = NDArray[np.float64]
COVERAGE = 0.95  # share of the prompts on which an arm must be measured to take part
RESAMPLES = 1000
_NAMED = 5  # ids of left-out prompts that are reported
_OF_ARMS = ("accuracy", "generations", "prompt", "generated", "scored", "seconds")  # (P, K) fields of Measured


@dataclass(frozen=True, slots=True)
class Point:
    """One arm at one prompt, mean of its runs.

    accuracy  expected share of right answers
    prompt_tokens, generated_tokens  by model's name;  scored_tokens  read by the verifier
    seconds   NaN where they were not measured
    """

    accuracy: float
    prompt_tokens: Mapping[str, float]
    generated_tokens: Mapping[str, float]
    scored_tokens: float
    seconds: float


def evidence(
    attempts: pd.DataFrame,
    budgets: Sequence[int],
    *,
    reference: str = "",
    verified: bool = True,
    arms: Sequence[Strategy] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[Strategy, Point]]:
    """Return the measurements by prompt_id and arm.

    reference  name of the reference model;  verified  whether a verifier scores
    arms   other arms to replay, besides the usual sizes and those that were run
    draws  runs that a sampling arm is replayed for

    A sampling arm of n needs a pool of at least n attempts, with scores if it selects by them. Where it was also really
    run, the replay is used: it averages over many runs. Raises InvalidFile where ``correct`` is null, since accuracy
    can't be measured there.
    """
    found = recordings(attempts, reference=reference, verified=verified, draws=draws, seed=seed)
    return {prompt: _points(recorded, budgets, arms, reference) for prompt, recorded in found.items()}


def _points(
    recorded: Recorded, budgets: Sequence[int], arms: Sequence[Strategy], reference: str
) -> dict[Strategy, Point]:
    replayed = ((arm, arm.replay(recorded)) for arm in _tried(recorded.pools, recorded.runs, budgets, arms))
    return {arm: _point(each, reference) for arm, each in replayed if each is not None}


def _tried(
    pools: Mapping[str | None, Pool], runs: Mapping[str, Runs], budgets: Sequence[int], arms: Sequence[Strategy]
) -> list[Strategy]:
    sampling = [strategy for strategy in STRATEGIES.values() if issubclass(strategy, Sampling)]
    usual = [
        arm
        for model, pool in pools.items()
        for strategy in sampling
        for arm in strategy.variants(sorted({n for n in budgets if n <= len(pool)}), model)
    ]
    return list(dict.fromkeys([*usual, *(parse(arm) for arm in runs), *arms]))


def _point(runs: Runs, reference: str) -> Point:
    def named(tokens: Mapping[str | None, Floats]) -> dict[str, float]:
        return {model or reference: float(each.mean()) for model, each in tokens.items()}

    return Point(
        accuracy=float(runs.correct.mean()),
        prompt_tokens=named(runs.prompt_tokens),
        generated_tokens=named(runs.generated_tokens),
        scored_tokens=float(runs.scored_tokens.mean()),
        seconds=math.nan if runs.seconds is None else float(runs.seconds.mean()),
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """(P, K) values: P prompts on which every one of K arms was measured.

    arms         in the order of a policy's, so that a table's columns are columns here
    accuracy     expected share of right answers
    generations  what was generated, in complete solutions of the reference model: tokens divided by the mean tokens of
                 its samples at the prompt, a token of another model counting as much as the setup says. An arm that
                 stops early has less than its budget
    prompt, generated  (P, K, M) tokens by model, in the order of ``setup.models``;  scored (P, K) tokens that the
                 verifier read
    seconds      elapsed, NaN where they were not measured
    left_out     arms that were measured on too few prompts, and why
    replays      runs of the arms, to make cascades of
    tasks        (P,) names of the prompts' tasks
    sample_tokens     (P,) mean tokens of one sample of the reference model
    left_out_prompts  why prompts don't take part, by prompt_id: they lack an arm that nearly all others have
    """

    prompts: pd.Index
    arms: tuple[Strategy, ...]
    accuracy: Floats
    generations: Floats
    prompt: Floats
    generated: Floats
    scored: Floats
    seconds: Floats
    setup: Setup
    left_out: tuple[dict[str, Any], ...]
    replays: Replays
    sample_tokens: Floats
    tasks: NDArray[np.str_]
    left_out_prompts: Mapping[str, str] = field(default_factory=dict)

    @property
    def flops(self) -> Floats:
        """(P, K) FLOPs of all models."""
        generators, verifier = self._flops(self.prompt + self.generated, self.scored)
        return generators + verifier

    def _flops(self, tokens: Floats, scored: Floats) -> tuple[Floats, Floats]:
        """Return the FLOPs of all generators and of the verifier: 2 * parameters * tokens (Kaplan et al. 2020).

        tokens  (..., M) read and written, by model;  scored (...) read by the verifier
        """
        parameters = np.array([spec.parameters for spec in self.setup.models.values()])
        return 2.0 * (tokens * parameters).sum(axis=-1), 2.0 * self.setup.verifier.parameters * scored

    @property
    def budgets(self) -> Floats:
        """(K,) the most that each arm spends, in solutions of the reference model."""
        worth = self.setup.worth
        return np.array([arm.budget(worth) for arm in self.arms])

    @property
    def apart(self) -> tuple[str, ...]:
        """Tasks with enough prompts to be measured by themselves; none where all prompts are of one task."""
        if (self.tasks == self.tasks[0]).all():
            return ()
        return tuple(task for task in self.setup.tasks if (self.tasks == task).sum() >= FEWEST_PROMPTS)

    def of(self, columns: Sequence[int]) -> "Measured":
        """Return the values of some of the arms."""
        of_those: dict[str, Any] = {name: getattr(self, name)[:, columns] for name in _OF_ARMS}
        return replace(self, arms=tuple(self.arms[k] for k in columns), **of_those)

    def with_cascades(self, cascades: Sequence[Replayed]) -> "Measured":
        """Return the values with these cascades added, in the order of arms."""
        models = list(self.setup.models)

        def tokens(by_model: Mapping[str | None, Floats]) -> Floats:
            named = {model or self.setup.reference: each for model, each in by_model.items()}
            return np.stack([named.get(model, np.zeros(len(self.prompts))) for model in models], axis=-1)

        if not cascades:
            return self
        generated = np.stack([tokens(each.generated_tokens) for each in cascades], axis=1)
        more: dict[str, Floats] = {
            "accuracy": np.stack([each.accuracy for each in cascades], axis=1),
            "generations": _generations(generated, self.sample_tokens, self.setup),
            "prompt": np.stack([tokens(each.prompt_tokens) for each in cascades], axis=1),
            "generated": generated,
            "scored": np.stack([each.scored_tokens for each in cascades], axis=1),
            "seconds": np.stack([each.seconds for each in cascades], axis=1),
        }
        both = [*self.arms, *(each.arm for each in cascades)]
        columns = [both.index(arm) for arm in in_order(both, self.setup.worth)]
        values: dict[str, Any] = {name: np.concatenate([getattr(self, name), more[name]], axis=1) for name in more}
        return replace(self, arms=tuple(both), **values).of(columns)

    def on(self, rows: NDArray[np.int64]) -> "Measured":
        """Return the values on some of the prompts."""
        names = ("prompts", *_OF_ARMS, "sample_tokens", "tasks")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def costs(self, weights: Floats) -> list[Cost]:
        """Return each arm's mean cost over prompts with (P,) ``weights``, which sum to 1."""
        prompt, generated = np.tensordot(weights, self.prompt, 1), np.tensordot(weights, self.generated, 1)
        scored, generations = weights @ self.scored, weights @ self.generations
        seconds = weights @ self.seconds
        by_generators, by_verifier = self._flops(prompt + generated, scored)  # linear in tokens: of means, the mean
        return [
            Cost(
                generations=round(float(generations[k]), 3),
                prompt_tokens=round(float(prompt[k].sum()), 2),
                generated_tokens=round(float(generated[k].sum()), 2),
                scored_tokens=round(float(scored[k]), 2),
                generator_flops=round(float(by_generators[k])),
                verifier_flops=round(float(by_verifier[k])),
                money=self._money(prompt[k], generated[k], float(scored[k])),
                seconds=None if np.isnan(seconds[k]) else round(float(seconds[k]), 4),
            )
            for k in range(len(self.arms))
        ]

    def _money(self, prompt: Floats, generated: Floats, scored: float) -> float | None:
        specs = list(self.setup.models.values())
        if all(spec.input_price is None for spec in specs):
            return None
        read = sum((spec.input_price or 0.0) * float(tokens) for spec, tokens in zip(specs, prompt, strict=True))
        wrote = sum((spec.output_price or 0.0) * float(tokens) for spec, tokens in zip(specs, generated, strict=True))
        return float(f"{read + wrote + (self.setup.verifier.input_price or 0.0) * scored:.6g}")


def measure(
    attempts: pd.DataFrame,
    prompts: pd.Index,
    budgets: Sequence[int],
    setup: Setup,
    *,
    arms: Sequence[Strategy] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Measured:
    """Return what was measured on these prompts, of arms that were measured on nearly all of them. Raises InvalidFile.

    arms  arms besides the usual ones; cascades among them only count here if they were run, see ``with_cascades``
    """
    if len(prompts) < 2:
        raise InvalidFile(f"at least 2 prompts are needed, and the attempts are at {len(prompts)}; collect more")
    here = attempts[attempts["prompt_id"].isin(prompts)]
    _check_models(here, setup)
    verified, scores = setup.verifier.kind != "none", setup.verifier.scores
    recorded = recordings(here, reference=setup.reference, verified=verified, scores=scores, draws=draws, seed=seed)
    plain = [arm for arm in arms if not isinstance(arm, Cascade)]
    points = {prompt: _points(each, budgets, plain, setup.reference) for prompt, each in recorded.items()}
    coverage = _coverage(points, len(prompts))
    names = in_order((arm for arm, share in coverage.items() if share >= COVERAGE), setup.worth)
    missing = {prompt: [arm for arm in names if arm not in points.get(prompt, {})] for prompt in prompts}
    complete = np.array([bool(names) and not missing[prompt] for prompt in prompts])
    if complete.sum() < 2:
        raise InvalidFile(
            f"no arm was measured on {COVERAGE:.0%} of the {len(prompts)} prompts; collect the same attempts for every "
            "prompt, at least as many as the smallest budget"
        )
    kept, sizes = prompts[complete], pool_sizes(here, prompts)
    cells = [[points[prompt][arm] for arm in names] for prompt in kept]
    models = list(setup.models)
    generated = _array(cells, models, lambda point: point.generated_tokens)
    sample_tokens = _sample_tokens(here, kept)
    return Measured(
        prompts=kept,
        arms=names,
        accuracy=np.array([[point.accuracy for point in row] for row in cells]),
        generations=_generations(generated, sample_tokens, setup),
        prompt=_array(cells, models, lambda point: point.prompt_tokens),
        generated=generated,
        scored=np.array([[point.scored_tokens for point in row] for row in cells]),
        seconds=np.array([[point.seconds for point in row] for row in cells]),
        setup=setup,
        left_out=tuple(
            {"arm": str(arm), "reason": f"measured on {share:.0%} of the prompts, {COVERAGE:.0%} are needed"}
            for arm, share in sorted(coverage.items())
            if share < COVERAGE
        ),
        replays=Replays([_few(recorded[prompt]) for prompt in kept]),
        sample_tokens=sample_tokens,
        tasks=_tasks(here, kept, setup),
        left_out_prompts={prompt: _why_left_out(int(sizes[prompt]), missing[prompt]) for prompt in prompts[~complete]},
    )


def _coverage(points: Mapping[str, Mapping[Strategy, Point]], prompts: int) -> dict[Strategy, float]:
    """Return the share of the prompts on which each arm was measured. ``points``: by prompt_id and arm."""
    counted = Counter(arm for by_arm in points.values() for arm in by_arm)
    return {arm: count / prompts for arm, count in counted.items()}


def _sample_tokens(attempts: pd.DataFrame, prompts: pd.Index) -> Floats:
    """(P,) mean tokens of one sample of the reference model; where a prompt has none, the mean of the others."""
    means = attempts[attempts["arm"] == SAMPLE].groupby("prompt_id")["generated_tokens"].mean()
    found = prompts.map(means).to_series().fillna(means.mean()).clip(lower=1)
    return np.asarray(found.to_numpy(dtype=float))


def _generations(generated: Floats, sample_tokens: Floats, setup: Setup) -> Floats:
    """(P, K) complete solutions of the reference model, of (P, K, M) tokens by model; see :class:`Measured`."""
    worth = np.array([setup.worth[model] for model in setup.models])
    return np.asarray((generated / sample_tokens[:, None, None] * worth).sum(axis=2))


def _tasks(attempts: pd.DataFrame, prompts: pd.Index, setup: Setup) -> NDArray[np.str_]:
    """(P,) names of the prompts' tasks; the bundle's first one where the attempts name none."""
    first = setup.tasks[0]
    if "task" not in attempts:
        return np.full(len(prompts), first)
    named = attempts.drop_duplicates("prompt_id").set_index("prompt_id")["task"].fillna(first)
    return np.array(named.loc[prompts], dtype=np.str_)


def _few(recorded: Recorded) -> Recorded:
    """Limit the runs of its pools to the number that cascades are replayed for."""
    return replace(
        recorded,
        pools={model: replace(pool, order=pool.order[:RUNS]) for model, pool in recorded.pools.items()},
    )


def pool_sizes(attempts: pd.DataFrame, prompts: pd.Index) -> pd.Series:
    """Return the number of attempts in each prompt's pool of the reference model, 0 where it has none."""
    sizes = attempts.loc[attempts["arm"] == SAMPLE].groupby("prompt_id").size()
    return sizes.reindex(prompts, fill_value=0)


def common_size(sizes: pd.Series) -> int:
    """Return the largest pool size that nearly all prompts reach: :data:`COVERAGE` of them."""
    falling = np.sort(sizes.to_numpy())[::-1]
    return int(falling[math.ceil(COVERAGE * len(falling) - 1e-9) - 1])


def _why_left_out(size: int, missing: Sequence[Strategy]) -> str:
    """Say why a prompt with ``size`` attempts is left out; ``missing`` are the arms not measured there."""
    replayed = [arm.n for arm in missing if isinstance(arm, Sampling) and arm.model is None and arm.n > size]
    if replayed:
        return f"has {size} attempts, {max(replayed)} are needed"
    others = f" and {len(missing) - 1} more" * (len(missing) > 1)
    return f"was not measured with {missing[0]}{others}"


def by_reason(reasons: Mapping[str, str]) -> list[dict[str, Any]]:
    """Group left-out prompts by reason: ``reason``, how many (``count``), and the ids of the ``first`` few.

    reasons  by prompt id, why the prompt is left out
    """
    prompts: dict[str, list[str]] = {}
    for prompt, reason in reasons.items():
        prompts.setdefault(reason, []).append(prompt)
    return [{"reason": why, "count": len(ids), "first": ids[:_NAMED]} for why, ids in sorted(prompts.items())]


def named(entry: Mapping[str, Any]) -> str:
    """Format an entry of :func:`by_reason` without its reason: ``7 prompts (p1, p2, p3, p4, p5, ...)``."""
    more = ", ..." * (entry["count"] > len(entry["first"]))
    return f"{entry['count']} prompt{'s' * (entry['count'] > 1)} ({', '.join(entry['first'])}{more})"


def _array(cells: list[list[Point]], models: Sequence[str], get: Any) -> Floats:
    """(P, K, M) values that ``get`` returns by model, 0 for a missing model."""
    return np.array([[[get(point).get(model, 0.0) for model in models] for point in row] for row in cells])


def _check_models(attempts: pd.DataFrame, setup: Setup) -> None:
    for arm in attempts["arm"].unique():
        models = {model_of(arm)} if is_pool(arm) else parse(arm).models
        if unknown := sorted(model for model in models if model and model not in setup.models):
            raise InvalidFile(
                f"the attempts hold {arm!r}; models.json must describe the model {unknown[0]!r}, it has "
                + ", ".join(setup.models)
            )


def resamples(prompts: int, rng: np.random.Generator, count: int = RESAMPLES) -> Floats:
    """(count, prompts) weights of bootstrap resamples of prompts; each row sums to 1."""
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=count) / prompts


def interval(values: Floats, draws: Floats) -> dict[str, float]:
    """Return the mean of (P,) values and its 95% interval over (R, P) :func:`resamples`."""
    low, high = np.quantile(draws @ values, [0.025, 0.975])
    found = {"accuracy": values.mean(), "low": low, "high": high}
    return {name: round(float(value), 4) for name, value in found.items()}
