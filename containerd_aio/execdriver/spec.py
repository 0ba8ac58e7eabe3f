"""A `Command` as an OCI runtime spec: the table, as options of the spec in order. Pure but for the look-ups of users."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from containerd_aio import oci
from containerd_aio.errors import InvalidArgument
from containerd_aio.execdriver.capabilities import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    tweak_capabilities,
)
from containerd_aio.execdriver.types import WILDCARD
from containerd_aio.oci.opts import capabilities as _capabilities

if TYPE_CHECKING:
    from containerd_aio.execdriver.types import Command, Context, Device, Mount, ProcessConfig, Resources
    from containerd_aio.oci import (
        LinuxDevice,
        LinuxDeviceCgroup,
        LinuxNamespaceType,
        Spec,
        SpecContext,
        SpecOpt,
    )
    from containerd_aio.oci import Mount as OCIMount

ANNOTATION = "org.containerd_aio.execdriver."
_STATUS = Path("/proc/self/status")
_APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


@dataclass(frozen=True, slots=True)
class Joined:
    """Namespaces of other containers to join, by path; empty for none."""

    network: str = ""
    ipc: str = ""


def spec_opts(command: Command, joined: Joined, *, apparmor: bool | None = None) -> list[SpecOpt]:
    """Return the options that make the spec of a command out of the default one.

    Args:
        command: The command.
        joined: The namespaces it joins, looked up.
        apparmor: Whether the host has AppArmor; None looks.

    Raises:
        InvalidArgument: A value can't be used; the text names it.
    """
    process = command.process_config
    opts = [
        oci.with_rootfs_path(command.rootfs),
        oci.with_process_args(*process.args),
        oci.with_process_cwd(command.working_dir or "/"),
        _plain(process),
        *_users(process.user),
        *_namespaces(command, joined),
        *_resources(command.resources),
        oci.with_mounts([_mount(mount) for mount in command.mounts]),
        *_kept(command),
    ]
    if hostname := _hostname(process.env):
        opts.append(oci.with_hostname(hostname))
    opts += _privileged(apparmor) if process.privileged else _confined(command)
    if command.apparmor_profile:
        opts.append(oci.with_apparmor_profile(command.apparmor_profile))
    return [*opts, oci.with_selinux_label(command.process_label), _mount_label(command.mount_label)]


def check(command: Command) -> None:
    """Refuse a command that can't be run.

    Raises:
        InvalidArgument: The text names what is wrong.
    """
    if not command.rootfs.startswith("/"):
        raise InvalidArgument(f"rootfs is {command.rootfs!r}; it must be an absolute directory of the host")
    if not command.process_config.entrypoint:
        raise InvalidArgument("the command has no entrypoint: nothing to run")
    interface = command.network.interface if command.network is not None else None
    if interface is not None and not shares_network(command) and not interface.ip_address:
        raise InvalidArgument("the network interface has no ip; leave interface out for a loopback alone")


def shares_network(command: Command) -> bool:
    """Return whether it has no network of its own: the host's, or that of another container."""
    network = command.network
    return network is not None and (network.host_networking or bool(network.container_id))


def _plain(process: ProcessConfig) -> SpecOpt:
    def opt(_: SpecContext, spec: Spec) -> None:
        section = spec["process"]
        section["env"] = list(process.env)
        section["terminal"] = process.tty
        # Docker 1.4 set neither: set-user-id programs worked, and limits were those of the daemon.
        section.pop("noNewPrivileges", None)
        section.pop("rlimits", None)

    return opt


def _users(user: str) -> list[SpecOpt]:
    who = user or "root"
    name = who.partition(":")[0]
    return [oci.with_user(user or "0:0"), oci.with_additional_gids(name)]


def _hostname(env: Sequence[str]) -> str:
    return next((value for name, _, value in (each.partition("=") for each in env) if name == "HOSTNAME"), "")


def _namespaces(command: Command, joined: Joined) -> list[SpecOpt]:
    opts: list[SpecOpt] = []
    network, ipc = command.network, command.ipc
    wanted: list[tuple[LinuxNamespaceType, bool, str]] = [
        ("network", network is not None and network.host_networking, joined.network),
        ("ipc", ipc is not None and ipc.host_ipc, joined.ipc),
    ]
    for kind, of_host, path in wanted:
        if of_host:
            opts.append(oci.with_host_namespace(kind))
        elif path:
            opts.append(oci.with_linux_namespace(kind, path))
    return opts


def _resources(limits: Resources | None) -> list[SpecOpt]:
    if limits is None:
        return []
    opts: list[SpecOpt] = []
    if limits.memory:
        opts += [oci.with_memory_limit(limits.memory), _memory_reservation(limits.memory)]
    if limits.memory_swap:
        opts.append(oci.with_memory_swap(limits.memory_swap))
    if limits.cpu_shares:
        opts.append(oci.with_cpu_shares(limits.cpu_shares))
    if limits.cpuset:
        opts.append(oci.with_cpus(limits.cpuset))
    return opts


