"""Refuses requests that another site's page makes a browser send."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from router.errors import PermissionDenied


def check_origin(metadata: Mapping[str, str]) -> None:
    """Raise PermissionDenied where another site's page sent a form. Browsers name the page's site with each form."""
    origin = metadata.get("origin")
    site = metadata.get("sec-fetch-site", "same-origin")
    own = origin is None or _from(origin, metadata.get("host"))
    if not own or site not in ("same-origin", "none"):
        raise PermissionDenied("this form was sent by a page of another site")


def _from(origin: str, host: str | None) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:  # no site, such as http://[x
        return False


def secure(metadata: Mapping[str, str | bytes], *, encrypted: bool) -> bool:
    """Tell whether the browser's own connection is encrypted, to this server or, as forms tell, to a proxy before it.

    encrypted  whether this server has TLS
    """
    return encrypted or str(metadata.get("origin", "")).startswith("https://")
