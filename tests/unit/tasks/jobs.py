"""Jobs for worker processes, good and bad."""

import time


def echo(value: object) -> object:
    return value


def spin(name: str) -> None:
    """Never ends by itself; can be interrupted."""
    while True:
        sum(range(1000))


def stuck(name: str) -> int:
    """One operation that no timer interrupts."""
    return 7 ** (10**8)


def hoard(gigabytes: int) -> int:
    return len(b"x" * (gigabytes << 30))


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def broken(value: str) -> None:
    raise ValueError(value)
