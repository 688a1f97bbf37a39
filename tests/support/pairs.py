"""Each backend's generator and verifier, with what a test needs to know about them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from router.backends import Generator, Usage, Verifier
from router.backends.fake import FakeGenerator, FakeVerifier
from router.backends.specs import Deployment, VerifierSpec
from router.backends.template import encode
from router.bundle.setup import read_setup
from router.prompt import Prompt
from strategies import Candidate
from tests.support.fake_vllm import Characters, FakeVllm

if TYPE_CHECKING:
    from tests.support.vllm_servers import Servers

COUNTS = [each.name for each in fields(Usage)]
BUNDLE = Path(__file__).parent.parent.parent / "models" / "smollm2-135m"


@dataclass
class Pair:
    """A generator and a verifier under test, and functions for tests.

    counted  returns the engines' own count so far
    shorten  sets the longest solution
    slow     makes tokens slow, where they are not anyway
    idle     waits until no engine works on anything
    """

    generator: Generator
    verifier: Verifier
    encode: Callable[[str], Sequence[int]]
    decode: Callable[[Sequence[int]], str]
    counted: Callable[[], Usage]
    shorten: Callable[[int], None]
    slow: Callable[[], None] = lambda: None
    idle: Callable[[], Awaitable[None]] = field(default=lambda: asyncio.sleep(0))

    async def extend(
        self, prompt: str | Prompt, candidates: list[Candidate], usage: Usage | None = None, **options
    ) -> list[Candidate]:
        defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
        usage = Usage() if usage is None else usage
        return await self.generator.extend(said(prompt), candidates, **{**defaults, **options}, usage=usage)

    async def score(
        self, prompt: str | Prompt, candidates: list[Candidate], usage: Usage | None = None, **options
    ) -> list[Candidate]:
        usage = Usage() if usage is None else usage
        return await self.verifier.score(said(prompt), candidates, **{"max_tokens": None, **options}, usage=usage)


def said(prompt: str | Prompt) -> Prompt:
    return Prompt.of(prompt) if isinstance(prompt, str) else prompt


def fake() -> Pair:
    generator, verifier = FakeGenerator(), FakeVerifier()
    return Pair(
        generator,
        verifier,
        encode=lambda prompt: list(map(ord, prompt)),
        decode=lambda tokens: "".join(map(chr, tokens)),
        counted=lambda: total(generator.counted, verifier.counted),
        shorten=lambda n: setattr(generator, "longest", n),
        slow=lambda: setattr(generator, "latency", 0.05),
    )


def fake_vllm() -> Pair:
    server = FakeVllm()
    generator, verifier = server.generator("a", "b"), server.verifier("c")

    async def idle() -> None:
        assert server.running == 0

    return Pair(
        generator,
        verifier,
        encode=lambda prompt: encode(generator.tokenizer, generator.template.parts(said(prompt))),
        decode=Characters().decode,
        counted=lambda: total(generator.counted, verifier.counted),
        shorten=lambda n: setattr(generator, "spec", replace(generator.spec, max_tokens=n)),
        slow=lambda: setattr(server, "latency", 0.3),
        idle=idle,
    )


def in_process() -> Pair:
    import torch

    from router.backends.in_process.engines import load_model, load_verifier

    setup = read_setup(BUNDLE)
    with pytest.MonkeyPatch.context() as patch:  # float32: equal computations batched in different ways agree
        patch.setattr("router.backends.in_process.weights.fastest_dtype", lambda: torch.float32)
        generator: Any = load_model("small", setup.main, BUNDLE, Deployment())
        verifier: Any = load_verifier(setup.verifier, setup.main, generator, BUNDLE, Deployment())
    tokenizer = generator.batcher.tokenizer
    return Pair(
        generator,
        verifier,
        encode=lambda prompt: encode(tokenizer, generator.template.parts(said(prompt))),
        decode=tokenizer.decode,
        counted=lambda: total(generator.batcher.counted, generator.reviser.counted, verifier.counted),
        shorten=lambda n: setattr(generator, "spec", replace(generator.spec, max_tokens=n)),
    )


def vllm(servers: "Servers") -> Pair:
    from router.backends.vllm import load_model, load_verifier

    main = read_setup(BUNDLE).main
    deployment = Deployment({"small": (servers.generator,), "verifier": (servers.verifier,)})
    generator: Any = load_model("small", main, BUNDLE, deployment)
    spec = VerifierSpec("qwen2.5-math-prm", None, 1_000, str(servers.tiny_prm))
    verifier: Any = load_verifier(spec, main, generator, BUNDLE, deployment)
    return Pair(
        generator,
        verifier,
        encode=lambda prompt: encode(generator.tokenizer, generator.template.parts(said(prompt))),
        decode=generator.tokenizer.decode,
        counted=lambda: total(generator.counted, verifier.counted),
        shorten=lambda n: setattr(generator, "spec", replace(generator.spec, max_tokens=n)),
        idle=servers.idle,
    )


def total(*parts: Usage) -> Usage:
    return Usage(*(sum(getattr(part, name) for part in parts) for name in COUNTS))


def spent(before: Usage, after: Usage) -> Usage:
    return Usage(*(getattr(after, name) - getattr(before, name) for name in COUNTS))
