"""What lies behind a network address: a file, which ends, or a stream, which does not."""

from __future__ import annotations

from http.client import HTTPException

PLAYLISTS = ("mpegurl", "dash+xml")
"""Parts of content types of documents that name the pieces of a stream."""


def is_file(address: str, timeout: float) -> bool:
    """Whether an http address answers with something of a known length that is no playlist.

    OpenCV does not tell the end of a file from the loss of a stream, and only some containers announce their
    frames. An address that answers in no such way (a camera that asks for a password) is taken for a stream.

    Args:
        address: http:// or https://.
        timeout: Seconds.
    """
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(address, method="HEAD"), timeout=timeout) as answer:
            headers = answer.headers
    except (OSError, ValueError, HTTPException):
        return False
    content = headers.get_content_type().lower()
    return headers.get("Content-Length") is not None and not any(part in content for part in PLAYLISTS)
