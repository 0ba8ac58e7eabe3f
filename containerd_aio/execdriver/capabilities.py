"""Capabilities as Docker 1.4 had them: names without ``CAP_``, any case."""

from __future__ import annotations

import json
from collections.abc import Sequence

from containerd_aio.errors import InvalidArgument

#: The 37 that libcontainer knew, in its order.
ALL_CAPABILITIES = (
    "SETPCAP", "SYS_MODULE", "SYS_RAWIO", "SYS_PACCT", "SYS_ADMIN", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
    "SYS_TTY_CONFIG", "MKNOD", "AUDIT_WRITE", "AUDIT_CONTROL", "MAC_OVERRIDE", "MAC_ADMIN", "NET_ADMIN", "SYSLOG",
    "CHOWN", "NET_RAW", "DAC_OVERRIDE", "FOWNER", "DAC_READ_SEARCH", "FSETID", "KILL", "SETGID", "SETUID",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "IPC_LOCK", "IPC_OWNER", "SYS_CHROOT", "SYS_PTRACE",
    "SYS_BOOT", "LEASE", "SETFCAP", "WAKE_ALARM", "BLOCK_SUSPEND",
)  # fmt: skip

#: What a container had that asked for nothing.
DEFAULT_CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
    "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
)  # fmt: skip


def tweak_capabilities(basics: Sequence[str], adds: Sequence[str], drops: Sequence[str]) -> list[str]:
    """Return `basics` without `drops` and with `adds` (Docker: TweakCapabilities).

    Case does not matter; what is returned is in upper case. ``all`` among the drops takes every one of `basics` away,
    ``all`` among the adds makes `basics` all that there are; a name that is both added and dropped is there. `basics`
    are not checked, and those that are there twice stay so.

    Args:
        basics: What there is to begin with.
        adds: Names to add, or ``all``.
        drops: Names to take away, or ``all``.

    Raises:
        InvalidArgument: A name to drop or to add is not known. Drops are looked at first.
    """
    every = frozenset(ALL_CAPABILITIES)
    dropped, added = [name.upper() for name in drops], [name.upper() for name in adds]
    for given, name in zip(drops, dropped, strict=True):
        if name != "ALL" and name not in every:
            raise InvalidArgument(f"Unknown capability drop: {_quoted(given)}")
    if "ALL" in added:
        basics = ALL_CAPABILITIES
    held: list[str] = []
    if "ALL" not in dropped:
        held = [name for name in map(str.upper, basics) if name != "ALL" and name not in dropped]
    for given, name in zip(adds, added, strict=True):
        if name == "ALL":
            continue
        if name not in every:
            raise InvalidArgument(f"Unknown capability to add: {_quoted(given)}")
        if name not in held:
            held.append(name)
    return held


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
