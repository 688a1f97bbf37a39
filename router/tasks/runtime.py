"""The files that Python needs: the sandbox shows these and nothing else of the host."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from router.errors import MissingDependency

HOME = "/python"  # the interpreter's place in the sandbox
LIBRARIES = "/python/libraries"  # the first place where the loader looks
PACKAGES = "/packages"
BOOT = "/boot"
_INSIDE = Path(__file__).parent / "inside"
# Modules that a program without a terminal doesn't need; they would bring many libraries.
_LEFT_OUT = re.compile(r"(_tkinter|readline|_curses|_curses_panel|_gdbm|_dbm|nis|ossaudiodev)\..*")
_ASK = """
import json, os, sys, sysconfig
print(json.dumps({
    "version": sys.version_info[:2],
    "home": sys.base_prefix,
    "program": os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable),
    "library": sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}),
}))
"""


@dataclass(frozen=True)
class Runtime:
    """``binds``: pairs of a host path and its place in the sandbox, read-only. ``hidden``: folders shown empty."""

    program: str
    binds: tuple[tuple[str, str], ...]
    hidden: tuple[str, ...]


def find(python: str = sys.executable, packages: Sequence[str] = ()) -> Runtime:
    """Return the interpreter, its standard library, the shared libraries of both, and the named packages.

    Raises MissingDependency.
    """
    answer = subprocess.run([python, "-I", "-S", "-c", _ASK], capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        raise MissingDependency(f"{python} does not run: {answer.stderr.strip()[-300:]}")
    found = json.loads(answer.stdout)
    if tuple(found["version"]) < (3, 11):
        raise MissingDependency(f"the sandbox needs Python 3.11 or newer; {python} is {found['version']}")
    program, library, home = Path(found["program"]), Path(found["library"]), Path(found["home"])
    inside_library = f"{HOME}/{library.relative_to(home)}"
    binds = {
        f"{HOME}/bin/{program.name}": str(program),
        inside_library: str(library),
        f"{BOOT}/inside": str(_INSIDE),
    }
    objects = [program, *(each for each in library.glob("lib-dynload/*.so") if not _LEFT_OUT.fullmatch(each.name))]
    for name in packages:
        for folder in _package(name):
            binds[f"{PACKAGES}/{folder.name}"] = str(folder)
            objects += folder.rglob("*.so*") if folder.is_dir() else []
    for each in _shared_libraries(objects):
        own = each.is_relative_to(home) and home != Path("/usr")
        binds[f"{LIBRARIES}/{each.name}" if own else str(each)] = str(each)
    if Path("/etc/ld.so.cache").exists():  # the places of libraries: no secrets
        binds["/etc/ld.so.cache"] = "/etc/ld.so.cache"
    hidden = [f"{inside_library}/{name}" for name in ("site-packages", "dist-packages") if (library / name).is_dir()]
    return Runtime(
        f"{HOME}/bin/{program.name}", tuple((source, place) for place, source in binds.items()), tuple(hidden)
    )


def _package(name: str) -> Iterator[Path]:
    """Yield the folder of an installed package, and that of the libraries in its wheel."""
    found = importlib.util.find_spec(name)
    if found is None or not found.origin:
        raise MissingDependency(f"the package {name!r}, wanted in the sandbox, is not installed")
    folder = Path(found.origin).parent if found.submodule_search_locations else Path(found.origin)
    yield folder
    beside = folder.parent / f"{name}.libs"
    if beside.is_dir():
        yield beside


def _shared_libraries(objects: Sequence[Path]) -> list[Path]:
    """Return the shared libraries that the system's own loader finds. Raises MissingDependency."""
    try:
        answer = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        raise MissingDependency(f"the sandbox needs ldd: {error}") from error
    # "libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x...)", and the loader itself: "/lib64/ld-linux.so.2 (0x...)"
    paths = {Path(each) for each in re.findall(r"^\s+(?:\S+ => )?(/\S+) \(0x", answer.stdout, re.M)}
    return sorted(each for each in paths if not any(each.is_relative_to(own.parent) for own in objects[1:]))
