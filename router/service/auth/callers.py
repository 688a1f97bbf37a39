"""Tells who is calling, by bearer token, certificate or address."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path
from typing import Any

from router.errors import InvalidFile, Unauthenticated


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    address           address without the port, which differs for each connection: "ipv4:10.0.0.1"
    certificate_name  common name of its certificate, or a substitute for it; None: it showed no certificate
    """

    address: str
    certificate_name: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. Callers with the same ``name`` share their limits and log lines. ``admin``: may change bundles."""

    name: str
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token and its caller. ``digest``: SHA-256 of the token, which itself is stored nowhere."""

    digest: bytes
    caller: Caller


def read_tokens(file: Path) -> Sequence[Token]:
    """Read the tokens in a TOML file with a table for each caller. Raises InvalidFile.

    A caller has several digests while its token is being replaced.

    [search-team]
    sha256 = ["<64 hexadecimal digits>", "<64 hexadecimal digits>"]
    admin = false
    """
    try:
        tables = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidFile(f"can't read the tokens in {file}: {error}") from error
    tokens = [token for name, table in tables.items() for token in _tokens(file, name, table)]
    callers: dict[bytes, str] = {}
    for token in tokens:
        name = token.caller.name
        if token.digest == digest_of(""):
            raise InvalidFile(
                f"{file}: [{name}] has the digest of an empty token, which anybody could send; make one with "
                "`router token NAME`"
            )
        if token.digest in callers:
            raise InvalidFile(
                f"{file}: [{name}] has the same digest as [{callers[token.digest]}], so nobody can tell which of them "
                "calls with that token; give each caller its own with `router token NAME`"
            )
        callers[token.digest] = name
    if not tokens:
        raise InvalidFile(f"{file} holds no token, so nobody could call; make one with `router token NAME`")
    return tokens


def _tokens(file: Path, name: str, table: Any) -> list[Token]:
    wrong = f"{file}: [{name}]"
    if not isinstance(table, Mapping) or not {"sha256"} <= set(table) <= {"sha256", "admin"}:
        raise InvalidFile(f"{wrong} needs sha256 and may have admin, but nothing else; see `router token --help`")
    admin = table.get("admin", False)
    if not isinstance(admin, bool):
        raise InvalidFile(f"{wrong} admin must be true or false")
    digests = table["sha256"] if isinstance(table["sha256"], list) else [table["sha256"]]
    if not all(isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest) for digest in digests):
        raise InvalidFile(f"{wrong} sha256 must be 64 hexadecimal digits, or a list of such texts")
    return [Token(bytes.fromhex(digest), Caller(name, admin)) for digest in digests]


def digest_of(token: str) -> bytes:
    return sha256(token.encode()).digest()


def bearer(tokens: Sequence[Token], authorization: str) -> Caller:
    """Return the caller of the token in ``authorization``, a metadata entry. Raises Unauthenticated."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send your token as metadata: authorization: Bearer TOKEN (commands: --token)")
    digest, found = digest_of(token.strip()), None
    for known in tokens:  # always all of them, so that the time taken does not tell which one matched
        if compare_digest(known.digest, digest):
            found = known.caller
    if found is None:
        raise Unauthenticated("the bearer token is unknown; ask whoever runs the server to make one (`router token`)")
    return found


def caller_of(peer: Peer) -> Caller:
    """Return a caller without a token, named by its certificate, else by its address."""
    return Caller(peer.certificate_name or peer.address)
