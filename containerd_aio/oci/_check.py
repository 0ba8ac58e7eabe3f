"""Checks of arguments: each returns the value in the form it is stored in, or raises InvalidArgument."""

from __future__ import annotations

import re
from collections.abc import Iterable

from containerd_aio.errors import InvalidArgument

MAX_INT32 = 2**31 - 1
MAX_UINT32 = 2**32 - 1
MAX_INT64 = 2**63 - 1
MAX_UINT64 = 2**64 - 1

_ABSOLUTE = re.compile(r"/|[A-Za-z]:[\\/]|\\\\")


def integer(name: str, value: object, *, least: int = 0, most: int = MAX_INT64, unit: str = "") -> int:
    """Check that `value` is an integer (no bool) from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidArgument(f"{name} must be an integer{_in(unit)}, not {value!r} ({type(value).__name__})")
    if not least <= value <= most:
        raise InvalidArgument(f"{name} is {value}; it must be from {least} to {most}{_in(unit)}")
    return value


def _in(unit: str) -> str:
    return f" ({unit})" if unit else ""


def text(name: str, value: object, *, empty: bool = True) -> str:
    """Check that `value` is a string without NUL, and not empty unless `empty`."""
    if not isinstance(value, str):
        raise InvalidArgument(f"{name} must be a string, not {value!r} ({type(value).__name__})")
    if "\0" in value:
        raise InvalidArgument(f"{name} is {value!r}; it can't hold a NUL character")
    if not value and not empty:
        raise InvalidArgument(f"{name} is empty; leave the option out instead")
    return value


def texts(name: str, values: object) -> list[str]:
    """Check that `values` is an iterable of strings, not one string."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidArgument(f"{name} must be a list of strings, not {values!r}: write [{values!r}]")
    return [text(f"{name}[{at}]", value) for at, value in enumerate(values)]


def absolute(name: str, value: object) -> str:
    """Check that `value` is an absolute path, of Unix or of Windows."""
    path = text(name, value)
    if not _ABSOLUTE.match(path):
        raise InvalidArgument(
            f"{name} is {path!r}; it must be an absolute path inside the container, such as '/data'"
        )
    return path


def one_of(name: str, value: object, known: Iterable[str]) -> str:
    """Check that `value` is one of the `known` names."""
    known = list(known)
    if value not in known:
        raise InvalidArgument(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    return str(value)


def boolean(name: str, value: object) -> bool:
    """Check that `value` is True or False."""
    if not isinstance(value, bool):
        raise InvalidArgument(f"{name} must be True or False, not {value!r} ({type(value).__name__})")
    return value


def host_path(name: str, value: object) -> str:
    """Check that `value` is an absolute path of a Unix host."""
    path = text(name, value)
    if not path.startswith("/"):
        raise InvalidArgument(f"{name} is {path!r}; it must be an absolute path on the host")
    return path
