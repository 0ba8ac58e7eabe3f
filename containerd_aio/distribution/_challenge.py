"""What a registry asks for: ``WWW-Authenticate`` headers (RFC 9110, section 11), and scopes of tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - of RFC 9110's grammar
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,\s*|$)')
_SCHEME = re.compile(rf"\s*,?\s*({_TOKEN})(?:\s+|$)")

# The strongest first.
_STRENGTH = {"bearer": 0, "digest": 1, "basic": 2}


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in which a server lets itself be asked.

    Attributes:
        scheme: ``bearer``, ``basic``, ``digest`` or another, in lower case.
        parameters: Such as ``realm``, ``service``, ``scope``, ``error``; names in lower case.
    """

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """Return the challenges of all ``WWW-Authenticate`` headers, the strongest first; what is malformed is left out."""
    found: list[Challenge] = []
    for header in headers:
        rest = header
        while match := _SCHEME.match(rest):
            rest = rest[match.end() :]
            parameters: dict[str, str] = {}
            while parameter := _PARAMETER.match(rest):
                quoted = parameter[2]
                value = parameter[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters[parameter[1].lower()] = value
                rest = rest[parameter.end() :]
            found.append(Challenge(match[1].lower(), parameters))
    return sorted(found, key=lambda challenge: _STRENGTH.get(challenge.scheme, len(_STRENGTH)))


def repository_scope(repository: str, *actions: str) -> str:
    """Return the scope for a repository, such as ``repository:library/busybox:pull,push``."""
    return f"repository:{repository}:{','.join(actions)}"


def merge_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Return scopes sorted, each thing named once with all its actions (Go: docker.GetTokenScopes).

    Args:
        scopes: Scopes, or several in one text separated by spaces, as a challenge has them.
    """
    merged: dict[str, set[str]] = {}
    for scope in (word for text in scopes for word in text.split()):
        thing, colon, actions = scope.rpartition(":")
        if colon:
            merged.setdefault(thing, set()).update(filter(None, actions.split(",")))
        else:
            merged.setdefault(scope, set())
    return tuple(
        sorted(
            f"{thing}:{','.join(sorted(actions))}" if actions else thing for thing, actions in merged.items()
        )
    )
