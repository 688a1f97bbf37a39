"""Who may connect and who is calling: addresses, certificates, bearer tokens. Files are read again when they change."""

import logging
import re
import ssl
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Generic, TypeVar

import grpc

from router.errors import InvalidFile, InvalidRequest, Unauthenticated

_log = logging.getLogger(__name__)
_Read = TypeVar("_Read")


class Reloaded(Generic[_Read]):
    """What ``read`` makes of some files, read again once one of them changes.

    A change that can't be read is logged, and what was read before stays: half of a rotation locks nobody out.
    The first read raises whatever ``read`` raises.
    """

    def __init__(self, read: Callable[[], _Read], *files: Path):
        self._read = read
        self._files = files
        self._seen = self._stamps()
        self._value = read()

    def __call__(self) -> _Read:
        return self.changed() or self._value

    def changed(self) -> _Read | None:
        """The new value if there is one since the last look, else None."""
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


# Addresses


def check_exposure(host: str, *, encrypted: bool, insecure: bool) -> None:
    """Raises InvalidRequest where calls could be read on the way and nobody asked for that by name."""
    if not (encrypted or insecure or is_loopback(host)):
        raise InvalidRequest(
            "host",
            f"{host} is reachable from other machines, and calls would not be encrypted; give --tls-cert and "
            "--tls-key, stay on 127.0.0.1, or ask for it with --insecure",
            reason="UNSPECIFIED",
        )


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


# Certificates


def server_credentials(cert: Path, key: Path, client_ca: Path | None = None) -> grpc.ServerCredentials:
    """TLS from PEM files; with ``client_ca`` only callers with a certificate of that authority connect (mutual TLS).

    New connections use new certificates as soon as the files change. Raises InvalidFile.
    """
    files = [cert, key, *([client_ca] if client_ca else [])]
    configuration = Reloaded(partial(_read_certificates, cert, key, client_ca), *files)
    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration.changed, require_client_authentication=client_ca is not None
    )


def _read_certificates(cert: Path, key: Path, client_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key)  # gRPC itself reports a wrong pair at the first handshake, to the caller
        if client_ca:
            context.load_verify_locations(client_ca)
        roots = client_ca.read_bytes() if client_ca else None
        return grpc.ssl_server_certificate_configuration([(key.read_bytes(), cert.read_bytes())], roots)
    except OSError as error:  # ssl.SSLError is one
        named = f"{cert}, {key}" + (f", {client_ca}" if client_ca else "")
        raise InvalidFile(
            f"can't use the certificates {named} ({error}); they must be PEM, and the key without a password "
            "the certificate's own"
        ) from error


# Callers


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


def peer(address: str, certificate: Mapping[str, Sequence[bytes]]) -> Caller:
    """A caller without a token: the common name of its certificate, else its address less the port."""
    names = certificate.get("x509_common_name")
    return Caller(names[0].decode(errors="replace") if names else address.rpartition(":")[0] or address)
