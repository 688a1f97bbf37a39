"""Best-of-N, beam search and DVTS as "Scaling test-time compute" (Hugging Face, 2024) describes them.

Written from the description and from the settings that huggingface/search-and-learn publishes (M = 4, 40 iterations,
the last step's score), not from its code. It differs from this project's searches in how it uses the engine:

- It works in lock-step. Each iteration writes one step of every beam of every prompt in the batch and waits for the
  slowest. Then the reward model reads all beams.
- Each beam is a prompt of its own, as text, with one sample. Equal beams share only what the prefix cache holds.
- Beams that ended don't count: beam search goes on with N beams until all beams of one iteration have ended.

In three points it is faster than the original, so that algorithms are compared and not programs: beam search takes the
whole batch of prompts (theirs: one prompt), no step is followed by a rollout to score it (theirs: one step, which can
be switched off), and the reward model reads equal texts once.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

ITERATIONS = 40


@dataclass(frozen=True)
class Beam:
    """One solution to ``prompt``. ``text``: what is written so far."""

    prompt: str
    text: str = ""
    tokens: int = 0
    ended: bool = False


# Write continues each beam once, by a step or ("whole") to its end. Read returns the score of each beam's last step.
Write = Callable[[Sequence[Beam], bool], Awaitable[list[Beam]]]
Read = Callable[[Sequence[Beam]], Awaitable[list[float]]]


async def best_of_n(prompts: Sequence[str], n: int, m: int, write: Write, read: Read) -> list[Beam]:
    """Return for each prompt the best of ``n`` independent solutions."""
    written = await write([Beam(prompt) for prompt in prompts for _ in range(n)], True)
    return _best(prompts, written, await read(written))


async def beam_search(prompts: Sequence[str], n: int, m: int, write: Write, read: Read) -> list[Beam]:
    """Search with ``n`` beams for each prompt; the best n/m different beams are continued ``m`` times each."""
    beams = {prompt: [Beam(prompt)] * n for prompt in prompts}
    ended: list[tuple[Beam, float]] = []
    for iteration in range(ITERATIONS):
        written = await write([beam for kept in beams.values() for beam in kept], iteration == ITERATIONS - 1)
        scored = list(zip(written, await read(written), strict=True))
        ended += [(beam, score) for beam, score in scored if beam.ended]
        beams = {}
        for prompt in prompts:
            going_on = {beam.text: (score, beam) for beam, score in scored if beam.prompt == prompt and not beam.ended}
            ranked = sorted(going_on.values(), key=lambda pair: pair[0], reverse=True)
            if ranked:
                beams[prompt] = list(islice(cycle(beam for _, beam in ranked[: n // m]), n))
        if not beams:
            break
    return _best(prompts, *zip(*ended, strict=True))


async def dvts(prompts: Sequence[str], n: int, m: int, write: Write, read: Read) -> list[Beam]:
    """Search with n/m trees for each prompt; each keeps the best of ``m`` continuations. Return the best solution."""
    trees = [Beam(prompt) for prompt in prompts for _ in range(n // m)]
    scores = [0.0] * len(trees)
    for iteration in range(ITERATIONS):
        growing = [number for number, tree in enumerate(trees) if not tree.ended]
        if not growing:
            break
        written = await write([trees[t] for t in growing for _ in range(m)], iteration == ITERATIONS - 1)
        read_as = await read(written)
        for place, t in enumerate(growing):
            best = max(range(place * m, (place + 1) * m), key=read_as.__getitem__)
            trees[t], scores[t] = written[best], read_as[best]
    return _best(prompts, trees, scores)


def _best(prompts: Sequence[str], beams: Sequence[Beam], scores: Sequence[float]) -> list[Beam]:
    ranked = sorted(zip(scores, beams, strict=True), key=lambda pair: pair[0])
    best = {beam.prompt: beam for _, beam in ranked}
    return [best[prompt] for prompt in prompts]
