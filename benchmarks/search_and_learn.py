"""Best-of-N, beam search and DVTS as "Scaling test-time compute" (Hugging Face, 2024) describes them.

Written from the description and from the settings that huggingface/search-and-learn publishes (M = 4, 40 iterations,
the last step's score), not from its code. What sets it apart from this project's searches is how the engine is asked:

- in lock-step: each iteration writes one step of every beam of every prompt in the batch, and nobody goes on before the
  slowest has; then the reward model reads all of it
- each beam is a prompt of its own, as text, with one sample: equal beams share what the prefix cache holds, no more
- beams that ended don't count: beam search goes on with N beams until all of one iteration have ended

In three points it is kinder than the original, so that the algorithms are compared and not the programs: beam search
takes the whole batch of prompts too (theirs one prompt), no step is followed by a rollout to score it (theirs: one
step, to switch off), and equal texts are read once by the reward model.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

ITERATIONS = 40


@dataclass(frozen=True)
class Beam:
    """``text`` of one solution to ``prompt`` so far."""

    prompt: str
    text: str = ""
    tokens: int = 0
    ended: bool = False


# Continue each beam once, by a step or ("whole") to its end; read all beams, the last step's score of each.
Write = Callable[[Sequence[Beam], bool], Awaitable[list[Beam]]]
Read = Callable[[Sequence[Beam]], Awaitable[list[float]]]


async def best_of_n(prompts: Sequence[str], n: int, m: int, write: Write, read: Read) -> list[Beam]:
    """The best solution to each prompt of ``n`` independent ones."""
    written = await write([Beam(prompt) for prompt in prompts for _ in range(n)], True)
    return _best(prompts, written, await read(written))


async def beam_search(prompts: Sequence[str], n: int, m: int, write: Write, read: Read) -> list[Beam]:
    """``n`` beams a prompt: of each iteration's different beams the best n/m are continued ``m`` times."""
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
    """n/m trees a prompt: of ``m`` continuations each tree keeps the best; the best tree's solution."""
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
