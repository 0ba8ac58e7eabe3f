"""Log URIs: output that the shim itself writes to a file, or to a logging program, with no client attached.

``file:///var/log/job.log`` is appended to; ``binary:///usr/bin/logger?key=value`` is started by the shim with the
keys and values as arguments, stdout on descriptor 3 and stderr on 4.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit

from containerd_aio.errors import InvalidArgument

__all__ = ["binary_uri", "check_log_uri", "file_uri"]


def check_log_uri(uri: str, *, terminal: bool = False) -> str:
    """Check that a shim will understand a log URI.

    Args:
        uri: ``file://`` or ``binary://`` with an absolute path.
        terminal: Whether the process has a terminal; shims can't log one to a file.

    Returns:
        The URI as given.

    Raises:
        InvalidArgument: It is not such a URI.
    """
    if any(ord(char) <= 0x20 or ord(char) == 0x7F for char in uri):
        raise InvalidArgument(f"log URI {uri!r} has a space or control character: percent-encode it")
    try:
        parts = urlsplit(uri)
    except ValueError as exc:
        raise InvalidArgument(f"log URI {uri!r}: {exc}") from exc
    if parts.scheme not in ("file", "binary"):
        raise InvalidArgument(f"log URI {uri!r} must begin with file:// or binary://")
    if parts.netloc or not parts.path.startswith("/"):
        raise InvalidArgument(
            f"log URI {uri!r} needs an absolute path: {parts.scheme}:///path, three slashes"
        )
    if parts.path.endswith("/"):
        raise InvalidArgument(f"log URI {uri!r} names a directory, not a file")
    if parts.fragment or (parts.scheme == "file" and parts.query):
        raise InvalidArgument(
            f"log URI {uri!r}: the part after ? or # would be ignored; percent-encode the character"
        )
    if terminal and parts.scheme == "file":
        raise InvalidArgument("the output of a terminal can't be logged to a file by the shim: use binary://")
    return uri


def file_uri(path: str | os.PathLike[str]) -> str:
    """The ``file://`` URI of an absolute path.

    Raises:
        InvalidArgument: The path is relative or names a directory.
    """
    return check_log_uri("file://" + _absolute(path))


def binary_uri(path: str | os.PathLike[str], args: Mapping[str, str] | None = None) -> str:
    """The ``binary://`` URI of a logging program.

    Args:
        path: Absolute path of the program, on the daemon's host.
        args: Arguments, handed to the program as key, value, key, value...; sorted by key, as Go does.

    Raises:
        InvalidArgument: The path is relative or names a directory.
    """
    query = urlencode(sorted((args or {}).items()))
    return check_log_uri("binary://" + _absolute(path) + ("?" + query if query else ""))


def _absolute(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    if not name.startswith("/"):
        raise InvalidArgument(f"the shim has another working directory: {name!r} must be an absolute path")
    # Two leading slashes would read as a host name.
    return quote("/" + name.lstrip("/"))
