"""Writes the parts of a search's page as they come: to the page's script, or as a whole page where no script runs."""

import json
from typing import Protocol

from router.service.http.request import Inbound
from router.service.ui.pages import HEADERS, render
from router.service.ui.search import Part

SCRIPT = "application/x-ndjson"  # content type that the page's script asks for
_SLOT = "<!--parts-->"
_SHOWN_ONCE = ("rounds", "tree", "stages")  # parts of which a page without script gets only the last version


class Writer(Protocol):
    async def write(self, part: Part) -> None:
        """Write a part, and wait until the connection takes it. Raises StreamNotRead."""

    async def end(self) -> None: ...


class ToScript:
    """Writes a line of JSON for each part: its name, and its HTML."""

    def __init__(self, inbound: Inbound):
        self._inbound = inbound

    async def write(self, part: Part) -> None:
        await self._send(json.dumps(dict(zip(("part", "html"), part, strict=True))) + "\n")

    async def end(self) -> None:
        await self._send("", more=False)

    async def _send(self, text: str, *, more: bool = True) -> None:
        if not self._inbound.begun:
            await self._inbound.begin(_headers(SCRIPT))
        # A model may write half of a surrogate pair, which can't be encoded in UTF-8.
        await self._inbound.write(text.encode(errors="replace"), more=more)


class AsPage:
    """Writes one page that grows by a part at a time."""

    def __init__(self, inbound: Inbound, user: str):
        self._inbound = inbound
        page = render("result.html", here="search", user=user, slot=_SLOT)
        self._head, _, self._foot = page.partition(_SLOT)
        self._last: dict[str, str] = {}

    async def write(self, part: Part) -> None:
        name, html = part
        if name in _SHOWN_ONCE:
            self._last[name] = html
        elif html:
            await self._send(html)

    async def end(self) -> None:
        await self._send("".join(self._last.values()) + self._foot, more=False)

    async def _send(self, text: str, *, more: bool = True) -> None:
        if not self._inbound.begun:
            await self._inbound.begin(
                {**HEADERS, "content-type": "text/html; charset=utf-8", "x-accel-buffering": "no"}
            )
            text = self._head + text
        await self._inbound.write(text.encode(errors="replace"), more=more)


def _headers(kind: str) -> dict[str, str]:
    return {**HEADERS, "content-type": kind, "x-accel-buffering": "no"}
