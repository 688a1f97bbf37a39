"""The process of a solution: runs its code, and calls its functions as the test's process asks.

It gets the code and the arguments of the calls, never the test or what the test expects.
"""

import contextlib
import operator
import os
import random
import signal
import socket
import sys
import types
from collections import deque
from collections.abc import Callable
from typing import Any

from .confine import confine
from .messages import Peer, TooLarge
from .values import Encoder, Unsendable, decode

_MUTABLE = (list, dict, set, bytearray, deque)
_OWN_FRAMES = 16

# What a test may do with an object that stays here.
_DEEDS: dict[str, Callable[..., Any]] = {
    "call": lambda function, /, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "delattr": delattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "int": int,
    "float": float,
    "abs": abs,
    "round": round,
    "neg": operator.neg,
    "eq": operator.eq,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "truediv": operator.truediv,
    "instance": isinstance,
}


def fork_on_request(channel: socket.socket, limits: dict[str, Any], seccomp: bytes) -> None:
    """Fork a process for each byte that arrives with a socket; reply with the id of the process, which serves the
    socket.

    This process was forked before any test was read, so a solution can't find tests in its memory.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        data, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
        if not data:
            os._exit(0)
        process = os.fork()
        if not process:
            channel.close()
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                serve(socket.socket(fileno=descriptors[0]), limits, seccomp)
            os._exit(0)
        os.close(descriptors[0])
        channel.sendall(process.to_bytes(4, "big"))


def serve(channel: socket.socket, limits: dict[str, Any], seccomp: bytes) -> None:
    confine(limits, seccomp)
    random.seed(0)  # so that equal code behaves equally
    sys.setrecursionlimit(sys.getrecursionlimit() + _OWN_FRAMES)
    Solution(channel).peer.serve()


class Solution:
    def __init__(self, channel: socket.socket):
        self.peer = Peer(channel, self._answer)
        self._module = types.ModuleType("solution")
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}  # by id(), which is unique since kept objects stay alive
        self._encoder = Encoder(self._keep)

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        try:
            if "code" in message:
                return self._load(message["code"])
            if "name" in message:
                return self._look_up(message["name"])
            return self._do(message)
        except (Unsendable, TooLarge) as error:
            return {"raised": [type(error).__name__], "said": str(error)}
        except BaseException as error:  # also SystemExit and KeyboardInterrupt, which come from the code
            names = [kind.__name__ for kind in type(error).__mro__]
            try:
                said = str(error)[:500]
            except BaseException:
                said = ""
            return {"raised": names, "said": said}

    def _load(self, code: str) -> dict[str, Any]:
        sys.modules["solution"] = self._module
        exec(compile(code, "<solution>", "exec", dont_inherit=True), vars(self._module))
        return {}

    def _look_up(self, name: str) -> dict[str, Any]:
        names = vars(self._module)
        return {"value": self._encoder.encode(names[name])} if name in names else {"absent": True}

    def _do(self, message: dict[str, Any]) -> dict[str, Any]:
        target = self._kept[message["on"]]
        args = [decode(each, self._place) for each in message["args"]]
        kwargs = {name: decode(each, self._place) for name, each in message["kwargs"].items()}
        value = self._encoder.encode(_DEEDS[message["do"]](target, *args, **kwargs))
        changed = {}
        for place, after in [*enumerate(args), *kwargs.items()]:
            if isinstance(after, _MUTABLE):
                before = message["args"][place] if isinstance(place, int) else message["kwargs"][place]
                encoded = self._encoder.encode(after)
                if encoded != before:
                    changed[str(place)] = encoded
        return {"value": value, "changed": changed} if changed else {"value": value}

    def _keep(self, value: Any) -> Any:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)
        return ["h", self._numbers[id(value)]]

    def _place(self, tag: str, number: int) -> Any:
        return self._kept[number] if tag == "h" else self._function_of_the_test(number)

    def _function_of_the_test(self, number: int) -> Callable[..., Any]:
        def function(*args: Any) -> Any:
            reply = self.peer.ask({"function": number, "args": [self._encoder.encode(each) for each in args]})
            if "raised" in reply:
                raise RuntimeError(f"the test's function raised {reply['raised']}")
            return decode(reply["value"], self._place)

        return function
