"""A fake vLLM server, in process: the part of vLLM's API that the router uses, answered by the fake engine's script.

Its failure modes test the caller's retries, failover and cancelling. `make test-vllm` checks what vLLM really answers.
Each token is a character, as in the fake engine.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from functools import partial
from itertools import count
from random import Random

import httpx2

from router.backends import Generator, Usage
from router.backends.fake import calculate
from router.backends.prm import FORMATS, ReadingVerifier, solution
from router.backends.replicas import Replicas
from router.backends.specs import ModelSpec, VerifierSpec
from router.backends.template import Template
from router.backends.vllm.generator import VllmGenerator
from router.backends.vllm.verifiers import VllmClassifier, VllmLikelihood
from router.prompt import Prompt
from strategies import Candidate

TEXT = "11 + 47 - 16 + 29"
PROMPT = Prompt.of(TEXT)
TEMPLATE = Template(user="{text}|", answer="", retry="|", delimiter="\n")
GENERATOR = ModelSpec("m", 1_000, TEMPLATE, temperature=0.8, max_tokens=512)
VERIFIER = VerifierSpec("qwen2.5-math-prm", None, 500, "m")
CONTEXT = 2048
END = 0
SPECIAL = {"<|im_start|>": 0xE001, "<|im_end|>": 0xE002, "<extra_0>": 0xE003}
NAN = float("nan")

# Failure modes: what a server does instead of answering well. Any HTTP status, such as "503", is also one.
CONNECTION_FAILURES = (
    "refuse connection",
    "close connection",  # without an answer
    "never answer",
    "truncate answer",  # and close the connection
)
STREAM_FAILURES = (
    "reset stream",  # the connection, after the first piece
    "error event",  # after the first piece, then the stream's end
    "abort samples",  # with the finish_reason "abort"
    "omit end",  # neither usage nor [DONE]
    "never end",
    "cached tokens",  # no failure: two of the prompt are reported as found in the prefix cache
    "impossible usage",
)
MALFORMED_BODIES = {  # of an answer, or of each event of a stream
    "no json": b"garbage",
    "empty body": b"",
    "binary body": bytes(range(128, 256)),
    "json list": b"[]",
    "empty object": b"{}",
    "null fields": b'{"data": null, "choices": null, "usage": null}',
}
MALFORMED_SCORES: dict[str, Callable[[list], list]] = {  # rows of pairs
    "too few scores": lambda rows: [row[1:] for row in rows],
    "too many scores": lambda rows: [[*row, row[0]] for row in rows],
    "nan": lambda rows: [[[NAN, NAN] for _ in row] for row in rows],
    "out of range": lambda rows: [[[-0.5, 1.5] for _ in row] for row in rows],
    "strings": lambda rows: [[["bad", "good"] for _ in row] for row in rows],
    "no pairs": lambda rows: [[good for _, good in row] for row in rows],
    "fewer rows": lambda rows: rows[1:],
    "more rows": lambda rows: [*rows, rows[0]],
}
MALFORMED_LOG_PROBS: dict[str, Callable[[int], object]] = {  # of a token that is read
    "nan": lambda token: NAN,
    "out of range": lambda token: 1.0,
    "strings": lambda token: "likely",
}
MALFORMED_CHOICES: dict[str, Callable[[dict], dict]] = {  # of a stream
    "no keys": lambda choice: {},
    "index out of range": lambda choice: choice | {"index": 99},
    "negative index": lambda choice: choice | {"index": -1},
    "strings": lambda choice: choice | {"token_ids": ["a"] * len(choice["token_ids"])},
    "negative token": lambda choice: choice | {"token_ids": [-5] * len(choice["token_ids"])},
    "huge token": lambda choice: choice | {"token_ids": [2**40] * len(choice["token_ids"])},
    "no logprobs": lambda choice: choice | {"logprobs": None},
    "fewer logprobs": lambda choice: choice | {"logprobs": {"token_logprobs": choice["token_ids"][1:]}},
    "nan": lambda choice: choice | {"logprobs": {"token_logprobs": [NAN] * len(choice["token_ids"])}},
    "numeric reason": lambda choice: choice | {"finish_reason": 7},
}
FAILURE_MODES = {
    *CONNECTION_FAILURES,
    *STREAM_FAILURES,
    *MALFORMED_BODIES,
    *MALFORMED_SCORES,
    *MALFORMED_LOG_PROBS,
    *MALFORMED_CHOICES,
}


def log_prob(token: int) -> float:
    """Return the log-probability of a token that the verifier reads."""
    return -(token % 7) / 10


class Characters:
    """The part of a transformers tokenizer that the router uses. A character is a token."""

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
    """A stream that ends the server's work when the caller hangs up, as a closed connection does."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]):
        self.pieces = pieces

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        return self.pieces

    async def aclose(self) -> None:
        await self.pieces.aclose()


