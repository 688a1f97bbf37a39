"""The process of one test of one solution: runs the test, and asks the solution's process for what the test calls.

Comparisons in the test run here, on plain data, where the solution's code never runs.
"""

import ast
import builtins
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

from .messages import Ended, Peer
from .values import Encoder, canonical, decode

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL, a third of the start time
except ImportError:
    from hashlib import blake2b

_MOST_ITEMS = 1000
_MOST_SAID = 200


class Failed(Exception):
    """The solution can't be tested: it doesn't load, or its process ended. ``args[0]`` says why."""


class Trial:
    """A loaded solution. Raises Failed."""

    def __init__(self, channel: socket.socket, code: str):
        self._peer = Peer(channel, self._answer)
        self._functions: list[Any] = []
        self._objects: dict[int, Remote] = {}
        self._encoder = Encoder(self._keep)
        self._behaviour = blake2b(digest_size=16)
        self.returned = False  # whether any call gave a value
        self.said = ""  # what the last call did
        reply = self._ask({"code": code})
        if "raised" in reply:
            raise Failed(str(reply["raised"][0]), f"{reply['raised'][0]}: {reply['said']}")

    @property
    def behaviour(self) -> str:
        """A digest of all that the solution did."""
        return self._behaviour.hexdigest()

    def run(self, test: str) -> None:
        """Run a test; a lone expression is evaluated, and iterated if possible. Raises what the test raises, Failed."""
        tree = ast.parse(test)
        space: dict[str, Any] = {"__name__": "test"}
        # A builtin's or module's name is taken from the solution only if the test reads no other name.
        names = _read(tree)
        theirs = {name for name in names if not hasattr(builtins, name) and name not in sys.stdlib_module_names}
        for name in theirs or names:
            if found := self._name(name):
                space[name] = found[0]
        for name in names & sys.stdlib_module_names - space.keys():  # modules that the solution does not provide
            space[name] = __import__(name)
        if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr):
            value = eval(compile(ast.Expression(tree.body[0].value), "<test>", "eval"), space)
            if isinstance(value, Remote):
                self._exhaust(value)
        else:
            exec(compile(tree, "<test>", "exec"), space)

    def do(self, what: str, on: int, *args: Any, **kwargs: Any) -> Any:
        """Have the solution's process do something with one of its objects."""
        message = {
            "do": what,
            "on": on,
            "args": [self._encoder.encode(each) for each in args],
            "kwargs": {name: self._encoder.encode(each) for name, each in kwargs.items()},
        }
        reply = self._ask(message)
        self._behaviour.update(_spelling(reply))
        if "raised" in reply:
            names, said = [str(each) for each in reply["raised"]], str(reply["said"])
            if names[0] == "StopIteration" and what != "next":
                names = ["RuntimeError"]  # StopIteration would end a loop of the test as if nothing were left
            if names[0] != "StopIteration":
                self.said = f"raised {names[0]}: {said}"[:_MOST_SAID]
            raise _error(names, said)
        value = decode(reply["value"], self._place)
        for place, after in reply.get("changed", {}).items():
            _change(args[int(place)] if place.isdigit() else kwargs[place], decode(after, self._place))
        if what in ("call", "next"):
            self.returned |= what == "call"
            self.said = f"returned {_shown(value)}"[:_MOST_SAID]
        return value

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            reply = self._peer.ask(message)
        except Ended as error:
            raise Failed("ended", "its process ended") from error
        if not isinstance(reply, dict):
            raise Failed("ended", "its process replied nonsense")
        return reply

    def _name(self, name: str) -> tuple[Any] | None:
        reply = self._ask({"name": name})
        return (decode(reply["value"], self._place),) if "value" in reply else None

    def _exhaust(self, value: "Remote") -> None:
        try:
            for _ in zip(range(_MOST_ITEMS), iter(value), strict=False):
                pass
        except Failed:
            raise
        except Exception:
            return  # not iterable, or an error on the way: both are recorded as behaviour

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Call a function that the test gave to the solution."""
        try:
            function = self._functions[message["function"]]
            return {"value": self._encoder.encode(function(*(decode(each, self._place) for each in message["args"])))}
        except Exception as error:
            return {"raised": type(error).__name__}

    def _keep(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return ["h", object.__getattribute__(value, "_number")]
        if not callable(value):
            raise TypeError(f"a {type(value).__name__} can't be passed to a solution")
        self._functions.append(value)
        return ["k", len(self._functions) - 1]

    def _place(self, tag: str, number: Any) -> Any:
        if tag != "h" or not isinstance(number, int):
            raise ValueError("no object of the solution")
        return self._objects.setdefault(number, Remote(self, number))


class Remote:
    """An object that stays in the solution's process.

    It compares as equal, less or more only with other such objects: otherwise a solution's class whose ``__eq__`` is
    always true would pass every test. It has no ``__contains__``, so its items are compared here.
    """

    __slots__ = ("_number", "_trial")

    def __init__(self, trial: Trial, number: int):
        object.__setattr__(self, "_trial", trial)
        object.__setattr__(self, "_number", number)

    def __getattr__(self, name: str) -> Any:
        return self._trial.do("getattr", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._trial.do("setattr", self._number, name, value)

    def __delattr__(self, name: str) -> None:
        self._trial.do("delattr", self._number, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._trial.do("call", self._number, *args, **kwargs)

    def __iter__(self) -> Iterator[Any]:
        iterator = self._trial.do("iter", self._number)
        while True:
            try:
                yield next(iterator)
            except StopIteration:
                return

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(self._trial.do("instance", value._number, self))

    def __hash__(self) -> int:
        return hash((Remote, self._number))


def _forward(name: str, *, among_its_like: bool = False) -> None:
    def method(self: Remote, *args: Any) -> Any:
        if among_its_like and not all(isinstance(each, Remote) for each in args):
            return NotImplemented
        return self._trial.do(name, self._number, *args)

    setattr(Remote, f"__{name}__", method)


for _name in (
    "getitem",
    "setitem",
    "delitem",
    "next",
    "len",
    "bool",
    "str",
    "repr",
    "int",
    "float",
    "abs",
    "round",
    "neg",
):
    _forward(_name)
for _name in ("eq", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv"):
    _forward(_name, among_its_like=True)


def _read(tree: ast.AST) -> set[str]:
    """Return the names that a test reads and does not define itself."""
    read: set[str] = set()
    made: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else made).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.alias):
            made.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return read - made


def _spelling(reply: dict[str, Any]) -> bytes:
    if "raised" in reply:
        return json.dumps(["raised", str(reply["raised"][0])]).encode()
    changed = sorted((place, canonical(after)) for place, after in reply.get("changed", {}).items())
    return json.dumps([canonical(reply["value"]), changed]).encode()


def _error(names: list[str], said: str) -> BaseException:
    for name in names:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, BaseException):
            try:
                return kind(said)
            except TypeError:  # its constructor needs more than a text
                continue
    return Exception(said)


def _change(value: Any, after: Any) -> None:
    """Apply to an argument what the solution did to its copy."""
    if isinstance(value, list | bytearray):
        value[:] = after
    elif isinstance(value, dict | set):
        value.clear()
        value.update(after)
    else:
        value.clear()
        value.extend(after)


def _shown(value: Any) -> str:
    if isinstance(value, Remote):
        return "an object"
    try:
        return repr(value)
    except ValueError:  # an integer of too many digits
        return "a value that can't be shown"
