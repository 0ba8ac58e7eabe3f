"""Platforms: which of an image's variants runs here (Go: github.com/containerd/platforms)."""

from __future__ import annotations

import platform as _host
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
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

# What containerd takes for an architecture or an operating system when it stands alone (Go: platforms/database.go).
_KNOWN_ARCHITECTURES = frozenset(
    [
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "arm64",
        "arm64be",
        "armbe",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "mipsle",
        "ppc",
        "ppc64",
        "ppc64le",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
    ]
)
_KNOWN_SYSTEMS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
        "zos",
    ]
)


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
    """Read ``os[(version)]/architecture[/variant]``, or only one of ``os`` and ``architecture``; the rest is this machine's.

    Raises:
        InvalidArgument: It is not a platform.
    """
    parts = text.split("/")
    system, _, version = parts[0].partition("(")
    if version[-1:] == ")":
        parts[0], version = system, version[:-1]
        wrong = next((part for part in (*parts, version) if not _COMPONENT.fullmatch(part)), None)
    else:
        version, wrong = "", next((part for part in parts if not _COMPONENT.fullmatch(part)), None)
    if len(parts) > 3 or wrong is not None:
        part = "" if wrong is None else f"{wrong!r} "
        raise InvalidArgument(
            f"platform {text!r}: {part}is not understood; expected os/architecture[/variant], such as linux/arm64"
        )
    if len(parts) > 1:
        return replace(normalize(Platform(*parts)), os_version=version)
    here = default_platform()
    word = normalize(Platform(parts[0], parts[0]))
    if word.os in _KNOWN_SYSTEMS:
        return normalize(Platform(word.os, here.architecture, here.variant, version))
    if word.architecture in _KNOWN_ARCHITECTURES:
        return normalize(Platform(here.os, word.architecture, word.variant))
    raise InvalidArgument(
        f"platform {text!r} is neither an operating system nor an architecture that is known"
    )


def format_platform(platform: Platform, *, version: bool = False) -> str:
    """Return ``os/architecture[/variant]``.

    Args:
        platform: What to write.
        version: Write ``os(version)`` where the version of the operating system is known (Go: platforms.FormatAll).
    """
    if not version or not platform.os_version:
        return str(platform)
    return f"{platform.os}({platform.os_version})" + str(platform)[len(platform.os) :]


def _compatible(platform: Platform) -> list[Platform]:
    """Return what a machine of `platform` runs, the best first (Go: platforms.Only)."""
    architecture, variant = platform.architecture, platform.variant

    def others(name: str, *variants: str) -> list[Platform]:
        return [normalize(replace(platform, architecture=name, variant=v)) for v in variants]

    level = int(found[1]) if (found := re.fullmatch(r"v(\d)", variant)) else 0
    if architecture == "amd64":
        return [platform, *others("amd64", *(f"v{n}" for n in range(level - 1, 0, -1))), *others("386", "")]
    if architecture == "arm" and level > 5:
        return [platform, *others("arm", *(f"v{n}" for n in range(level - 1, 4, -1)))]
    if architecture == "arm64":
        older = others("arm64", *_older_arm64(variant))
        return [platform, *older, *others("arm", "v8", "v7", "v6", "v5")]
    return [platform]


def _older_arm64(variant: str) -> list[str]:
    """Return the variants before an arm64 one: 8.x is followed by 9.0, which is 8.5 with more (Arm's manual, A2.1)."""
    found = re.fullmatch(r"v([89])(?:\.(\d))?", variant or "v8")
    if found is None:
        return []
    minor = int(found[2] or 0)
    older: list[str] = []
    if found[1] == "9":
        older = [f"v9.{n}" if n else "v9" for n in range(minor - 1, -1, -1)]
        minor += 6
    return older + [f"v8.{n}" if n else "v8" for n in range(minor - 1, -1, -1)]


def _key(platform: Platform) -> tuple[str, str, str]:
    return platform.os, platform.architecture, platform.variant


def _suits_version(wanted: str, found: str) -> bool:
    """Tell whether an image for one build of Windows runs on another: only on the same one, unless nobody says."""
    return not wanted or not found or wanted.split(".")[:3] == found.split(".")[:3]


def match_only(platform: Platform) -> Matcher:
    """Return a matcher for what runs on a machine of `platform`: itself best, then what it is compatible with."""
    wanted = {_key(p): rank for rank, p in enumerate(_compatible(normalize(platform)))}
    version = platform.os_version

    def matches(candidate: Platform) -> int | None:
        rank = wanted.get(_key(normalize(candidate)))
        return rank if rank is None or _suits_version(version, candidate.os_version) else None

    return matches


def match_strict(platform: Platform) -> Matcher:
    """Return a matcher for `platform` and nothing else."""
    wanted = normalize(platform)

    def matches(candidate: Platform) -> int | None:
        same = _key(normalize(candidate)) == _key(wanted)
        return 0 if same and _suits_version(wanted.os_version, candidate.os_version) else None

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
