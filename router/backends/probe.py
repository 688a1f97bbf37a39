"""Asks a server which models it serves, and what it says of their contexts and sizes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from router.backends.openai import base_url
from router.errors import EngineUnavailable

SECONDS = 15.0  # for an answer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model in a server's list.

    name        name by which requests ask for it
    weights     path or id that it was loaded from; the name where the server does not say
    owner       the server software's name for itself: "vllm", "llamacpp", …
    adapter     whether it is a LoRA adapter of another one
    context     most tokens of prompt and answer together; None: the server does not say
    parameters  number of weights; None: the server does not say
    """

    name: str
    weights: str
    owner: str
    adapter: bool
    context: int | None
    parameters: int | None


def served(url: str, key: str | None = None, headers: Mapping[str, str] | None = None) -> list[ServedModel]:
    """List the models of the server at ``url``. Raises EngineUnavailable, whose message says what is wrong."""
    place = base_url(url).rstrip("/") + "/models"
    sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
    try:
        response = httpx2.get(place, headers=sent, timeout=SECONDS)
    except httpx2.HTTPError as error:
        raise EngineUnavailable(
            f"nothing answers at {url} ({type(error).__name__}): is the server up, and does it listen there?"
        ) from error
    if response.status_code in (401, 403):
        raise EngineUnavailable(f"{url} wants a key ({response.status_code}): set ROUTER_ENGINE_API_KEY")
    if response.status_code != httpx2.codes.OK:
        raise EngineUnavailable(f"{place} answered {response.status_code}: is this the base URL that its API names?")
    try:
        return [_model(each) for each in response.json()["data"]]
    except (ValueError, LookupError, TypeError) as error:
        raise EngineUnavailable(
            f"{place} lists no models as OpenAI's API does: is it another kind of server?"
        ) from error


def _model(entry: Mapping[str, Any]) -> ServedModel:
    meta = entry.get("meta") or {}
    context = entry.get("max_model_len") or meta.get("n_ctx") or entry.get("context_length")
    parameters = meta.get("n_params")
    return ServedModel(
        str(entry["id"]),
        str(entry.get("root") or entry["id"]),
        str(entry.get("owned_by") or ""),
        bool(entry.get("parent")),
        int(context) if context else None,
        int(parameters) if parameters else None,
    )


def size_in(name: str) -> int | None:
    """Return the weights that a token passes through according to a model's name (0.5B, 135M, 30B-A3B), if it tells."""
    active = re.search(r"(?i)\ba(\d+(?:\.\d+)?)b\b", name)
    found = active or re.search(r"(?i)(?<![\d.a-z])(\d+(?:\.\d+)?)([bm])(?![a-z])", name)
    if not found:
        return None
    unit = 10**6 if not active and found[2].lower() == "m" else 10**9
    return round(float(found[1]) * unit)
