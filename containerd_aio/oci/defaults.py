"""The spec containerd's Go client starts from, as data: per operating system and per release of containerd.

Source: ``oci/spec.go`` and ``oci/mounts*.go`` of the releases, and the runtime-spec version each was built with.
"""

from __future__ import annotations

import posixpath
import re
import sys
from dataclasses import dataclass

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci.types import LinuxNamespaceType, Mount, Process, Spec

#: What Go's client sets when an image has no environment.
DEFAULT_PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
)  # fmt: skip

DEFAULT_NAMESPACES: tuple[LinuxNamespaceType, ...] = ("pid", "ipc", "uts", "mount", "network")

DEFAULT_READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_MASKED_PATHS = (
    "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
)  # fmt: skip
_POWERCAP = "/sys/devices/virtual/powercap"

# destination, type, source, options
_LINUX_MOUNTS = (
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),  # noqa: S108
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
    ("/run", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
)
_FREEBSD_MOUNTS = (
    ("/dev", "devfs", "devfs", "ruleset=4"),
    ("/dev/fd", "fdescfs", "fdescfs", ""),
)


@dataclass(frozen=True, slots=True)
class Release:
    """What the default spec of a containerd release depends on.

    Attributes:
        oci_version: Version of the runtime specification its Go client was built with.
        masks_powercap: Whether ``/sys/devices/virtual/powercap`` is hidden from the container.
        inheritable: Whether the default capabilities are inheritable too (until CVE-2022-24769).
    """

    oci_version: str
    masks_powercap: bool = True
    inheritable: bool = False


#: First release with these properties -> the properties, oldest first.
_RELEASES: tuple[tuple[tuple[int, int, int], Release], ...] = (
    ((0, 0, 0), Release("1.0.2-dev", masks_powercap=False, inheritable=True)),
    ((1, 6, 2), Release("1.0.2-dev", masks_powercap=False)),
    ((1, 6, 26), Release("1.0.2-dev")),
    ((1, 7, 0), Release("1.1.0-rc.1", masks_powercap=False)),
    ((1, 7, 11), Release("1.1.0-rc.1")),
    ((1, 7, 12), Release("1.1.0")),
    ((2, 0, 0), Release("1.2.0")),
    ((2, 1, 0), Release("1.2.1")),
    ((2, 2, 1), Release("1.3.0")),
)
#: Builds of distributions that were linked with another runtime-spec than the release asks for.
_REBUILDS = {"1.7.24~ds1": Release("1.2.0")}
_STATED = (2, 1, 0)
#: A build of the main branch counts as newer than every release.
_NEWEST = (sys.maxsize, 0, 0)
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


def release(version: str | None) -> Release:
    """Return what the default spec of a containerd version depends on.

    Args:
        version: As the daemon or ``ctr --version`` tells it, such as ``v2.1.9`` or ``1.7.24~ds1``. None means 2.1. A
            text without a version number, as development builds have, means the newest known.
    """
    if version in _REBUILDS:
        return _REBUILDS[version]
    number = version_number(version)
    return [found for first, found in _RELEASES if first <= number][-1]


def version_number(version: str | None) -> tuple[int, int, int]:
    """Return the numbers of a containerd version; `release` says what it may be."""
    if version is None:
        return _STATED
    if match := _VERSION.match(version):
        return int(match[1]), int(match[2]), int(match[3] or 0)
    return _NEWEST


def default_spec(
    os: str, *, namespace: str, container_id: str, version: str | None = None, utility_vm: bool = False
) -> Spec:
    """Return a new default spec, as Go's client running on that system generates it.

    Args:
        os: ``linux``, ``windows``, ``darwin`` or ``freebsd``.
        namespace: containerd's namespace, for the cgroup path.
        container_id: The container's id, for the cgroup path.
        version: containerd's version; see `release`.
        utility_vm: It is a Linux container of a Windows host: the spec gets an empty windows section as well.

    Raises:
        InvalidArgument: The namespace is empty.
    """
    of = release(version)
    if os == "windows":
        return {
            "ociVersion": of.oci_version,
            "process": _process("C:\\"),
            "root": {"path": ""},
            "windows": {},
        }
    if os == "darwin":
        return {"ociVersion": of.oci_version, "process": _process("/"), "root": {"path": ""}}
    spec = _unix(
        of, _FREEBSD_MOUNTS if os == "freebsd" else _LINUX_MOUNTS, namespaced_cgroup(namespace, container_id)
    )
    if utility_vm:
        spec["windows"] = {}
    return spec


def namespaced_cgroup(namespace: str, container_id: str) -> str:
    """Return the cgroup path ``/<namespace>/<container id>``.

    Raises:
        InvalidArgument: The namespace is empty.
    """
    if not namespace:
        raise InvalidArgument(
            "a containerd namespace is needed for the cgroup path; 'default' is the usual one"
        )
    return posixpath.normpath(posixpath.join("/", namespace, container_id))


def _process(cwd: str) -> Process:
    return {"user": {"uid": 0, "gid": 0}, "cwd": cwd}


def _mounts(table: tuple[tuple[str, str, str, str], ...]) -> list[Mount]:
    mounts: list[Mount] = []
    for destination, kind, source, options in table:
        mount: Mount = {"destination": destination, "type": kind, "source": source}
        if options:
            mount["options"] = options.split(",")
        mounts.append(mount)
    return mounts


def _unix(of: Release, mounts: tuple[tuple[str, str, str, str], ...], cgroup: str) -> Spec:
    process = _process("/")
    process["capabilities"] = {
        "bounding": list(DEFAULT_CAPABILITIES),
        "effective": list(DEFAULT_CAPABILITIES),
        "permitted": list(DEFAULT_CAPABILITIES),
    }
    if of.inheritable:
        process["capabilities"]["inheritable"] = list(DEFAULT_CAPABILITIES)
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    process["noNewPrivileges"] = True
    return {
        "ociVersion": of.oci_version,
        "process": process,
        "root": {"path": "rootfs"},
        "mounts": _mounts(mounts),
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "cgroupsPath": cgroup,
            "namespaces": [{"type": kind} for kind in DEFAULT_NAMESPACES],
            "maskedPaths": [path for path in _MASKED_PATHS if of.masks_powercap or path != _POWERCAP],
            "readonlyPaths": list(DEFAULT_READONLY_PATHS),
        },
    }
