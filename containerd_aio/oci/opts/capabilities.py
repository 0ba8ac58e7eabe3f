"""Options for Linux capabilities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import capabilities
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.types import LinuxCapabilities, Spec

#: Every capability of Linux 5.9 and newer, at the index of its number (capabilities(7)).
KNOWN_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

_STATUS = Path("/proc/self/status")


def _known(names: Iterable[str]) -> list[str]:
    given = check.texts("capabilities", names)
    for name in given:
        if name not in KNOWN_CAPABILITIES:
            full = f"CAP_{name.upper().removeprefix('CAP_')}"
            hint = f"write {full}" if full in KNOWN_CAPABILITIES else "see capabilities(7)"
            raise InvalidArgument(f"capability {name!r} is not known: {hint}")
    return given


def current_capabilities(status: str) -> list[str]:
    """Return the effective capabilities named by the text of a ``/proc/<pid>/status``; unknown numbers are left out."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            bits = int(value.strip(), 16)
            return [name for number, name in enumerate(KNOWN_CAPABILITIES) if bits >> number & 1]
    return []


def _set(section: LinuxCapabilities, caps: Sequence[str]) -> None:
    section["bounding"] = list(caps)
    section["effective"] = list(caps)
    section["permitted"] = list(caps)
    if "inheritable" in section:
        section["inheritable"] = [name for name in section["inheritable"] if name in caps]


def with_capabilities(names: Iterable[str]) -> SpecOpt:
    """Set the bounding, effective and permitted sets; the inheritable one only loses what is not among them.

    Go: WithCapabilities.

    Args:
        names: Such as ``["CAP_NET_ADMIN"]``. Empty: none.

    Raises:
        InvalidArgument: A name is not known.
    """
    caps = _known(names)

    def opt(_: SpecContext, spec: Spec) -> None:
        _set(capabilities(spec), caps)

    return opt


def with_added_capabilities(names: Iterable[str]) -> SpecOpt:
    """Add to the bounding, effective and permitted sets (Go: WithAddedCapabilities).

    Raises:
        InvalidArgument: A name is not known.
    """
    caps = _known(names)

    def opt(_: SpecContext, spec: Spec) -> None:
        section = capabilities(spec)
        for held in (
            section.setdefault("bounding", []),
            section.setdefault("effective", []),
            section.setdefault("permitted", []),
        ):
            held.extend(name for name in dict.fromkeys(caps) if name not in held)

    return opt


def with_dropped_capabilities(names: Iterable[str]) -> SpecOpt:
    """Take away from the bounding, effective, permitted and inheritable sets (Go: WithDroppedCapabilities).

    The ambient set is left alone, as in Go.

    Raises:
        InvalidArgument: A name is not known.
    """
    caps = set(_known(names))

    def opt(_: SpecContext, spec: Spec) -> None:
        section = capabilities(spec)
        for held in (
            section.get("bounding", []),
            section.get("effective", []),
            section.get("permitted", []),
            section.get("inheritable", []),
        ):
            held[:] = [name for name in held if name not in caps]

    return opt


def with_ambient_capabilities(names: Iterable[str]) -> SpecOpt:
    """Set the inheritable and ambient sets; meant for users other than root (Go: WithAmbientCapabilities).

    Raises:
        InvalidArgument: A name is not known.
    """
    caps = _known(names)

    def opt(_: SpecContext, spec: Spec) -> None:
        section = capabilities(spec)
        section["inheritable"] = list(caps)
        section["ambient"] = list(caps)

    return opt


def with_all_known_capabilities() -> SpecOpt:
    """Set every capability that is known here (Go: WithAllKnownCapabilities)."""
    return with_capabilities(KNOWN_CAPABILITIES)


def with_all_current_capabilities() -> SpecOpt:
    """Set the effective capabilities of this process, as they are when the option is applied.

    Go: WithAllCurrentCapabilities. Where this process has fewer than all, asking for more makes runc fail.

    Raises:
        InvalidArgument: When applied: ``/proc`` can't be read.
    """

    def opt(_: SpecContext, spec: Spec) -> None:
        try:
            caps = current_capabilities(_STATUS.read_text())
        except OSError as exc:
            raise InvalidArgument(
                f"the capabilities of this process can't be read: {exc}; use with_all_known_capabilities"
            ) from exc
        _set(capabilities(spec), caps)

    return opt
