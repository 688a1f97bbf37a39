"""Who is calling: by bearer token, by certificate or by address."""

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

    address           without the port, which is another for each connection: "ipv4:10.0.0.1"
    certificate_name  the common name of its certificate, or what stands for it; None: it showed none
    """

    address: str
    certificate_name: str | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """``name`` is what fairness and logs go by. ``admin`` callers may change what is served."""

    name: str
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """``digest`` is the SHA-256 of the token itself, which is stored nowhere."""

    digest: bytes
    caller: Caller


def read_tokens(file: Path) -> Sequence[Token]:
    """A TOML file with a table for each caller; several digests while a token is being replaced. Raises InvalidFile.

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
                f"{file}: [{name}] has the digest of an empty token, whom anybody could be; make one with "
                "`router token NAME`"
            )
        if token.digest in callers:
            raise InvalidFile(
                f"{file}: [{name}] has a digest that [{callers[token.digest]}] has, too, so who calls with that token "
                "can't be told; give each caller its own with `router token NAME`"
            )
        callers[token.digest] = name
    if not tokens:
        raise InvalidFile(f"{file} holds no token, so nobody could call; make one with `router token NAME`")
    return tokens


def _tokens(file: Path, name: str, table: Any) -> list[Token]:
    wrong = f"{file}: [{name}]"
    if not isinstance(table, Mapping) or not {"sha256"} <= set(table) <= {"sha256", "admin"}:
        raise InvalidFile(f"{wrong} needs sha256, may have admin, and nothing else; see `router token --help`")
    admin = table.get("admin", False)
    if not isinstance(admin, bool):
        raise InvalidFile(f"{wrong} admin must be true or false")
    digests = table["sha256"] if isinstance(table["sha256"], list) else [table["sha256"]]
    if not all(isinstance(digest, str) and re.fullmatch(r"[0-9a-fA-F]{64}", digest) for digest in digests):
        raise InvalidFile(f"{wrong} sha256 must be 64 hexadecimal digits, or a list of such")
    return [Token(bytes.fromhex(digest), Caller(name, admin)) for digest in digests]


def digest_of(token: str) -> bytes:
    return sha256(token.encode()).digest()


def bearer(tokens: Sequence[Token], authorization: str) -> Caller:
    """The caller whose token ``authorization``, the metadata entry, carries. Raises Unauthenticated."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("send your token as metadata: authorization: Bearer TOKEN (commands: --token)")
    digest, found = digest_of(token.strip()), None
    for known in tokens:  # all of them, so that the time taken does not tell which one was close
        if compare_digest(known.digest, digest):
            found = known.caller
    if found is None:
        raise Unauthenticated("the bearer token is unknown; ask who runs the server for one made with `router token`")
    return found


def caller_of(peer: Peer) -> Caller:
    """A caller without a token: the name in its certificate, else its address."""
    return Caller(peer.certificate_name or peer.address)