def _memory_reservation(memory: int) -> SpecOpt:
    def opt(_: SpecContext, spec: Spec) -> None:
        spec["linux"]["resources"]["memory"]["reservation"] = memory

    return opt


def _mount(mount: Mount) -> OCIMount:
    flags = [("ro", not mount.writable), ("rprivate", mount.private), ("rslave", mount.slave)]
    options = ["rbind", *(name for name, wanted in flags if wanted)]
    return {"destination": mount.destination, "type": "bind", "source": mount.source, "options": options}


def _kept(command: Command) -> list[SpecOpt]:
    """What containerd has no use for, kept to be found again."""
    kept: Context = {"init_path": command.init_path, "config_path": command.config_path}
    if command.lxc_config:
        kept["lxc_config"] = json.dumps(command.lxc_config)
    return [oci.with_annotations({ANNOTATION + name: value for name, value in kept.items() if value})]


def _privileged(apparmor: bool | None) -> list[SpecOpt]:
    opts = [
        oci.with_capabilities(current_capabilities()),
        oci.with_all_devices_allowed(),
        oci.with_host_devices(),
        oci.with_masked_paths(()),
        oci.with_readonly_paths(()),
        oci.with_writeable_sysfs(),
    ]
    if _has_apparmor() if apparmor is None else apparmor:
        opts.append(oci.with_apparmor_profile("unconfined"))
    return opts


def current_capabilities() -> list[str]:
    """Return those of Docker's capabilities that this process has: more can't be given, and runc would refuse."""
    every = {f"CAP_{name}" for name in ALL_CAPABILITIES}
    return [name for name in _capabilities.current_capabilities(_STATUS.read_text()) if name in every]


def _has_apparmor() -> bool:
    try:
        return _APPARMOR.read_text().startswith("Y")
    except OSError:
        return False


def _confined(command: Command) -> list[SpecOpt]:
    held = tweak_capabilities(DEFAULT_CAPABILITIES, command.cap_add, command.cap_drop)
    opts = [
        oci.with_capabilities([f"CAP_{name}" for name in held]),
        _device_rules(command.allowed_devices),
    ]
    if command.auto_created_devices:
        opts.append(oci.with_linux_devices([_node(device) for device in command.auto_created_devices]))
    return opts


def _device_rules(devices: Sequence[Device]) -> SpecOpt:
    rules: list[LinuxDeviceCgroup] = [_rule(device) for device in devices]

    def opt(_: SpecContext, spec: Spec) -> None:
        deny: LinuxDeviceCgroup = {"allow": False, "access": "rwm"}
        spec["linux"].setdefault("resources", {})["devices"] = [deny, *(rule.copy() for rule in rules)]

    return opt


def _rule(device: Device) -> LinuxDeviceCgroup:
    if device.type not in {"a", "b", "c"}:
        raise InvalidArgument(f"the type of an allowed device is {device.type!r}; it must be a, b or c")
    rule: LinuxDeviceCgroup = {
        "allow": True,
        "type": device.type,
        "access": device.permissions or "rwm",
    }
    if device.major != WILDCARD:
        rule["major"] = device.major
    if device.minor != WILDCARD:
        rule["minor"] = device.minor
    return rule


def _node(device: Device) -> LinuxDevice:
    if not device.path.startswith("/"):
        raise InvalidArgument(f"the path of a device is {device.path!r}; it must be absolute")
    return {
        "path": device.path,
        "type": device.type,
        "major": device.major,
        "minor": device.minor,
        "fileMode": stat.S_IMODE(device.file_mode),
        "uid": device.uid,
        "gid": device.gid,
    }


def _mount_label(label: str) -> SpecOpt:
    def opt(_: SpecContext, spec: Spec) -> None:
        if label:
            spec["linux"]["mountLabel"] = label

    return opt


def exec_process(
    container: Spec, config: ProcessConfig, ids: tuple[int, int, list[int]] | None
) -> oci.Process:
    """Return the OCI process of an exec: the container's, but for what the config says.

    Args:
        container: The container's spec.
        config: The exec.
        ids: uid, gid and further groups of its user; None leaves the container's.

    Raises:
        InvalidArgument: It has no entrypoint.
    """
    if not config.entrypoint:
        raise InvalidArgument("the exec has no entrypoint: nothing to run")
    process = container["process"].copy()
    process["args"] = config.args
    process["terminal"] = config.tty
    if config.env:
        process["env"] = list(config.env)
    if ids is not None:
        process["user"] = {"uid": ids[0], "gid": ids[1], "additionalGids": ids[2]}
    if config.privileged:
        held = current_capabilities()
        process["capabilities"] = {"bounding": held, "effective": held, "permitted": held}
    return process
