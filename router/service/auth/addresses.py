"""Reads and writes addresses, and checks which may be listened on, and by which names a server may be called."""

from collections.abc import Collection, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from router.errors import InvalidRequest, PermissionDenied


def check_exposure(host: str, *, encrypted: bool, insecure: bool) -> None:
    """Raise InvalidRequest where calls would cross a network unencrypted and ``insecure`` is false."""
    if not (encrypted or insecure or is_loopback(host)):
        raise InvalidRequest(
            "host",
            f"{host} is reachable from other machines, and calls would not be encrypted; give --tls-cert and "
            "--tls-key, stay on 127.0.0.1, or allow it with --insecure",
            reason="UNSPECIFIED",
        )


def check_host(metadata: Mapping[str, str], names: Collection[str]) -> None:
    """Raise PermissionDenied where the request names a host that is not this server (DNS rebinding).

    Raise InvalidRequest where what it names can't be read.

    Without this check, where no token is needed, another site could have its name resolve to this server's address, and
    its page could read the replies. An address, or a name of loopback, leads nowhere else, so each will do. Over TLS a
    browser checks the name itself, by the certificate.

    names  this server's names, in small letters
    """
    given = metadata.get("host", "")
    try:
        host = urlsplit(f"//{given}").hostname or ""
    except ValueError:  # such as an address with one bracket
        raise InvalidRequest("host", f"{given[:100]!r} is no host", reason="MESSAGE_MALFORMED") from None
    if host not in names and host.rpartition(".")[2] != "localhost" and not _ip_address(host):
        raise PermissionDenied(
            f"this server is not known as {host[:100]!r}; call it by its address, or start it with --tokens, or with "
            "--http-name and this name if it is its own"
        )


def check_name(name: str, option: str) -> None:
    """Raise InvalidRequest where ``name`` is no host's name or address alone, such as one with a port."""
    try:
        host = urlsplit(f"//{name}").hostname
    except ValueError:
        host = None
    if host is None or host != name.strip("[]").lower():
        raise InvalidRequest(
            option, f"--{option} {name}: give a host's name alone, like router.example", reason="UNSPECIFIED"
        )


def address_of(host: str, port: int) -> str:
    """Write host and port as one address: ``127.0.0.1:50551``, ``[::1]:50551``."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def read_address(address: str, option: str) -> tuple[str, int]:
    """Return host and port of an address like ``127.0.0.1:8080`` or ``[::1]:8080``. Raises InvalidRequest."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in host and host[0] != "["):
        raise InvalidRequest(
            option,
            f"--{option} {address}: give host:port, like 127.0.0.1:8080 or [::1]:8080 (port 0: any free one)",
            reason="UNSPECIFIED",
        )
    return host.strip("[]"), int(port)


def check_address(address: str) -> None:
    """Raise InvalidRequest for an IPv6 address without brackets, whose port can't be told from its last group."""
    for host in (address, address.rpartition(":")[0]):
        if host.count(":") > 1 and not host.startswith("[") and _is_ip(host):
            raise InvalidRequest(
                "address", f"{address}: put an IPv6 address into brackets, like [::1]:50551", reason="UNSPECIFIED"
            )


def _is_ip(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False


def is_loopback(host: str) -> bool:
    found = _ip_address(host)
    return host == "localhost" if found is None else found.is_loopback


def _ip_address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that the host is, None where it is a name."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None
