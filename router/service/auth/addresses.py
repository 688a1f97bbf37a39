"""Which addresses may be listened on without encryption."""

from ipaddress import ip_address

from router.errors import InvalidRequest


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
