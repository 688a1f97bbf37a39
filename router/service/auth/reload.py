"""Values read from files, and read again when the files change."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from router.errors import InvalidFile

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read")


class Reloaded(Generic[_Read]):
    """Calls ``read`` to read some files, and again once one of them changes. Calling the object returns the value.

    When changed files can't be read, that is logged and the value stays, so that a half-finished change of
    certificates or tokens locks nobody out. The first read raises whatever ``read`` raises.
    """

    def __init__(self, read: Callable[[], _Read], *files: Path):
        self._read = read
        self._files = files
        self._seen = self._stamps()
        self._value = read()

    def __call__(self) -> _Read:
        return self.changed() or self._value

    def changed(self) -> _Read | None:
        """Return the new value where the files have changed since the last look, else None."""
        stamps = self._stamps()
        if stamps == self._seen:
            return None
        self._seen = stamps
        try:
            self._value = self._read()
        except InvalidFile as error:
            _log.error("keeping what was read before: %s", error)
            return None
        _log.info("read again: %s", ", ".join(map(str, self._files)))
        return self._value

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
