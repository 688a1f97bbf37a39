"""Replay of cascades: what runs of a cascade would have returned and spent, from runs of its stages. Needs numpy.

The runs may be at one prompt or at many: see ``strategies.replaying.records.Runs``.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies.replaying.records import ConfidenceOfRuns, Floats, Recorded, Runs, Seen
from strategies.strategy import Strategy

Prefilled = Mapping[str | None, Any]  # the prompt's tokens by model: numbers, or arrays that broadcast with the runs'


def replayed(
    arms: Sequence[Strategy], recorded: Recorded, known: dict[Any, Runs | None] | None = None
) -> list[Runs] | None:
    """Return runs of each stage; row r of all stages is run r of the cascade. None if a stage can't be replayed.

    known  cache of the replays at this prompt, by arm and by what earlier stages drew; looked up, and added to

    A stage that samples draws only attempts that no earlier stage drew. So two stages that use one pool are
    independent, and the pool must be large enough for both. An arm with complete runs that is a stage twice needs two
    runs.
    """
    known = {} if known is None else known
    drawn: Counter[str | None] = Counter()
    times: Counter[Strategy] = Counter()
    found = []
    for arm in arms:
        key = arm, frozenset(drawn.items())
        if key not in known:
            pools = {model: pool.beyond(drawn[model]) for model, pool in recorded.pools.items()}
            known[key] = arm.replay(replace(recorded, pools=pools, staged=True))
        runs = known[key]
        if runs is None:
            return None
        if runs is recorded.runs.get(str(arm)):
            if times[arm] >= len(runs):
                return None
            runs = _at(runs, (np.arange(len(runs)) + times[arm]) % len(runs))
            times[arm] += 1
        else:
            drawn.update(arm.solutions)
        found.append(runs)
    return found


def in_turn(
    arms: Sequence[Strategy],
    stages: Sequence[Runs],
    thresholds: Sequence[float],
    prefilled: Prefilled,
    *,
    confidence_of: ConfidenceOfRuns | None = None,
    verified: bool = True,
) -> Runs | None:
    """Return runs of the cascade; None if an answer lacks the score that its confidence is computed from.

    stages      runs of each stage, at one prompt or at many: ``(..., R)``, repeated where a stage has fewer than
                another
    thresholds  confidence that ends the cascade after each stage but the last
    prefilled   the prompt's tokens by model; a model that reads the prompt again finds them in its cache, and so does
                the verifier
    confidence_of  gives the confidences; None: :func:`by_score_or_lead_of_runs`
    verified    whether the bundle has a verifier
    """
    if verified and any(runs.unscored.any() for runs in stages[:-1]):
        return None
    confidence_of = confidence_of or by_score_or_lead_of_runs
    stages = repeated(stages)

    def state(count: int) -> Runs:
        return after(arms[:count], stages[:count], prefilled, confidence_of, last=count == len(stages))

    return ended(thresholds, state)


def ended(thresholds: Sequence[float], after_stages: Callable[[int], Runs]) -> Runs:
    """Return each run as it is after the first stage whose confidence reaches its threshold, or after the last stage.

    after_stages  gives the runs as they are after so many stages, from 1 to one more than there are thresholds
    """
    found = after_stages(len(thresholds) + 1)
    for count in range(len(thresholds), 0, -1):
        runs = after_stages(count)
        assert runs.confidence is not None
        found = either(np.nan_to_num(runs.confidence) >= thresholds[count - 1], runs, found)
    return found


def after(
    arms: Sequence[Strategy],
    stages: Sequence[Runs],
    prefilled: Prefilled,
    confidence_of: ConfidenceOfRuns,
    *,
    last: bool,
) -> Runs:
    """Return what the cascade has after these stages: their most confident answer, and all that they spent.

    stages  runs of each stage, equally many
    last    whether no stage follows; then the last answer is scored only if its own arm scores it
    """
    prompt: dict[str | None, Floats] = {}
    generated: dict[str | None, Floats] = {}
    seen, scored, read = [], np.zeros(1), np.zeros(1, dtype=bool)
    for i, (arm, runs) in enumerate(zip(arms, stages, strict=True)):
        for model, tokens in runs.prompt_tokens.items():
            again = prefilled.get(model, 0.0) if model in prompt else 0.0
            prompt[model] = prompt.get(model, 0.0) + np.maximum(tokens - again, 0.0)
        for model, tokens in runs.generated_tokens.items():
            generated[model] = generated.get(model, 0.0) + tokens
        unasked = last and i == len(stages) - 1 and not arm.scores_answers
        seen.append(replace(runs.seen, score=np.full_like(runs.seen.score, np.nan)) if unasked else runs.seen)
        checked = runs.scored_tokens + (0.0 if unasked else runs.check_tokens)
        # A verifier in this process reads the prompt once in a cascade, and each stage's tokens have it: it is about
        # as long for the verifier as for the stage's model.
        again = max((prefilled.get(model, 0.0) for model in arm.models), key=np.mean)
        scored = scored + np.maximum(checked - np.where(read & (checked > 0), again, 0.0), 0.0)
        read = read | (checked > 0)
    confidence = np.stack(np.broadcast_arrays(*confidence_of(arms, seen, last=last)))
    has = np.stack([runs.answered for runs in stages])
    rank = np.where(has, np.nan_to_num(confidence), -1.0)
    if last:  # its answer is returned if its confidence is unknown, as in confidence.most_confident
        rank[-1] = np.where(has[-1] & np.isnan(confidence[-1]), 2.0, rank[-1])
    kept = rank.argmax(axis=0)[None]

    def of_kept(values: Sequence[Any]) -> Any:
        return np.take_along_axis(np.stack(values), kept, axis=0)[0]

    return Runs(
        correct=np.where(has.any(axis=0), of_kept([runs.correct for runs in stages]), 0.0),
        prompt_tokens=prompt,
        generated_tokens=generated,
        scored_tokens=scored,
        seen=Seen.together(seen, of_kept),
        check_tokens=np.zeros_like(scored),
        confidence=np.where(has.any(axis=0), of_kept(list(confidence)), 0.0),
        stages=np.full(kept.shape[1:], len(stages)),
        seconds=_together(*(runs.seconds for runs in stages)),
    )


def by_score_or_lead_of_runs(arms: Sequence[Strategy], seen: Sequence[Seen], *, last: bool) -> list[Floats]:
    """Do what ``confidence.by_score_or_lead`` does, for arrays of runs; NaN where the confidence is unknown."""
    found = [np.where(np.isnan(each.score), each.lead, each.score) for each in seen]
    if last and len(seen) > 1:
        found[-1] = seen[-1].score
    return [np.where(each.answer < 0, 0.0, sure) for each, sure in zip(seen, found, strict=True)]


def either(first: NDArray[np.bool_], then: Runs, otherwise: Runs) -> Runs:
    """Return, run by run, ``then`` where ``first`` is true, and ``otherwise`` elsewhere."""

    def tokens(ours: Mapping[str | None, Floats], theirs: Mapping[str | None, Floats]) -> dict[str | None, Floats]:
        return {model: np.where(first, ours.get(model, 0.0), theirs.get(model, 0.0)) for model in {*ours, *theirs}}

    def values(name: str) -> Any:
        return np.where(first, getattr(then, name), getattr(otherwise, name))

    return Runs(
        prompt_tokens=tokens(then.prompt_tokens, otherwise.prompt_tokens),
        generated_tokens=tokens(then.generated_tokens, otherwise.generated_tokens),
        seen=Seen.together([then.seen, otherwise.seen], lambda both: np.where(first, *both)),
        **{name: values(name) for name in ("correct", "scored_tokens", "check_tokens", "confidence", "stages")},
        seconds=None if then.seconds is None or otherwise.seconds is None else values("seconds"),
    )


def repeated(stages: Sequence[Runs]) -> list[Runs]:
    """Return the stages with equally many runs each: a stage with fewer runs repeats them in order."""
    count = max(map(len, stages))
    return [_at(runs, np.arange(count) % len(runs)) for runs in stages]


def _together(*seconds: Floats | None) -> Floats | None:
    """Return the summed seconds of stages that ran one after the other; None if one was not measured."""
    known = [each for each in seconds if each is not None]
    return np.asarray(sum(known)) if len(known) == len(seconds) else None


def _at(runs: Runs, rows: NDArray[np.int64]) -> Runs:
    """Return the runs at these indices, in this order."""
    if len(rows) == len(runs) and (rows == np.arange(len(rows))).all():
        return runs

    def values(array: Any) -> Any:
        return np.asarray(array)[..., rows]

    return Runs(
        correct=values(runs.correct),
        prompt_tokens={model: values(tokens) for model, tokens in runs.prompt_tokens.items()},
        generated_tokens={model: values(tokens) for model, tokens in runs.generated_tokens.items()},
        scored_tokens=values(runs.scored_tokens),
        seen=runs.seen.at((..., rows)),
        check_tokens=values(runs.check_tokens),
        seconds=None if runs.seconds is None else values(runs.seconds),
    )


def stack(runs: Sequence[Runs], count: int) -> Runs:
    """Return (P, count) runs, given the runs at each of P prompts; a prompt with fewer runs repeats them."""
    rows = [_at(each, np.arange(count) % len(each)) for each in runs]

    def values(name: str) -> Any:
        return np.stack([getattr(each, name) for each in rows])

    def tokens(name: str) -> dict[str | None, Floats]:
        return {model: np.stack([getattr(each, name)[model] for each in rows]) for model in getattr(rows[0], name)}

    return Runs(
        correct=values("correct"),
        prompt_tokens=tokens("prompt_tokens"),
        generated_tokens=tokens("generated_tokens"),
        scored_tokens=values("scored_tokens"),
        seen=Seen.together([each.seen for each in rows], np.stack),
        check_tokens=values("check_tokens"),
        seconds=None if any(each.seconds is None for each in rows) else values("seconds"),
    )
