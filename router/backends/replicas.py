"""Several servers of the same model: each request goes to the least loaded, and failing servers get none for a while.

Generating and scoring change nothing in an engine, so a request can always be repeated. But once an answer has begun,
its tokens are billed. So a stream that breaks off is the caller's to repeat (:class:`Lost`): it knows what has arrived.
The circuit breaker is written here, since libraries' breakers don't say when they let the next request through, which
is how long callers are told to wait.
"""

import asyncio
import hashlib
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from router.errors import EngineUnavailable

ATTEMPTS = 4  # to send one request, before any answer has begun
BUSY_ATTEMPTS = 8  # the same where the server refuses it for its rate limit
LONGEST_WAIT = 30.0  # seconds: the longest wait that a server's rate limit may ask of us
FAILURES = 3  # failures in a row after which a replica is left alone (a circuit breaker)
COOL_SECONDS, LONGEST_COOL_SECONDS = 0.5, 30.0  # how long it is left alone: doubles while it keeps failing
CONNECTIONS = 1024  # to each replica; further requests wait here
IDLE_SECONDS = 3.0  # an idle connection is kept: vLLM closes it after 5, and no request may be sent just then
ASIDE_SECONDS = 5.0  # for the answer to a question that may stay unanswered
SILENT_SECONDS = 300.0  # until the next piece of an answer, the time in a full queue included
_TIMEOUT = httpx2.Timeout(None, connect=3.0, read=SILENT_SECONDS)
# Codes for a request that every replica would refuse. Other codes below 500 are a fault of this replica.
_UNFIT = (400, 413, 422)
_KEYS = (401, 403)
SECRET = 6  # header values of at least so many characters may be keys: they are removed from an engine's messages

log = logging.getLogger(__name__)
_Read = TypeVar("_Read")


class Lost(EngineUnavailable):
    """An engine failed; ask another one, or the same one later. Part of the answer may have arrived, and is billed."""


class _Refused(Lost):
    """An engine failed before any answer had begun."""


class _Busy(_Refused):
    """A healthy server refused the request for its rate limit, and said when to try again."""


class Unfit(EngineUnavailable):
    """The server refuses the request, and would refuse it again. ``said``: the server's own words."""

    def __init__(self, message: str, said: str):
        super().__init__(message)
        self.said = said


class Broken(Exception):
    """The answer is malformed, or reports that the engine failed. ``said``: the answer's own words, for the caller."""

    def __init__(self, what: str, said: str = ""):
        super().__init__(what)
        self.said = said


