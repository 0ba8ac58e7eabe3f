"""Which platforms of an image are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from containerd_aio.distribution.platforms import (
    any_platform,
    default_platform,
    match_any,
    match_only,
    parse_platform,
)
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Platform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.distribution.platforms import Matcher

PlatformChoice: TypeAlias = "Platform | str | Sequence[Platform | str] | None"
"""One platform or several, such as ``linux/arm64``; None for the default of whoever is asked."""


def chosen(platform: PlatformChoice) -> list[Platform]:
    """Return the platforms of a choice; none for None.

    Raises:
        InvalidArgument: One is not understood, or the choice is empty.
    """
    if platform is None:
        return []
    several = [platform] if isinstance(platform, Platform | str) else list(platform)
    if not several:
        raise InvalidArgument("the list of platforms is empty; leave it out for this machine's")
    return [parse_platform(p) if isinstance(p, str) else p for p in several]


def matcher(platform: PlatformChoice, *, all_platforms: bool = False) -> Matcher:
    """Return what matches the platforms of a choice; for None what runs on this machine.

    Raises:
        InvalidArgument: One is not understood, or there is a choice together with `all_platforms`.
    """
    several = chosen(platform)
    if several and all_platforms:
        raise InvalidArgument("give platform or all_platforms, not both")
    if all_platforms:
        return any_platform
    return match_any(several) if len(several) > 1 else match_only((several or [default_platform()])[0])
