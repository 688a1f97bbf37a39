"""A stand-in for vLLM's server, in process: its API as far as the router uses it, answered by the fake engine's script.

For the caller's own logic (retries, failover, cancelling); `make test-vllm` checks what vLLM really answers. Each token
is a character, as in the fake engine.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from random import Random

import httpx2

from router.backends import GeneratorSpec, VerifierSpec
from router.backends.fake import calculate
from router.backends.prm import PublishedVerifier
from router.backends.replicas import Replicas
from router.backends.template import Template
from router.backends.vllm import VllmGenerator, VllmReader
from strategies import Path

GENERATOR = GeneratorSpec("m", None, 1_000, Template("{prompt}|", "|", "\n"), temperature=0.8, max_tokens=512)
VERIFIER = VerifierSpec("qwen2.5-math-prm", None, 500, "m")
CONTEXT = 2048
END = 0
SPECIAL = {"<|im_start|>": 0xE001, "<|im_end|>": 0xE002, "<extra_0>": 0xE003}


class Characters:
    """As much of a transformers tokenizer as the router uses."""

    unk_token_id = None

    def encode(self, text: str, **options) -> list[int]:
        return list(map(ord, text))

    def decode(self, tokens) -> str:
        return "".join(map(chr, tokens))

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return SPECIAL.get(token)

    def convert_ids_to_tokens(self, token: int) -> str:
        return next(text for text, each in SPECIAL.items() if each == token)


class _Closing(httpx2.AsyncByteStream):
    """Ends the server's work when the caller hangs up, as a closed connection does."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]):
        self.pieces = pieces

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self.pieces

    async def aclose(self) -> None:
        await self.pieces.aclose()


class Double:
    """Servers by URL. ``mood`` says what one does next: see :meth:`_answer`."""

    def __init__(self, latency: float = 0.0):
        self.latency = latency  # seconds a piece of an answer takes
        self.moods: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str, dict]] = []  # host, path, body
        self.running = 0
        self.read_to_the_end = 0  # streams; only their connections can be used again

    def bad(self, host: str, *moods: str) -> None:
        """What ``host`` does with its next requests to generate or score; then it is well again."""
        self.moods[host] = list(moods)

    def generator(self, *hosts: str, **options) -> VllmGenerator:
        return VllmGenerator(self.replicas(*hosts, **options), GENERATOR, Characters())

    def verifier(self, *hosts: str) -> PublishedVerifier:
        return PublishedVerifier(
            VERIFIER.kind, Characters(), VERIFIER.parameters, VllmReader(self.replicas(*hosts), None)
        )

    def replicas(self, *hosts: str, **options) -> Replicas:
        urls = [f"http://{host}" for host in hosts or ("a",)]
        return Replicas(urls, transport=httpx2.MockTransport(self._answer), **options)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        host, path = request.url.host, request.url.path
        if path == "/v1/models":
            return httpx2.Response(
                200, json={"data": [{"id": "m", "max_model_len": CONTEXT}, {"id": "lora"}, {"id": "again"}]}
            )
        body = json.loads(request.content)
        self.asked.append((host, path, body))
        mood = self.moods[host].pop(0) if self.moods.get(host) else "well"
        if mood == "refuse":
            raise httpx2.ConnectError("refused")
        if mood == "hang up":
            raise httpx2.RemoteProtocolError("hung up")
        if mood.isdigit():
            return httpx2.Response(int(mood), text="no")
        if path == "/pooling":
            return httpx2.Response(200, text="garbage" if mood == "garbage" else json.dumps(self._scored(body, mood)))
        return httpx2.Response(200, stream=_Closing(self._stream(body, mood)))

    def _scored(self, body: dict, mood: str) -> dict:
        def pairs(tokens: list[int]) -> list[list[float]]:
            ends = [i for i, token in enumerate(tokens) if token == SPECIAL["<extra_0>"]]
            scores = [Random(str(tokens[: end + 1])).random() for end in ends]
            return [[1 - score, score] for score in scores][mood == "short" :]

        rows = [{"index": i, "data": pairs(tokens)} for i, tokens in enumerate(body["input"])]
        return {"data": rows, "usage": {"prompt_tokens": sum(map(len, body["input"]))}}

    async def _stream(self, body: dict, mood: str) -> AsyncGenerator[bytes, None]:
        assert body["temperature"] > 0 or body["n"] == 1
        assert len(body["prompt"]) + body["max_tokens"] <= CONTEXT
        self.running += 1
        try:
            solutions = [self._solution(body, index) for index in range(body["n"])]
            piece = body["stream_interval"]
            for begin in range(0, max(len(tokens) for tokens, *_ in solutions), piece):
                await asyncio.sleep(self.latency)
                if mood == "die" and begin:
                    raise httpx2.ReadError("died")
                if mood == "fail" and begin:
                    yield b'data: {"error": {"message": "engine dead"}}\n\n'
                    return
                for index, (tokens, reason, stopped_by) in enumerate(solutions):
                    part = tokens[begin : begin + piece]
                    if not part:
                        continue
                    last = begin + piece >= len(tokens)
                    choice = {
                        "index": index,
                        "token_ids": part,
                        "logprobs": {"token_logprobs": [-0.1] * len(part)},
                        "finish_reason": ("abort" if mood == "abort" else reason) if last else None,
                        "stop_reason": stopped_by if last else None,
                    }
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
            if mood != "cut":
                usage = {"prompt_tokens_details": {"cached_tokens": 2 if mood == "cached" else 0}}
                yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode()
                self.read_to_the_end += 1
        finally:
            self.running -= 1

    def _solution(self, body: dict, index: int) -> tuple[list[int], str, str | None]:
        """Tokens, finish_reason and stop_reason of one sample, as vLLM gives them."""
        prompt, *_, written = "".join(map(chr, body["prompt"])).split("|")
        *lines, begun = written.split("\n")
        rng = Random(0 if body["temperature"] == 0 else body["seed"] + index)
        text = calculate(prompt, Path(steps=tuple(f"{line}\n" for line in lines)), rng)[len(begun) :]
        stop = (body.get("stop") or [None])[0]
        if stop and stop in text:
            tokens, reason = [*map(ord, text[: text.index(stop) + len(stop)])], ("stop", stop)
        else:
            tokens, reason = [*map(ord, text), END], ("stop", None)
        if len(tokens) > body["max_tokens"]:
            return tokens[: body["max_tokens"]], "length", None
        return tokens, *reason
