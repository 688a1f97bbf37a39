"""TLS and mutual TLS from PEM files, which may be replaced while the server runs."""

import ssl
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc

from router.errors import InvalidFile
from router.service.auth.reload import Reloaded


def server_credentials(cert: Path, key: Path, client_ca: Path | None = None) -> grpc.ServerCredentials:
    """Return TLS credentials from PEM files. With ``client_ca``, callers need a certificate it signed (mutual TLS).

    New connections use new certificates as soon as the files change. Raises InvalidFile.
    """
    files = [cert, key, *([client_ca] if client_ca else [])]
    configuration = Reloaded(partial(_read_certificates, cert, key, client_ca), *files)
    return grpc.dynamic_ssl_server_credentials(
        configuration(), configuration.changed, require_client_authentication=client_ca is not None
    )


@lru_cache(256)
def fingerprint(pem: bytes) -> str:
    """Return a name for a certificate that has none: its digest."""
    return f"certificate sha256:{sha256(ssl.PEM_cert_to_DER_cert(pem.decode())).hexdigest()[:16]}"


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
            f"can't use the certificates {named} ({error}); all must be PEM files, and the key must be the "
            "certificate's own and have no password"
        ) from error


def server_contexts(cert: Path, key: Path, client_ca: Path | None = None) -> Callable[[], ssl.SSLContext]:
    """Return the same for servers other than gRPC's: it returns the context of a new connection. Raises InvalidFile.

    A session is resumed without a look at the caller's certificate, but only within its context. So files that change
    make a new one, as gRPC does.
    """
    files = [cert, key, *([client_ca] if client_ca else [])]
    return Reloaded(partial(_context, cert, key, client_ca), *files)


def _context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    _read_certificates(cert, key, client_ca)  # raises InvalidFile that says what is wrong with the files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except OSError as error:  # they were right a moment ago
        raise InvalidFile(f"the certificates {cert} changed while they were read ({error})") from error
    return context


def name_of(names: Iterable[str], pem: bytes) -> str:
    """Return the name of a certificate's holder: the first of its names that is not blank, else its fingerprint.

    names  common names, then alternative names
    """
    return next(filter(None, (name.strip() for name in names)), None) or fingerprint(pem)


def peer_name(connection: ssl.SSLObject | None) -> str | None:
    """Return :func:`name_of` the peer of a connection; None where it showed no certificate, or there is no TLS."""
    certificate: Any = connection.getpeercert() if connection else None
    der = connection.getpeercert(binary_form=True) if connection else None
    if not certificate or not der:
        return None
    common = [value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"]
    others = [value for _, value in certificate.get("subjectAltName", ())]
    return name_of([*common, *others], ssl.DER_cert_to_PEM_cert(der).encode())
