"""A client of the pages under /ui that behaves like a browser: it keeps cookies, and names the origin of its forms."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from router.service.auth.callers import Caller, Token, digest_of
from tests.support.http import serving

ANN, BOB = Token(digest_of("ann's"), Caller("ann")), Token(digest_of("bob's"), Caller("bob", admin=True))


@asynccontextmanager
async def browsing(solver, *, tokens: list[Token] | None = None, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    known = None if tokens is None else (lambda: tokens)
    async with serving(solver, ui=True, tokens=known, **options) as server:
        base = f"http://127.0.0.1:{server.http_port}"
        async with httpx2.AsyncClient(base_url=base, follow_redirects=True, headers={"origin": base}) as client:
            yield client


async def log_in(client: httpx2.AsyncClient, token: str = "ann's", **fields: str) -> httpx2.Response:
    return await client.post("/ui/login", data={"token": token, **fields})


async def search(client: httpx2.AsyncClient, prompt: str, **fields: str) -> tuple[list[str], dict[str, str]]:
    """Run a search; return the names of the page's parts in the order received, and the last version of each."""
    reply = await client.post(
        "/ui/search", data={"prompt": prompt, **fields}, headers={"accept": "application/x-ndjson"}
    )
    assert reply.status_code == 200, reply.text
    parts = [json.loads(line) for line in reply.text.splitlines()]
    return [each["part"] for each in parts], {each["part"]: each["html"] for each in parts}
