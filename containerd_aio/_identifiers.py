"""containerd's rule for names of containers, execs, namespaces and the parts of an event topic."""

from __future__ import annotations

import re

from containerd_aio.errors import InvalidArgument

_IDENTIFIER = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_MAX_LENGTH = 76


def check_identifier(text: str, what: str) -> str:
    """Return `text` if containerd accepts it as an identifier (Go: ``identifiers.Validate``).

    Args:
        text: The name.
        what: What it names, for the message: ``container id``, ``namespace``...

    Raises:
        InvalidArgument: It is empty, too long, or has characters that are not allowed.
    """
    if not isinstance(text, str):
        raise InvalidArgument(f"the {what} is {text!r}, which is no text")
    if not text:
        raise InvalidArgument(f"the {what} is empty")
    if len(text) > _MAX_LENGTH:
        raise InvalidArgument(
            f"{what} {text!r} has {len(text)} characters; at most {_MAX_LENGTH} are allowed"
        )
    if not _IDENTIFIER.fullmatch(text):
        raise InvalidArgument(
            f"{what} {text!r} is not valid: use letters and digits, with single '.', '_' or '-' between them"
        )
    return text
