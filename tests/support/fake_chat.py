"""A fake chat completions endpoint, in process, with a flag for each way in which servers differ.

A token is a word with the space before it. `make test-vllm` and `make test-llama-cpp` check what real servers answer.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import log
from random import Random
from threading import Thread

import httpx2

from router.backends import Usage
from router.backends.openai.generator import OpenAIGenerator
from router.backends.replicas import Replicas
from router.backends.specs import ModelSpec
from router.backends.template import OwnTemplate
from router.prompt import Prompt
from strategies import Candidate

TEMPLATE = OwnTemplate("\n", retry="Again.")
SPEC = ModelSpec("m", 1_000, TEMPLATE, temperature=0.8, max_tokens=40, backend="openai")
PROMPT = Prompt.of("What is 3 + 4?")

Write = Callable[[dict, Random], str]


def sum_up(body: dict, rng: Random) -> str:
    return f"Let us see, {rng.randrange(1000)} first.\n3 + 4 = 7\nAnswer: 7"


@dataclass
class FakeChat:
    """The endpoint. ``statuses``: statuses of the next refusals, in turn; (429, {"retry-after": "0"}) has headers.

    n            "works", "ignored" (one choice comes), "refused" (400), or the largest n that is accepted
    usage        "once" for all choices, "each" (an event for each choice), "growing" (beside the text), or "none"
    thought      the model's thought;  apart: whether it comes in a field of its own or in the text
    prompt_tokens, cached_tokens  numbers that it reports
    first_tokens  the likeliest first tokens of a reply that is not streamed, with their probabilities
    breaks_after  events after which an answer breaks off; None: it does not
    slots         number of slots that llama.cpp's server reports; None: it reports none
    at_work       number of samples being streamed, after each begin and end
    """

    write: Write = sum_up
    n: str | int = "works"
    usage: str = "once"
    log_probs: bool = True
    thought: str = ""
    apart: bool = True
    cached_tokens: int = 0
    breaks_after: int | None = None
    first_tokens: dict[str, float] = field(default_factory=dict)
    statuses: list = field(default_factory=list)
    refusal: str = "no: {body}"
    slots: int | None = None
    at_work: list[int] = field(default_factory=list)
    asked: list[tuple[httpx2.URL, dict, httpx2.Headers]] = field(default_factory=list)

    def generator(self, spec: ModelSpec = SPEC, *, log_probs: bool = True, **options) -> OpenAIGenerator:
        replicas = Replicas(["http://a/v1"], transport=httpx2.MockTransport(self.answer), **options)
        assert isinstance(spec.template, OwnTemplate)
        return OpenAIGenerator(replicas, spec, spec.template, log_probs=log_probs)

    async def answer(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            said = self.slots is not None and request.url.path == "/props"
            return httpx2.Response(200, json={"total_slots": self.slots}) if said else httpx2.Response(404)
        body = json.loads(request.content)
        self.asked.append((request.url, body, request.headers))
        if self.statuses:
            status = self.statuses.pop(0)
            status, headers = status if isinstance(status, tuple) else (status, {})
            return httpx2.Response(status, headers=headers, text=self.refusal.format(body=body))
        most = self.n if isinstance(self.n, int) else {"refused": 1}.get(self.n, 128)
        if body.get("n", 1) > most:
            return httpx2.Response(400, json={"error": {"message": "n is too large"}})
        if not body.get("stream"):
            likeliest = [{"token": token, "logprob": log(p)} for token, p in self.first_tokens.items()]
            listed = (
                {"content": [{"token": "x", "logprob": -0.1, "top_logprobs": likeliest}]} if self.log_probs else None
            )
            return httpx2.Response(200, json={"choices": [{"logprobs": listed}], "usage": {"prompt_tokens": 9}})
        return httpx2.Response(200, stream=_Stream(self._stream(body), self.at_work, body.get("n", 1)))

    def _events(self, body: dict) -> Iterator[str]:
        wanted = 1 if self.n == "ignored" else body.get("n", 1)
        longest = body.get("max_tokens") or body["max_completion_tokens"]
        prompt = sum(len(message["content"].split()) for message in body["messages"])
        details = {"prompt_tokens_details": {"cached_tokens": self.cached_tokens}}
        written = 0
        for index in range(wanted):
            rng = Random(0 if body["temperature"] == 0 else f"{body.get('seed')}/{index}")
            thought = [("reasoning_content", token) for token in _tokens(self.thought)]
            text = [("content", token) for token in _tokens(self.write(body, rng))]
            if not self.apart and thought:
                text = [("content", t) for t in _tokens(f"<think>{self.thought}</think>\n\n")] + text
                thought = []
            tokens = [*thought, *text]
            ended = len(tokens) < longest
            for key, token in tokens[:longest]:
                written += 1
                choice: dict = {"index": index, "delta": {key: token}, "finish_reason": None}
                if self.log_probs and body.get("logprobs"):
                    choice["logprobs"] = {"content": [{"token": token, "bytes": None, "logprob": -0.5}]}
                event: dict = {"choices": [choice]}
                if self.usage == "growing":
                    event["usage"] = {"prompt_tokens": prompt, "completion_tokens": written, **details}
                yield json.dumps(event)
            written += ended
            last: dict = {"choices": [{"index": index, "delta": {}, "finish_reason": "stop" if ended else "length"}]}
            if self.usage == "growing":
                last["usage"] = {"prompt_tokens": prompt, "completion_tokens": written, **details}
            yield json.dumps(last)
            if self.usage == "each":
                count = len(tokens[:longest]) + ended
                spent = {"prompt_tokens": prompt, "completion_tokens": count, **details}
                yield json.dumps({"choices": [], "usage": spent})
        if self.usage == "once":
            yield json.dumps(
                {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": written, **details}}
            )

    def _stream(self, body: dict) -> Iterator[bytes]:
        for number, event in enumerate(self._events(body)):
            if number == self.breaks_after:
                self.breaks_after = None
                raise httpx2.ReadError("died")
            yield f"data: {event}\n\n".encode()
        yield b"data: [DONE]\n\n"


class _Stream(httpx2.AsyncByteStream):
    def __init__(self, pieces: Iterator[bytes], at_work: list[int], n: int):
        self.pieces = pieces
        self._at_work, self._n = at_work, n

    async def __aiter__(self) -> AsyncIterator[bytes]:
        running = self._at_work[-1] if self._at_work else 0
        self._at_work.append(running + self._n)
        try:
            for piece in self.pieces:
                yield piece
                await asyncio.sleep(0)
        finally:
            self._at_work.append(self._at_work[-1] - self._n)


@contextmanager
def serving(chat: FakeChat, models: list[dict] | None = None) -> Iterator[str]:
    """Serve it over TCP, and yield the server's address. ``models``: the models that the server lists."""
    listed = models or [{"id": "m", "owned_by": "fake", "meta": {"n_ctx": 1024, "n_params": 1_000}}]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, [json.dumps({"data": listed}).encode()] if self.path == "/v1/models" else [])

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            request = httpx2.Request("POST", f"http://server{self.path}", content=body, headers=dict(self.headers))
            response = asyncio.run(chat.answer(request))
            stream = response.stream
            self._send(response.status_code, stream.pieces if isinstance(stream, _Stream) else [response.content])

        def _send(self, status: int, pieces: Iterable[bytes]) -> None:
            self.send_response(status)
            self.end_headers()
            for piece in pieces:
                self.wfile.write(piece)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


async def extend(
    generator: OpenAIGenerator, n: int = 1, usage: Usage | None = None, prompt: Prompt = PROMPT, **options
) -> list[Candidate]:
    defaults = {"steps": None, "temperature": None, "max_tokens": None, "deadline": None, "seed": 0}
    candidates = options.pop("candidates", [Candidate()] * n)
    return await generator.extend(
        prompt, candidates, **{**defaults, **options}, usage=Usage() if usage is None else usage
    )
