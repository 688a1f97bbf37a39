"""Which requests come from these pages: not those that another site's page makes a browser send."""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from router.errors import PermissionDenied


def check_host(metadata: Mapping[str, str], listening: str) -> None:
    """Raises PermissionDenied where a name stands for this server that is not its own.

    Where no token is wanted, a page of another site could else have its name resolve to this address, and read here.

    listening  host that the server was told to listen on
    """
    host = urlsplit(f"//{metadata.get('host', '')}").hostname or ""
    if host not in ("localhost", listening.strip("[]").lower()) and not _is_address(host):
        raise PermissionDenied(
            f"this server does not know itself as {host[:100]!r}; open it by its address, or give it tokens"
        )


def check_origin(metadata: Mapping[str, str]) -> None:
    """Raises PermissionDenied where another site's page sent a form. Browsers say with each which page it is of."""
    origin = metadata.get("origin")
    site = metadata.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != metadata.get("host")) or site not in ("same-origin", "none"):
        raise PermissionDenied("this form was sent by a page of another site")


def secure(metadata: Mapping[str, str], scheme: str) -> bool:
    """Whether the browser's own connection is encrypted, to this server or to what stands before it."""
    return scheme == "https" or metadata.get("origin", "").startswith("https://")


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False
