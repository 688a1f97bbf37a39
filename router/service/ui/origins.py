"""Refuses requests that another site's page makes a browser send."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from router.errors import PermissionDenied


def check_origin(metadata: Mapping[str, str]) -> None:
    """Raise PermissionDenied where another site's page sent a form. Browsers name the page's site with each form."""
    origin = metadata.get("origin")
    site = metadata.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != metadata.get("host")) or site not in ("same-origin", "none"):
        raise PermissionDenied("this form was sent by a page of another site")


def secure(metadata: Mapping[str, str], scheme: str) -> bool:
    """Tell whether the browser's own connection is encrypted, to this server or to a proxy before it."""
    return scheme == "https" or metadata.get("origin", "").startswith("https://")
