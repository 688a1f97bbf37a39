"""Refuses requests that another site's page makes a browser send."""

from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from router.errors import PermissionDenied


def check_host(metadata: Mapping[str, str], listening: str) -> None:
    """Raise PermissionDenied where the request names a host that is not this server (DNS rebinding).

    Without this check, where no token is needed, another site could have its name resolve to this server's address, and
    its page could read the replies.

    listening  host that the server was told to listen on
    """
    host = urlsplit(f"//{metadata.get('host', '')}").hostname or ""
    if host not in ("localhost", listening.strip("[]").lower()) and not _is_address(host):
        raise PermissionDenied(
            f"this server is not known as {host[:100]!r}; open it by its address, or start it with --tokens"
        )


def check_origin(metadata: Mapping[str, str]) -> None:
    """Raise PermissionDenied where another site's page sent a form. Browsers name the page's site with each form."""
    origin = metadata.get("origin")
    site = metadata.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != metadata.get("host")) or site not in ("same-origin", "none"):
        raise PermissionDenied("this form was sent by a page of another site")


def secure(metadata: Mapping[str, str], scheme: str) -> bool:
    """Tell whether the browser's own connection is encrypted, to this server or to a proxy before it."""
    return scheme == "https" or metadata.get("origin", "").startswith("https://")


def _is_address(host: str) -> bool:
    try:
        return bool(ip_address(host))
    except ValueError:
        return False
