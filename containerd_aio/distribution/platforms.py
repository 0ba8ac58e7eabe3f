"""Platforms: which of an image's variants runs here (Go: github.com/containerd/platforms)."""

from __future__ import annotations

import platform as _host
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache

from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Platform

__all__ = [
    "Matcher",
    "Platform",
    "any_platform",
    "default_platform",
    "format_platform",
    "match_any",
    "match_only",
    "match_strict",
    "normalize",
    "parse_platform",
]

Matcher = Callable[[Platform], int | None]
"""Says how well a platform suits: 0 is best, None not at all."""

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")

_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv8l": ("arm", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armv5tel": ("arm", "v5"),
}

# Variants that go without saying.
_BASELINES = {("arm64", "8"), ("arm64", "v8"), ("arm64", "v8.0"), ("amd64", "v1")}

_KNOWN_ARCHITECTURES = (
    "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm"
)
_KNOWN_SYSTEMS = "aix darwin dragonfly freebsd linux netbsd openbsd solaris wasip1 windows"


def normalize(platform: Platform) -> Platform:
    """Return `platform` in the words images use: ``x86_64`` becomes ``amd64``, ``arm64/v8`` becomes ``arm64``."""
    system = platform.os.lower()
    system = {"macos": "darwin"}.get(system, system)
    architecture, variant = platform.architecture.lower(), platform.variant.lower()
    if architecture in _ARCHITECTURES:
        architecture, implied = _ARCHITECTURES[architecture]
        variant = variant or implied
    if architecture == "arm":
        variant = {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    elif (architecture, variant) in _BASELINES:
        variant = ""
    return Platform(system, architecture, variant, platform.os_version)


@cache
def default_platform() -> Platform:
    """Return the platform of this machine."""
    system = "linux" if sys.platform.startswith("linux") else sys.platform
    return normalize(Platform(system, _host.machine()))


def parse_platform(text: str) -> Platform:
    """Read ``os/architecture[/variant]``, or only one of ``os`` and ``architecture``; the rest is this machine's.

    Raises:
        InvalidArgument: It is not a platform.
    """
    parts = text.split("/")
    if len(parts) > 3 or not all(_COMPONENT.fullmatch(part) for part in parts):
        raise InvalidArgument(
            f"platform {text!r} is not understood; expected os/architecture[/variant], such as linux/arm64"
        )
    if len(parts) > 1:
        return normalize(Platform(*parts))
    here = default_platform()
    word = normalize(Platform(text, text))
    if word.os in _KNOWN_SYSTEMS.split():
        return normalize(Platform(word.os, here.architecture, here.variant))
    if word.architecture in _KNOWN_ARCHITECTURES.split():
        return normalize(Platform(here.os, word.architecture, word.variant))
    raise InvalidArgument(
        f"platform {text!r} is neither an operating system nor an architecture that is known"
    )


def format_platform(platform: Platform) -> str:
    """Return ``os/architecture[/variant]``."""
    return str(platform)


def _compatible(platform: Platform) -> list[Platform]:
    """Return what a machine of `platform` runs, the best first."""
    system, architecture, variant = platform.os, platform.architecture, platform.variant

    def arm(newest: int) -> list[Platform]:
        return [Platform(system, "arm", f"v{n}") for n in range(newest, 4, -1)]

    if architecture == "amd64":
        levels = int(variant[1:]) if re.fullmatch(r"v[2-9]", variant) else 1
        better = [Platform(system, "amd64", f"v{n}") for n in range(levels, 1, -1)]
        return [*better, Platform(system, "amd64"), Platform(system, "386")]
    if architecture == "arm" and re.fullmatch(r"v[5-9]", variant):
        return arm(int(variant[1:]))
    if architecture == "arm64":
        minor = re.fullmatch(r"v8\.([1-9])", variant)
        better = [Platform(system, "arm64", f"v8.{n}") for n in range(int(minor[1]), 0, -1)] if minor else []
        if variant and not minor:
            better = [platform]
        return [*better, Platform(system, "arm64"), *arm(8)]
    return [platform]


def match_only(platform: Platform) -> Matcher:
    """Return a matcher for what runs on a machine of `platform`: itself best, then what it is compatible with."""
    wanted = {p: rank for rank, p in enumerate(_compatible(normalize(platform)))}

    def matches(candidate: Platform) -> int | None:
        found = normalize(candidate)
        return wanted.get(Platform(found.os, found.architecture, found.variant))

    return matches


def match_strict(platform: Platform) -> Matcher:
    """Return a matcher for `platform` and nothing else."""
    wanted = normalize(platform)

    def matches(candidate: Platform) -> int | None:
        found = normalize(candidate)
        same = (found.os, found.architecture, found.variant) == (
            wanted.os,
            wanted.architecture,
            wanted.variant,
        )
        return 0 if same else None

    return matches


def match_any(platforms: Iterable[Platform]) -> Matcher:
    """Return a matcher for all of `platforms`, the first the best."""
    matchers = [match_only(platform) for platform in platforms]

    def matches(candidate: Platform) -> int | None:
        for rank, matcher in enumerate(matchers):
            found = matcher(candidate)
            if found is not None:
                return rank * 100 + found
        return None

    return matches


def any_platform(candidate: Platform) -> int | None:  # noqa: ARG001 - a matcher
    """Match every platform."""
    return 0
