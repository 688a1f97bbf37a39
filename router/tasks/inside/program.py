"""Runs a single program, whose output is its only result."""

import sys
import types

from .confine import confine
from .messages import read

_MOST_OF_A_PROGRAM = 16 << 20


def main() -> None:
    settings = read(0, _MOST_OF_A_PROGRAM)  # reads only this message: the rest is the program's own input
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv[:] = ["program.py"]
    confine(settings["limits"], bytes.fromhex(settings["seccomp"]))
    exec(compile(settings["code"], "program.py", "exec", dont_inherit=True), vars(module))
