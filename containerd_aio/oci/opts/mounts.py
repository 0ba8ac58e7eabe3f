"""Options for the root filesystem and the mounts."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from copy import deepcopy
from typing import Literal, get_args

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import linux, mounts, root
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.errors import NoShmMount
from containerd_aio.oci.types import Mount, Spec

RootfsPropagation = Literal["private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable"]


def with_rootfs_path(path: str) -> SpecOpt:
    """Use a directory of the host as root filesystem, instead of a snapshot (Go: WithRootFSPath).

    Raises:
        InvalidArgument: Empty. (A relative path is relative to the bundle.)
    """
    check.text("path", path, empty=False)

    def opt(_: SpecContext, spec: Spec) -> None:
        root(spec)["path"] = path

    return opt


def with_rootfs_readonly() -> SpecOpt:
    """Make the root filesystem read-only (Go: WithRootFSReadonly)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        root(spec)["readonly"] = True

    return opt


def with_rootfs_propagation(propagation: RootfsPropagation) -> SpecOpt:
    """Set how mounts made under the root filesystem are shared with the host (``linux.rootfsPropagation``).

    No function of the Go client: there the field is set directly. A bind mount with ``rshared`` or ``rslave`` needs it.

    Args:
        propagation: ``rprivate``, ``rslave``, ``rshared``, the same without ``r``, or ``unbindable``. runc refuses
            ``runbindable``; without any it is as ``rslave``.

    Raises:
        InvalidArgument: None of these.
    """
    check.one_of("propagation", propagation, get_args(RootfsPropagation))

    def opt(_: SpecContext, spec: Spec) -> None:
        linux(spec)["rootfsPropagation"] = propagation

    return opt


def with_mounts(added: Iterable[Mount]) -> SpecOpt:
    """Append mounts (Go: WithMounts).

    Args:
        added: Such as ``{"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]}``.

    Raises:
        InvalidArgument: A mount without an absolute destination.
    """
    given = [_mount(at, each) for at, each in enumerate(added)]

    def opt(_: SpecContext, spec: Spec) -> None:
        mounts(spec).extend(deepcopy(given))

    return opt


def _mount(at: int, mount: Mount) -> Mount:
    if not isinstance(mount, dict):
        raise InvalidArgument(f"mounts[{at}] must be a dict with a destination, not {mount!r}")
    check.absolute(f"the destination of mounts[{at}]", mount.get("destination", ""))
    if "options" in mount:
        check.texts(f"the options of mounts[{at}]", mount["options"])
    return deepcopy(mount)


def without_mounts(*destinations: str) -> SpecOpt:
    """Remove the mounts on these destinations; absent ones don't matter (Go: WithoutMounts)."""
    dropped = set(check.texts("destinations", destinations))

    def opt(_: SpecContext, spec: Spec) -> None:
        if "mounts" in spec:
            spec["mounts"] = [
                each
                for each in spec["mounts"]
                if posixpath.normpath(each.get("destination", "")) not in dropped
            ]

    return opt


def without_run_mount() -> SpecOpt:
    """Remove the tmpfs on ``/run`` (Go: WithoutRunMount)."""
    return without_mounts("/run")


def with_dev_shm_size(kb: int) -> SpecOpt:
    """Set the size of ``/dev/shm`` (Go: WithDevShmSize).

    Args:
        kb: Size in KiB. The default spec has 65536.

    Raises:
        InvalidArgument: Below 1.
        NoShmMount: When applied: the spec has no tmpfs there.
    """
    check.integer("kb", kb, least=1, unit="KiB")

    def opt(_: SpecContext, spec: Spec) -> None:
        for mount in spec.get("mounts", ()):
            where = posixpath.normpath(mount.get("destination", ""))
            if (where, mount.get("type"), mount.get("source")) == ("/dev/shm", "tmpfs", "shm"):  # noqa: S108
                kept = [option for option in mount.get("options", ()) if not option.startswith("size=")]
                mount["options"] = [*kept, f"size={kb}k"]
                return
        raise NoShmMount(
            "the spec has no tmpfs 'shm' on /dev/shm; add one with with_mounts, its size among the options"
        )

    return opt


def _host_file(path: str) -> SpecOpt:
    return with_mounts([{"destination": path, "type": "bind", "source": path, "options": ["rbind", "ro"]}])


def with_host_hosts_file() -> SpecOpt:
    """Bind the host's ``/etc/hosts`` into the container, read-only (Go: WithHostHostsFile)."""
    return _host_file("/etc/hosts")


def with_host_resolvconf() -> SpecOpt:
    """Bind the host's ``/etc/resolv.conf`` into the container, read-only (Go: WithHostResolvconf)."""
    return _host_file("/etc/resolv.conf")


def with_host_localtime() -> SpecOpt:
    """Bind the host's ``/etc/localtime`` into the container, read-only (Go: WithHostLocaltime)."""
    return _host_file("/etc/localtime")


def _writeable(kind: str) -> SpecOpt:
    def opt(_: SpecContext, spec: Spec) -> None:
        for mount in spec.get("mounts", ()):
            if mount.get("type") == kind and "options" in mount:
                mount["options"] = ["rw" if option == "ro" else option for option in mount["options"]]

    return opt


def with_writeable_sysfs() -> SpecOpt:
    """Make sysfs mounts writeable (Go: WithWriteableSysfs)."""
    return _writeable("sysfs")


def with_writeable_cgroupfs() -> SpecOpt:
    """Make cgroup mounts writeable (Go: WithWriteableCgroupfs)."""
    return _writeable("cgroup")
