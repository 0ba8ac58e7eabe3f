"""Options for devices: the nodes in the container's ``/dev``, and the rules of the device cgroup."""

from __future__ import annotations

import os
from collections.abc import Iterable
from copy import deepcopy

import anyio.to_thread

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import device_rules, linux, resources
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.devices import device_from_path, devices_below, host_devices
from containerd_aio.oci.encoding import to_json
from containerd_aio.oci.types import Linux, LinuxDevice, LinuxDeviceCgroup, Spec

#: Character devices `with_default_unix_devices` allows; None is every minor.
_DEFAULT_UNIX_DEVICES: tuple[tuple[int, int | None], ...] = (
    (1, 3),  # null
    (1, 8),  # random
    (1, 7),  # full
    (5, 0),  # tty
    (1, 5),  # zero
    (1, 9),  # urandom
    (5, 1),  # console
    (136, None),  # pts/*
    (5, 2),  # ptmx
)


def _access(permissions: str) -> str:
    given = check.text("permissions", permissions)
    if not given or set(given) - set("rwm") or len(set(given)) != len(given):
        raise InvalidArgument(
            f"permissions is {given!r}; combine r (read), w (write) and m (mknod), such as 'rwm'"
        )
    return given


def with_parent_cgroup_devices() -> SpecOpt:
    """Have no device rules of its own: what the parent cgroup allows holds (Go: WithParentCgroupDevices)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        resources(spec).pop("devices", None)

    return opt


def with_all_devices_allowed() -> SpecOpt:
    """Allow every device, in place of all rules (Go: WithAllDevicesAllowed). It makes no nodes."""

    def opt(_: SpecContext, spec: Spec) -> None:
        resources(spec)["devices"] = [{"allow": True, "access": "rwm"}]

    return opt


def with_default_unix_devices() -> SpecOpt:
    """Allow null, zero, full, random, urandom, tty, console, ptmx and pts (Go: WithDefaultUnixDevices).

    ``ctr run`` starts from the default spec with this option; the default spec alone denies every device, and the
    runtime's own defaults apply.
    """

    def opt(_: SpecContext, spec: Spec) -> None:
        rules = device_rules(spec)
        for major, minor in _DEFAULT_UNIX_DEVICES:
            rule: LinuxDeviceCgroup = {"allow": True, "type": "c", "major": major}
            if minor is not None:
                rule["minor"] = minor
            rule["access"] = "rwm"
            rules.append(rule)

    return opt


def with_linux_devices(devices: Iterable[LinuxDevice]) -> SpecOpt:
    """Add device nodes, without rules that allow them (Go: WithLinuxDevices).

    Raises:
        InvalidArgument: One is not a `LinuxDevice`. The text names the field.
    """
    given = deepcopy(list(devices))
    for at, device in enumerate(given):
        if not isinstance(device, dict) or not device.keys() >= {"path", "type", "major", "minor"}:
            raise InvalidArgument(f"devices[{at}] is {device!r}; it needs path, type, major and minor")
        check.absolute(f"the path of devices[{at}]", device["path"])
    to_json({"devices": given}, kind=Linux)

    def opt(_: SpecContext, spec: Spec) -> None:
        linux(spec).setdefault("devices", []).extend(deepcopy(given))

    return opt


def _add(spec: Spec, devices: Iterable[LinuxDevice], permissions: str) -> None:
    nodes, rules = linux(spec).setdefault("devices", []), device_rules(spec)
    for device in devices:
        nodes.append(device)
        rules.append(
            {
                "allow": True,
                "type": device["type"],
                "major": device["major"],
                "minor": device["minor"],
                "access": permissions,
            }
        )


def with_linux_device(path: str, permissions: str) -> SpecOpt:
    """Add a device of the host, and a rule that allows it (Go: WithLinuxDevice).

    Args:
        path: Such as ``/dev/fuse``; looked at when the option is applied, symlinks not being followed.
        permissions: Of r (read), w (write) and m (mknod).

    Raises:
        InvalidArgument: A relative path, or other permissions.
        NotFound: When applied: there is nothing.
        NotADevice: When applied: it is something else.
    """
    check.absolute("path", path)
    access = _access(permissions)

    async def opt(_: SpecContext, spec: Spec) -> None:
        _add(spec, [await anyio.to_thread.run_sync(device_from_path, path)], access)

    return opt


def with_linux_device_follow_symlinks(path: str, permissions: str) -> SpecOpt:
    """Do as `with_linux_device`, with the device a symlink leads to (Go: WithLinuxDeviceFollowSymlinks).

    Raises:
        InvalidArgument: As `with_linux_device`.
        NotFound: As `with_linux_device`.
        NotADevice: As `with_linux_device`.
    """
    check.absolute("path", path)
    access = _access(permissions)

    async def opt(_: SpecContext, spec: Spec) -> None:
        found = await anyio.to_thread.run_sync(lambda: device_from_path(os.path.realpath(path)))
        _add(spec, [found], access)

    return opt


def with_devices(path: str, container_path: str = "", permissions: str = "rwm") -> SpecOpt:
    """Add a device of the host, or all below a directory, and rules that allow them (Go: WithDevices).

    Args:
        path: Device or directory; looked at when the option is applied.
        container_path: Where they shall be in the container; empty means the same place.
        permissions: Of r (read), w (write) and m (mknod).

    Raises:
        InvalidArgument: A relative path, or other permissions.
        NotFound: When applied: there is nothing.
        NotADevice: When applied: it is something else.
    """
    check.absolute("path", path)
    if container_path:
        check.absolute("container_path", container_path)
    access = _access(permissions)

    async def opt(_: SpecContext, spec: Spec) -> None:
        _add(spec, await anyio.to_thread.run_sync(devices_below, path, container_path), access)

    return opt


def with_host_devices() -> SpecOpt:
    """Add every device node below ``/dev``, without rules that allow them (Go: WithHostDevices).

    Raises:
        InvalidArgument: When applied: ``/dev`` can't be read.
    """

    async def opt(_: SpecContext, spec: Spec) -> None:
        found = await anyio.to_thread.run_sync(host_devices)
        linux(spec).setdefault("devices", []).extend(found)

    return opt