class FakeVllm:
    """Servers by URL. Each answers well unless a failure mode is set."""

    def __init__(self, latency: float = 0.0):
        self.latency = latency  # seconds that a piece of an answer takes
        self.says = ""  # text of every solution, with "#" replaced by its number; empty: the script's text
        self._next: dict[str, list[str]] = {}
        self._always: dict[str, str] = {}
        self.models: dict = {"data": [{"id": "m", "max_model_len": CONTEXT}, {"id": "lora"}, {"id": "again"}]}
        self.asked: list[tuple[str, str, dict]] = []  # host, path, body
        self.running = 0  # number of requests in progress
        self.writing = 0  # number of their samples
        self.most = (0, 0)  # the most requests and samples at the same time
        self.begun = 0  # number of solutions begun so far
        self.control: set[int] = set()  # numbers of ChatML marks in rows to continue or score
        self._numbers = count()
        self.read_to_the_end = 0  # number of streams read to their end, whose connections can be used again

    def fail(self, host: str, *failures: str) -> None:
        """Set how ``host`` fails at its next requests to generate or score; after them it answers well again."""
        self._next[host] = list(map(_known, failures))

    def fail_always(self, host: str, failure: str | None) -> None:
        """Set how ``host`` fails at all other requests; None: it does not."""
        self._always[host] = _known(failure) if failure else ""

    def generator(self, *hosts: str, log_probs: bool = True, **options) -> VllmGenerator:
        return VllmGenerator(self.replicas(*hosts, **options), GENERATOR, Characters(), log_probs=log_probs)

    def verifier(self, *hosts: str) -> ReadingVerifier:
        read = FORMATS[VERIFIER.kind].reading(Characters())
        return ReadingVerifier(read, VERIFIER.parameters, VllmClassifier(self.replicas(*hosts)))

    def likelihood(self, *hosts: str) -> ReadingVerifier:
        read = partial(solution, Characters(), TEMPLATE)
        return ReadingVerifier(read, VERIFIER.parameters, VllmLikelihood(self.replicas(*hosts), "lora"))

    def replicas(self, *hosts: str, **options) -> Replicas:
        urls = [f"http://{host}" for host in hosts or ("a",)]
        return Replicas(urls, transport=httpx2.MockTransport(self.answer), **options)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        host, path = request.url.host, request.url.path
        if path == "/v1/models":
            return httpx2.Response(200, json=self.models)
        body = json.loads(request.content)
        self.asked.append((host, path, body))
        failure = self._next[host].pop(0) if self._next.get(host) else self._always.get(host, "")
        if failure == "refuse connection":
            raise httpx2.ConnectError("refused")
        if failure == "close connection":
            raise httpx2.RemoteProtocolError("hung up")
        if failure == "never answer":
            await asyncio.sleep(3600)
        if failure.isdigit():
            return httpx2.Response(int(failure), text=f"no: {body}")  # vLLM also quotes a request that it refuses
        if path == "/pooling" or "prompt_logprobs" in body:
            scored = self._scored if path == "/pooling" else self._likely
            answer = (
                MALFORMED_BODIES[failure] if failure in MALFORMED_BODIES else json.dumps(scored(body, failure)).encode()
            )
            return httpx2.Response(
                200, stream=_Closing(_halved(answer)) if failure == "truncate answer" else None, content=answer
            )
        return httpx2.Response(200, stream=_Closing(self._stream(body, failure)))

    def _count_control(self, rows: list[list[int]]) -> None:
        marks = {SPECIAL["<|im_start|>"], SPECIAL["<|im_end|>"]}
        self.control |= {sum(token in marks for token in row) for row in rows}

    def _scored(self, body: dict, failure: str) -> dict:
        self._count_control(body["input"])

        def pairs(tokens: list[int]) -> list[list[float]]:
            ends = [i for i, token in enumerate(tokens) if token == SPECIAL["<extra_0>"]]
            scores = [Random(str(tokens[: end + 1])).random() for end in ends]
            return [[1 - score, score] for score in scores]

        rows = MALFORMED_SCORES.get(failure, list)([pairs(tokens) for tokens in body["input"]])
        data = [{"index": i, "data": row} for i, row in enumerate(rows)]
        usage = {"prompt_tokens": "many" if failure == "impossible usage" else sum(map(len, body["input"]))}
        return {"data": data, "usage": usage}

    def _likely(self, body: dict, failure: str) -> dict:
        def position(token: int) -> dict:
            return {str(token): {"logprob": MALFORMED_LOG_PROBS.get(failure, log_prob)(token), "rank": 1}}

        prompts = body["prompt"][failure == "fewer rows" :]
        rows = [[None, *map(position, tokens[1 + (failure == "too few scores") :])] for tokens in prompts]
        choices = [{"index": i, "prompt_logprobs": row} for i, row in enumerate(rows)]
        return {"choices": choices[::-1], "usage": {"prompt_tokens": sum(map(len, body["prompt"]))}}

    async def _stream(self, body: dict, failure: str) -> AsyncGenerator[bytes, None]:
        self._count_control([body["prompt"]])
        assert body["temperature"] > 0 or body["n"] == 1
        assert len(body["prompt"]) + body["max_tokens"] <= CONTEXT
        self.running += 1
        self.writing += body["n"]
        self.most = max(self.most[0], self.running), max(self.most[1], self.writing)
        try:
            await self._begun(body)
            solutions = [self._solution(body, index) for index in range(body["n"])]
            self.begun += body["n"]
            piece = body["stream_interval"]
            for begin in range(0, max(len(tokens) for tokens, *_ in solutions), piece):
                await asyncio.sleep(self.latency)
                if failure == "reset stream" and begin:
                    raise httpx2.ReadError("died")
                if failure == "error event" and begin:
                    yield b'data: {"error": {"message": "engine dead"}}\n\n'
                    return
                if failure in MALFORMED_BODIES:
                    yield b"data: " + MALFORMED_BODIES[failure] + b"\n\n"
                if failure == "truncate answer" and begin:
                    raise httpx2.RemoteProtocolError("half an answer")
                for index, (tokens, reason, stopped_by) in enumerate(solutions):
                    part = tokens[begin : begin + piece]
                    if not part:
                        continue
                    last = begin + piece >= len(tokens) and failure != "never end"
                    choice = {
                        "index": index,
                        "token_ids": part,
                        "logprobs": {"token_logprobs": [-0.1] * len(part)} if body["logprobs"] == 0 else None,
                        "finish_reason": ("abort" if failure == "abort samples" else reason) if last else None,
                        "stop_reason": stopped_by if last else None,
                    }
                    choice = MALFORMED_CHOICES.get(failure, dict)(choice)
                    yield f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
            while failure == "never end":
                choice = {"index": 0, "token_ids": [55], "logprobs": {"token_logprobs": [-0.1]}, "finish_reason": None}
                yield f"data: {json.dumps({'choices': [choice]})}\n\n".encode()
                await asyncio.sleep(0.001)
            if failure != "omit end":
                cached = {"cached tokens": 2, "impossible usage": 10**12}.get(failure, 0)
                usage = {"prompt_tokens_details": {"cached_tokens": cached}}
                yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n".encode()
                self.read_to_the_end += 1
        finally:
            self.running -= 1
            self.writing -= body["n"]
            self._ended()

    async def _begun(self, body: dict) -> None:
        """Called when a request begins. Subclasses override this and ``_ended`` to make callers wait."""

    def _ended(self) -> None:
        pass

    def _solution(self, body: dict, index: int) -> tuple[list[int], str, str | None]:
        """Return tokens, finish_reason and stop_reason of one sample, as vLLM gives them."""
        prompt, *_, written = "".join(map(chr, body["prompt"])).split("|")
        *lines, begun = written.split("\n")
        rng = Random(0 if body["temperature"] == 0 else body["seed"] + index)
        text = calculate(prompt, Candidate(steps=tuple(f"{line}\n" for line in lines)), rng)[len(begun) :]
        if self.says:
            text = self.says.replace("#", str(next(self._numbers)))
        stop = (body.get("stop") or [None])[0]
        if stop and stop in text:
            tokens, reason = [*map(ord, text[: text.index(stop) + len(stop)])], ("stop", stop)
        else:
            tokens, reason = [*map(ord, text), END], ("stop", None)
        if len(tokens) > body["max_tokens"]:
            return tokens[: body["max_tokens"]], "length", None
        return tokens, *reason


async def extend(
    generator: Generator, candidates: list[Candidate], usage: Usage | None = None, prompt: Prompt = PROMPT, **options
) -> list[Candidate]:
    defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
    usage = Usage() if usage is None else usage
    return await generator.extend(prompt, candidates, **{**defaults, **options}, usage=usage)


def _known(failure: str) -> str:
    assert failure in FAILURE_MODES or failure.isdigit(), f"no failure mode is called {failure!r}"
    return failure


async def _halved(answer: bytes) -> AsyncGenerator[bytes, None]:
    yield answer[: len(answer) // 2]
    raise httpx2.RemoteProtocolError("half an answer")
