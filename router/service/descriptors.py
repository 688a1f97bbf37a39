"""File descriptors: a connection takes one, and so do engines, workers and the database."""

import logging
import resource

WANTED = 4096  # 1,000 connections for gRPC, 2,000 for HTTP, and what answers them
_log = logging.getLogger(__name__)


def allow_many() -> int:
    """Raise this process's limit as far as it may; the limit then. One that strangers could use up is logged."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, WANTED)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if limit > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < WANTED:
        _log.warning(
            "only %d files and connections may be open at once; allow %d (ulimit -n, LimitNOFILE), or callers can use "
            "up what engines and workers need",
            limit,
            WANTED,
        )
    return limit
