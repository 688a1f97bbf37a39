"""User and password in the URL of a model's server, which are sent as a header and never shown."""

from base64 import b64encode
from urllib.parse import unquote, urlsplit


def split_login(url: str) -> tuple[str, str | None]:
    """Return the URL without user and password, and the Authorization header's value that says them, if there are any.

    Raises ValueError where it is no base URL. The message does not quote it.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its own message quotes what may be a part of the password
        raise ValueError("its host and port can't be read; write signs in a password like %40 for @") from None
    if parts.query or parts.fragment:
        raise ValueError("a base URL has no ? and no #; write these signs in a password as %3F and %23")
    if "@" in parts.path:
        raise ValueError("its path has an @; write signs in a password like %40 for @ and %2F for /")
    login, at, host = parts.netloc.rpartition("@")
    if not at:
        return url, None
    user, _, password = login.partition(":")
    encoded = b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
    return parts._replace(netloc=host).geturl(), f"Basic {encoded}"