@contextmanager
def understood() -> Iterator[None]:
    """Raise Broken where the code inside, which reads an answer, fails on it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise Broken(f"the answer is not as documented ({type(error).__name__})", str(error)) from error


@dataclass(eq=False, slots=True)
class _Replica:
    """One server. After ``FAILURES`` failures in a row it gets no request until ``back``, then one to try it.

    busy      candidates being worked on
    failures  in a row. One incident loses many requests, so those sent before ``failed`` don't count again
    failed, back  by the clock: the last failure that counted, and when it may be tried again
    why       what the last failure was
    """

    url: str
    client: httpx2.AsyncClient
    busy: int = 0
    failures: int = 0
    failed: float = float("-inf")
    back: float = 0.0
    why: str = ""


class Replicas:
    """Sends requests to one of several servers, see the module. ``transport`` and ``clock`` are for tests.

    urls     base URLs of the servers, for the log only: callers see the model's name
    api_key  bearer token
    headers  sent with every request; their values, like the token, are secret and removed from errors and logs
    model    the name of what they serve, in messages for callers
    """

    def __init__(
        self,
        urls: Sequence[str],
        api_key: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        model: str = "the model",
        transport: httpx2.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        values = [api_key, *(headers or {}).values()]
        # The word after "Basic" or "Bearer" is a secret by itself.
        for name, value in (headers or {}).items():
            values += value.split()[-1:] if name.lower() == "authorization" else []
        self._secrets = [each for each in values if each and len(each) >= SECRET]
        self.model = model
        headers = {**({"Authorization": f"Bearer {api_key}"} if api_key else {}), **(headers or {})}
        limits = httpx2.Limits(
            max_connections=CONNECTIONS, max_keepalive_connections=128, keepalive_expiry=IDLE_SECONDS
        )
        self._replicas = [
            _Replica(
                url.rstrip("/"),
                httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT, limits=limits, transport=transport),
            )
            for url in urls
        ]
        self._clock = clock

    @property
    def urls(self) -> str:
        return ", ".join(replica.url for replica in self._replicas)

    @asynccontextmanager
    async def stream(
        self, path: str, body: dict[str, Any], *, load: int = 1, affinity: str = ""
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """Post, and yield the answer's server-sent events as they come, up to ``[DONE]``.

        Leaving early closes the connection, which makes the server abort.

        load      candidates that the request is for
        affinity  a text that prompts with the same beginning share: it decides among equally busy replicas, so that
                  they reach the one with that beginning in its prefix cache

        Raises Lost where the answer breaks off, EngineUnavailable where no replica takes the request. A Broken raised
        inside the block counts as a failure of the replica, and becomes a Lost.
        """
        async with self._answer("POST", path, body, load, affinity) as response:
            yield _events(response)

    async def post(
        self, path: str, body: dict[str, Any], read: Callable[[Any], _Read], *, load: int = 1, affinity: str = ""
    ) -> _Read:
        """Post, and return what ``read`` makes of the answer. Repeat where the answer breaks off or can't be read.

        Raises EngineUnavailable.
        """
        return await self._whole("POST", path, body, read, load=load, affinity=affinity)

    async def get(self, path: str, read: Callable[[Any], _Read]) -> _Read:
        """Do as :meth:`post`, with a GET request."""
        return await self._whole("GET", path, None, read)

    async def ask_each(self, path: str) -> list[Any]:
        """Return each replica's answer to a GET of ``path``, as JSON: {} where it has nothing there, None where it
        did not answer. No failure counts against a replica."""

        async def ask(replica: _Replica) -> Any:
            try:
                response = await replica.client.get(httpx2.URL(replica.url).join(path), timeout=ASIDE_SECONDS)
                return response.json() if response.is_success else {}
            except httpx2.RequestError:
                return None
            except ValueError:
                return {}

        return await asyncio.gather(*map(ask, self._replicas))

    async def close(self) -> None:
        for replica in self._replicas:
            await replica.client.aclose()

    async def _whole(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        read: Callable[[Any], _Read],
        *,
        load: int = 0,
        affinity: str = "",
    ) -> _Read:
        async for attempt in _retrying(Lost):
            with attempt:
                async with self._answer(method, path, body, load, affinity) as response:
                    answer = _parsed(await response.aread())
                    with understood():
                        return read(answer)
        raise AssertionError("retrying ends with an answer or an error")

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, body: dict[str, Any] | None, load: int, affinity: str
    ) -> AsyncIterator[httpx2.Response]:
        """Yield an answer that has begun; close it at the end. An error in between is a failure of the replica."""
        asked = self._clock()
        replica, response = await self._begin(method, path, body, load, affinity)
        try:
            yield response
            replica.failures = 0
        except (httpx2.RequestError, httpx2.StreamError) as error:
            raise self._failed(replica, asked, Lost, _broke_off(error), str(error)) from error
        except Broken as error:
            raise self._failed(replica, asked, Lost, str(error), error.said) from error
        finally:
            replica.busy -= load
            await response.aclose()

    async def _begin(
        self, method: str, path: str, body: dict[str, Any] | None, load: int, affinity: str
    ) -> tuple[_Replica, httpx2.Response]:
        async for attempt in _retrying(_Refused):
            with attempt:
                replica = self._choose(affinity)
                replica.busy += load
                try:
                    return replica, await self._send(replica, method, path, body)
                except BaseException:
                    replica.busy -= load
                    raise
        raise AssertionError("retrying ends with an answer or an error")

    def _choose(self, affinity: str) -> _Replica:
        now = self._clock()
        able = [replica for replica in self._replicas if replica.failures < FAILURES or now >= replica.back]
        if not able:
            back = min((replica.back for replica in self._replicas), default=now + COOL_SECONDS)
            why = next((f"; the last one {each.why}" for each in self._replicas if each.why), "")
            raise EngineUnavailable(f"no engine of {self.model} answers{why}", retry_seconds=back - now)
        # A replica that failed a moment ago comes last.
        chosen = min(able, key=lambda each: (now < each.back, each.busy, _mixed(each.url + affinity)))
        if chosen.failures >= FAILURES:
            self._leave_alone(chosen)  # this request tries it; until that is done, no other does
        return chosen

    async def _send(self, replica: _Replica, method: str, path: str, body: dict[str, Any] | None) -> httpx2.Response:
        asked = self._clock()
        request = replica.client.build_request(method, replica.url + path, json=body)
        try:
            response = await replica.client.send(request, stream=True)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise self._failed(replica, asked, _Refused, "can't be reached") from error
        except httpx2.RequestError as error:
            raise self._failed(replica, asked, Lost, _broke_off(error), str(error)) from error
        status = response.status_code
        if status == httpx2.codes.OK:
            return response
        try:
            said = (await response.aread()).decode(errors="replace")[:500]
        except httpx2.RequestError:
            said = ""
        finally:
            await response.aclose()
        said = self._without_secrets(said)
        if status in _UNFIT:
            raise Unfit(f"an engine of {self.model} does not take the request to {path}: {status} {said}", said)
        if status == httpx2.codes.TOO_MANY_REQUESTS:
            raise _Busy(
                f"an engine of {self.model} turns requests away for now (429): {said}",
                retry_seconds=_seconds(response.headers.get("retry-after")),
            )
        begun = response.is_server_error and status != httpx2.codes.SERVICE_UNAVAILABLE
        what = f"answered {status} to {path}" + " (set its key as ROUTER_ENGINE_API_KEY)" * (status in _KEYS)
        raise self._failed(replica, asked, Lost if begun else _Refused, what, said)

    def _failed(self, replica: _Replica, asked: float, kind: type[Lost], what: str, said: str = "") -> Lost:
        """Count and log a failure; return its exception. ``said`` may quote the prompt, so it is not logged."""
        if asked >= replica.failed:
            replica.failures += 1
            replica.failed = self._clock()
            self._leave_alone(replica)
        log.warning("engine %s %s; failure %d in a row", replica.url, what, replica.failures)
        replica.why = what
        said = self._without_secrets(said[:500])
        return kind(f"an engine of {self.model} {what}" + (f": {said}" if said else ""), retry_seconds=COOL_SECONDS)

    def _without_secrets(self, said: str) -> str:
        for secret in self._secrets:
            said = said.replace(secret, "***")
        return said

    def _leave_alone(self, replica: _Replica) -> None:
        cool = COOL_SECONDS * 2 ** max(0, replica.failures - FAILURES)
        replica.back = self._clock() + min(LONGEST_COOL_SECONDS, cool)


def _broke_off(error: Exception) -> str:
    if isinstance(error, httpx2.ReadTimeout):
        return f"said nothing for {SILENT_SECONDS:.0f} s: it hangs, or has too much to do (lower --concurrency)"
    return f"broke off ({type(error).__name__})"


async def _events(response: httpx2.Response) -> AsyncIterator[Any]:
    lines = response.aiter_lines()
    async for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            # Only a connection whose answer was read to its end is kept for the next request.
            with suppress(httpx2.TransportError):
                async for _ in lines:
                    pass
            return
        yield _parsed(data)
    raise Broken("the answer has no end")


def _parsed(data: str | bytes) -> Any:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Broken("the answer is not JSON", repr(data[:100])) from error
    if not isinstance(parsed, dict) or parsed.get("error"):
        raise Broken("the answer is an error, or no JSON object", str(parsed)[:500])
    return parsed


def _retrying(kind: type[Lost]) -> AsyncRetrying:
    return AsyncRetrying(retry=retry_if_exception_type(kind), stop=_given_up, wait=_wait, reraise=True)


def _given_up(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return state.attempt_number >= (BUSY_ATTEMPTS if isinstance(error, _Busy) else ATTEMPTS)


_BACK_OFF = wait_random_exponential(multiplier=0.05, max=1.0)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    if not isinstance(error, _Busy):
        return float(_BACK_OFF(state))
    # Requests that were refused together are not to come back together.
    seconds = error.retry_seconds or 0.0
    return seconds + random.uniform(0, seconds / 2)


def _seconds(retry_after: str | None) -> float:
    """Return the seconds of a Retry-After header, within limits; 1 where it is missing or a date."""
    try:
        return min(LONGEST_WAIT, max(0.1, float(retry_after or 1.0)))
    except ValueError:
        return 1.0


def _mixed(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
