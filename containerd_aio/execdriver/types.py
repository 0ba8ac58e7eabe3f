"""The structs of Docker's execdriver (1.4), with its JSON names both ways."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from containerd_aio.errors import InvalidArgument
from containerd_aio.execdriver import _json
from containerd_aio.execdriver._json import named

if TYPE_CHECKING:
    from containerd_aio.execdriver.terminal import Terminal
    from containerd_aio.stdio.creators import IOCreator

Context: TypeAlias = dict[str, str]
"""Any pairs of strings."""

WILDCARD = -1
"""A device number that stands for all."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a container ended.

    Attributes:
        exit_code: Its exit code, 128 + N after signal N; -1 if it was never started.
        oom_killed: The kernel killed a process in it for lack of memory; not necessarily the first one.
    """

    exit_code: int
    oom_killed: bool = False


@dataclass(slots=True, kw_only=True)
class NetworkInterface:
    """An interface that is bridged to the host's network.

    Attributes:
        gateway: Address of the gateway, which the bridge gets; empty for none.
        ip_address: Address of the container; JSON ``ip``.
        ip_prefix_len: Bits of the network's prefix.
        mac_address: Hardware address; empty for one the kernel chooses.
        bridge: Name of the host's bridge, made if it is not there.
    """

    gateway: str = ""
    ip_address: str = field(metadata=named("ip"), default="")
    ip_prefix_len: int = 0
    mac_address: str = ""
    bridge: str = ""


@dataclass(slots=True, kw_only=True)
class Network:
    """The network of a container: a loopback alone when nothing is set.

    Attributes:
        interface: A bridged interface; None for none.
        mtu: Its MTU, in bytes; 0 for the default.
        container_id: Join the network of this container, which must run.
        host_networking: Use the host's network; it wins over the others.
    """

    interface: NetworkInterface | None = None
    mtu: int = 0
    container_id: str = ""
    host_networking: bool = False


@dataclass(slots=True, kw_only=True)
class Ipc:
    """System V IPC and POSIX message queues of a container: its own when nothing is set.

    Attributes:
        container_id: Join that of this container, which must run.
        host_ipc: Use the host's; it wins.
    """

    container_id: str = ""
    host_ipc: bool = False


@dataclass(slots=True, kw_only=True)
class Resources:
    """Limits. 0 and an empty text mean that none is set.

    Attributes:
        memory: Bytes; the limit and the reservation.
        memory_swap: Bytes of memory and swap together; -1 for no limit.
        cpu_shares: Relative weight.
        cpuset: CPUs, such as ``0-2,7``.
    """

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpuset: str = ""


@dataclass(slots=True, kw_only=True)
class Mount:
    """A directory or file of the host in the container.

    Attributes:
        source: On the host.
        destination: In the container.
        writable: Whether the container may write to it.
        private: Mounts below are not shared with the host (``rprivate``).
        slave: Mounts the host makes below are seen in the container (``rslave``).
    """

    source: str = ""
    destination: str = ""
    writable: bool = False
    private: bool = False
    slave: bool = False


@dataclass(slots=True, kw_only=True)
class Device:
    """A device, or a rule for some (libcontainer: devices.Device).

    Attributes:
        type: ``c``, ``b``, or ``a`` for all; in JSON its code, as a rune of Go is.
        path: Of the node in the container; may be empty in a rule.
        major: Major number, or `WILDCARD`; JSON ``major_number``.
        minor: Minor number, or `WILDCARD`; JSON ``minor_number``.
        permissions: Of ``r``, ``w`` and ``m``; JSON ``cgroup_permissions``.
        file_mode: Mode of the node; bits of its type don't matter.
        uid: Owner of the node.
        gid: Group of the node.
    """

    type: str = ""
    path: str = ""
    major: int = 0
    minor: int = 0
    permissions: str = ""
    file_mode: int = 0
    uid: int = 0
    gid: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return libcontainer's JSON: what is zero is left out."""
        values = {
            "type": ord(self.type) if self.type else 0,
            "path": self.path,
            "major_number": self.major,
            "minor_number": self.minor,
            "cgroup_permissions": self.permissions,
            "file_mode": self.file_mode,
            "uid": self.uid,
            "gid": self.gid,
        }
        return {name: value for name, value in values.items() if value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read libcontainer's JSON.

        Raises:
            InvalidArgument: It is not that.
        """
        if not isinstance(value, Mapping):
            raise InvalidArgument(f"a device must be an object, not {value!r}")
        try:
            return cls(
                type=chr(value["type"]) if value.get("type") else "",
                path=str(value.get("path", "")),
                major=int(value.get("major_number", 0)),
                minor=int(value.get("minor_number", 0)),
                permissions=str(value.get("cgroup_permissions", "")),
                file_mode=int(value.get("file_mode", 0)),
                uid=int(value.get("uid", 0)),
                gid=int(value.get("gid", 0)),
            )
        except (TypeError, ValueError, OverflowError) as exc:
            raise InvalidArgument(f"{dict(value)!r} is not a device: {exc}") from exc


@dataclass(slots=True, kw_only=True)
class ProcessConfig:
    """A process to run in a container.

    Attributes:
        privileged: All capabilities that this process has, all devices, no hidden paths.
        user: ``user``, ``uid``, ``user:group`` and the like; empty for root.
        tty: Whether it has a terminal.
        entrypoint: The program.
        arguments: Its arguments.
        env: Its environment, ``NAME=value``. Not in JSON, as it is part of Go's ``exec.Cmd``. ``HOSTNAME=`` also sets
            the container's host name.
        terminal: What the driver made of its pipes. Set by the driver.
        console: Path of its console; empty, for containerd's shim holds it.
        pid: Its pid on the host; 0 before it runs. Set by the driver.
        io: How its standard streams are wired. Set by the terminal.
    """

    privileged: bool = False
    user: str = ""
    tty: bool = False
    entrypoint: str = ""
    arguments: list[str] = field(default_factory=list)
    env: list[str] = field(metadata=named(""), default_factory=list)
    terminal: Terminal | None = field(metadata=named(""), default=None, compare=False, repr=False)
    console: str = field(metadata=named(""), default="")
    pid: int = field(metadata=named(""), default=0)
    io: IOCreator | None = field(metadata=named(""), default=None, compare=False, repr=False)

    @property
    def args(self) -> list[str]:
        """The program and its arguments."""
        return [self.entrypoint, *self.arguments]

    def to_json(self) -> dict[str, Any]:
        """Return Docker's JSON."""
        return _json.to_json(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read Docker's JSON.

        Raises:
            InvalidArgument: It is not that; the text names the field.
        """
        return _json.from_json(cls, value)


@dataclass(slots=True, kw_only=True)
class Command:
    """A container to run.

    Attributes:
        id: Its id.
        rootfs: Directory of the host that is its root filesystem.
        init_path: Docker's init program; kept as an annotation, as containerd needs none. JSON ``initpath``.
        working_dir: Working directory; empty for ``/``.
        config_path: Kept as an annotation.
        network: Its network; None for a loopback alone.
        ipc: Its IPC; None for its own.
        resources: Its limits; None for none.
        mounts: Directories of the host in it.
        allowed_devices: Devices it may use.
        auto_created_devices: Device nodes made in it. JSON ``autocreated_devices``.
        cap_add: Capabilities to add, without ``CAP_``; see `tweak_capabilities`.
        cap_drop: Capabilities to take away.
        container_pid: Pid of its process on the host. Set by the driver.
        process_config: Its process.
        process_label: SELinux label of the process.
        mount_label: SELinux label of the mounts.
        lxc_config: Lines for LXC; kept as an annotation, with a warning.
        apparmor_profile: AppArmor profile of the process.
    """

    id: str
    rootfs: str = ""
    init_path: str = field(metadata=named("initpath"), default="")
    working_dir: str = ""
    config_path: str = ""
    network: Network | None = None
    ipc: Ipc | None = None
    resources: Resources | None = None
    mounts: list[Mount] = field(default_factory=list)
    allowed_devices: list[Device] = field(default_factory=list)
    auto_created_devices: list[Device] = field(metadata=named("autocreated_devices"), default_factory=list)
    cap_add: list[str] = field(default_factory=list)
    cap_drop: list[str] = field(default_factory=list)
    container_pid: int = 0
    process_config: ProcessConfig = field(default_factory=ProcessConfig)
    process_label: str = ""
    mount_label: str = ""
    lxc_config: list[str] = field(default_factory=list)
    apparmor_profile: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return Docker's JSON object, its fields in Docker's order."""
        return _json.to_json(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any] | str | bytes) -> Self:
        """Read Docker's JSON: an object, or its text.

        Raises:
            InvalidArgument: It is not that; the text names the field.
        """
        if isinstance(value, str | bytes):
            try:
                value = json.loads(value)
            except ValueError as exc:
                raise InvalidArgument(f"not a Command: {exc}") from exc
        return _json.from_json(cls, value)


StartCallback: TypeAlias = Callable[[ProcessConfig, int], Awaitable[object] | object]
"""Called once when the process runs, with its config and its pid on the host; may be async."""
