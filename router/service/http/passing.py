"""What of a chat completion's request is passed on to a model's own server: sampling, tools, and what the caller sends.

It is a list of what is allowed, since the server does what it is asked for with the router's rights: it would fetch
addresses that a caller names, open files of its account, or store what it is sent.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from router.errors import InvalidRequest

# What direct.py sets itself is not here: model, length, seed, temperature and whether the reply is streamed.
FIELDS = frozenset(
    {
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "stop",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "verbosity",
    }
)
_TOOLS = ("function", "custom")  # tools that the caller runs; any other one would be run by the model's server


def passed_on(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is passed on of a request. Other fields are left out.

    Raises InvalidRequest where a message has something that the server would fetch or look up, or a tool is the
    server's own.
    """
    for index, tool in enumerate(_listed(body.get("tools"))):
        if isinstance(tool, Mapping) and tool.get("type") not in _TOOLS:
            raise _refused(f"tools[{index}].type", f"tools must be one of {', '.join(_TOOLS)}, which callers run")
    messages = [_message(f"messages[{index}]", each) for index, each in enumerate(body["messages"])]
    return {**{name: value for name, value in body.items() if name in FIELDS}, "messages": messages}


def _message(where: str, message: Mapping[str, Any]) -> dict[str, Any]:
    if message.get("audio") is not None:
        raise _refused(f"{where}.audio", "a sound is stored at the model's server; send its text")
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    return {**message, "content": [_part(f"{where}.content[{i}]", part) for i, part in enumerate(content)]}


def _part(where: str, part: Any) -> dict[str, Any]:
    """Return a part of a message's content, with the keys that are known: others could ask for anything."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str) or kind not in _PARTS:
        raise _refused(where, f"only parts of the types {', '.join(_PARTS)} are passed on to the model's server")
    return {"type": kind, kind: _PARTS[kind](f"{where}.{kind}", part.get(kind))}


def _text(where: str, value: Any) -> Any:
    return value  # the server says what is wrong with it


def _image(where: str, value: Any) -> dict[str, Any]:
    url = value.get("url") if isinstance(value, Mapping) else None
    if not isinstance(url, str) or not url.startswith("data:"):
        raise _refused(
            f"{where}.url", "the model's server would fetch it; send the image itself, as data:image/png;base64,…"
        )
    return _only(value, "url", "detail")


def _file(where: str, value: Any) -> dict[str, Any]:
    data = value.get("file_data") if isinstance(value, Mapping) else None
    if not isinstance(data, str) or not data.startswith("data:"):
        raise _refused(f"{where}.file_data", "send the file itself, as data:application/pdf;base64,…, not its id")
    return _only(value, "file_data", "filename")


def _sound(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _refused(where, "must be an object with data and format")
    return _only(value, "data", "format")


_PARTS: Mapping[str, Callable[[str, Any], Any]] = {
    "text": _text,
    "refusal": _text,
    "image_url": _image,
    "input_audio": _sound,
    "file": _file,
}


def _only(value: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value[name] for name in names if isinstance(value.get(name), str)}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _refused(field: str, why: str) -> InvalidRequest:
    return InvalidRequest(field, f"{field}: {why}", reason="NOT_SEARCHABLE")
