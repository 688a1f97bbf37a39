"""Raises the limit of open file descriptors. Connections, engines, workers and the database need them."""

import logging
import resource

WANTED = 4096  # for 1,000 connections with gRPC, 2,000 with HTTP, and those to engines and the database
_log = logging.getLogger(__name__)


def allow_many() -> int:
    """Raise this process's limit to :data:`WANTED` where allowed; return the limit. Log a warning where it is lower."""
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
