"""A server with HTTP, and OpenAI's own client for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI

from router.service.app import Server
from router.service.bundle_manager import BundleManager
from router.solving.solver import Solver


@asynccontextmanager
async def serving(solver: Solver, **options: Any) -> AsyncIterator[Server]:
    server = Server(BundleManager(solver), "127.0.0.1", 0, **{"http": ("127.0.0.1", 0), **options})
    await server.start()
    try:
        yield server
    finally:
        await server.stop(grace=0)


def client_of(server: Server, **options: Any) -> AsyncOpenAI:
    """Return a client of the server, which by default retries nothing."""
    asked = {"api_key": "none", "max_retries": 0, **options}
    return AsyncOpenAI(base_url=f"http://127.0.0.1:{server.http_port}/v1", **asked)


def asked(text: str, **fields: Any) -> dict[str, Any]:
    """Return the arguments of a chat completion."""
    return {"model": "router", "messages": [{"role": "user", "content": text}], **fields}
