"""Renders templates as HTML replies, with headers that protect what they show."""

from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from router.policy.words import OBJECTIVES, PARAMETERS, minus, number, si, strategies_in
from router.service.http import errors

BASE = "/ui"
HEADERS = {
    # Allow only this server's own script and style, nothing from elsewhere, and no other page to frame this one.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def render(template: str, **values: Any) -> str:
    """Render a template of this package. HTML in values is escaped."""
    return _environment().get_template(template).render(**values)


def page(template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> Response:
    return HTMLResponse(render(template, **values), status, {**HEADERS, **(headers or {})})


def failed(error: Any, *, partial: bool, user: str = "") -> Response:
    """Return an error page. ``partial``: only the part that replaces a part of a page."""
    template = "parts/error.html" if partial else "error.html"
    headers = {name: value for name, value in errors.headers(error).items() if name == "retry-after"}
    return page(template, errors.status(error), headers, error=error, user=user, here="")


def static(name: str) -> Response | None:
    """Return a file beside the templates; None where there is none of this name."""
    kind = _KINDS.get(name.rpartition(".")[2])
    content = _content(name) if kind and name.replace(".", "").isalpha() else None
    if content is None:
        return None
    return Response(content, headers={**HEADERS, "cache-control": "no-cache"}, media_type=kind)


@lru_cache
def _content(name: str) -> bytes | None:
    file = files("router.service.ui") / "static" / name
    return file.read_bytes() if file.is_file() else None


@lru_cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("router.service.ui", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "arm": arm,
        "number": number,
        "si": si,
        "share": share,
        "percent": percent,
        "count": count,
        "objective": objective,
    }
    environment.globals |= {"base": BASE, "strategies_in": strategies_in, "parameters": PARAMETERS}
    return environment


def arm(text: Any) -> Markup:
    """Write an arm as HTML that breaks lines only between its parts."""
    broken = Markup("<wbr>")
    return Markup(escape(str(text)).replace("(", "(" + broken).replace(", ", ", " + broken).replace("_", "_" + broken))


def share(value: float | None) -> str:
    """Write a share, such as ``0.83``; nothing where it is unknown."""
    return "" if value is None else f"{value:.2f}"


def percent(value: float) -> str:
    """Write a share as a percentage: ``83%``."""
    return f"{value:.0%}"


def count(value: float) -> str:
    """Write a count: ``12,345``. A mean below 100 gets one decimal."""
    return minus(f"{value:,.0f}" if isinstance(value, int) or value >= 100 else f"{value:,.1f}")


def objective(value: Any) -> str:
    """Write an objective: ``average budget 16``."""
    return f"{OBJECTIVES.get(value.kind, value.kind)} {value.value:g}"
