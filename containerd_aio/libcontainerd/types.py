"""The values that go into libcontainerd's calls and come out of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from containerd_aio.errors import InvalidArgument
from containerd_aio.events.timestamps import to_datetime, to_ns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from containerd_aio.oci.types import LinuxCapabilities, LinuxCPU, LinuxMemory, LinuxResources
    from containerd_aio.oci.types import Process as OCIProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Who a process runs as (the OCI spec's user).

    Attributes:
        uid: User id.
        gid: Group id.
        additional_gids: Other groups.
        username: Name of the user, on Windows.
    """

    uid: int = 0
    gid: int = 0
    additional_gids: Sequence[int] = ()
    username: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process to add to a container: what is not given is as in the container's own process.

    Attributes:
        args: The command.
        terminal: Whether it gets a terminal; never taken from the container.
        env: Environment, ``NAME=value``; empty means that of the container.
        cwd: Working directory.
        user: Who it runs as.
        capabilities: Capabilities, such as ``CAP_KILL``: the bounding, effective and permitted set. None means those of
            the container, an empty one none.
    """

    args: Sequence[str]
    terminal: bool = False
    env: Sequence[str] = ()
    cwd: str = ""
    user: User | None = None
    capabilities: Sequence[str] | None = None

    def to_oci(self, base: OCIProcess) -> dict[str, Any]:
        """Return the OCI process: `base`, the container's own, with what is given here.

        Raises:
            InvalidArgument: There is no command.
        """
        if not self.args or isinstance(self.args, str | bytes):
            raise InvalidArgument(
                f"args is a list of strings with at least a program in it, not {self.args!r}"
            )
        process: dict[str, Any] = dict(base)
        process |= {"args": list(self.args), "terminal": self.terminal}
        if self.env:
            process["env"] = list(self.env)
        if self.cwd:
            process["cwd"] = self.cwd
        if self.user is not None:
            user: dict[str, Any] = {"uid": self.user.uid, "gid": self.user.gid}
            if self.user.additional_gids:
                user["additionalGids"] = list(self.user.additional_gids)
            if self.user.username:
                user["username"] = self.user.username
            process["user"] = user
        if self.capabilities is not None:
            names = list(self.capabilities)
            capabilities: LinuxCapabilities = {"bounding": names, "effective": names, "permitted": names}
            process["capabilities"] = capabilities
        return process


@dataclass(frozen=True, slots=True)
class Stats:
    """What a container uses, by its cgroup.

    Attributes:
        read: When it was measured.
        memory_usage: Bytes in use; None when the controller is not mounted.
        memory_limit: The limit in bytes; None when there is none, or no controller.
        cpu_usage_ns: CPU time used so far, nanoseconds.
        pids: Number of processes and threads.
        oom_kills: How often the kernel has killed in it for lack of memory.
        raw: The message: ``io.containerd.cgroups.v1.Metrics`` or ``v2``.
    """

    read: datetime | None
    memory_usage: int | None
    memory_limit: int | None
    cpu_usage_ns: int | None
    pids: int | None
    oom_kills: int | None
    raw: Any = field(repr=False)

    @classmethod
    def from_raw(cls, timestamp: Any, raw: Any) -> Self:
        """Read a metric of either cgroup version."""
        memory, cpu, pids = raw.memory, raw.cpu, raw.pids
        if hasattr(raw, "memory_oom_control"):  # v1
            entry = memory.usage if memory else None
            usage, limit = (entry.usage, entry.limit) if entry else (None, None)
            cpu_ns = cpu.usage.total if cpu and cpu.usage else None
            oom = raw.memory_oom_control
        else:
            usage, limit = (memory.usage, memory.usage_limit) if memory else (None, None)
            cpu_ns = cpu.usage_usec * 1000 if cpu else None
            oom = raw.memory_events
        return cls(
            read=to_datetime(to_ns(timestamp.seconds, timestamp.nanos)) if timestamp else None,
            memory_usage=usage,
            # Without a limit the kernel says the largest number of pages, or the largest number.
            memory_limit=limit if limit is not None and limit < 1 << 62 else None,
            cpu_usage_ns=cpu_ns,
            pids=pids.current if pids else None,
            oom_kills=oom.oom_kill if oom else None,
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A process of a container.

    Attributes:
        pid: Host pid.
        command: Its command line. Of processes that were restored, those execs are left out that others added.
    """

    pid: int
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Limits of a container that runs; None leaves one as it is (Go: containerd 0.2's ``UpdateResource``).

    Attributes:
        blkio_weight: Relative weight of block I/O, 10-1000.
        cpu_shares: Relative weight of CPU time.
        cpu_period: Length of a CPU period, microseconds.
        cpu_quota: CPU time per period, microseconds; -1 for no limit.
        cpuset_cpus: CPUs it may use, such as ``0-2,7``.
        cpuset_mems: Memory nodes it may use.
        memory_limit: Bytes of memory; -1 for no limit.
        memory_swap: Bytes of memory and swap together; -1 for no limit.
        memory_reservation: Soft limit, bytes.
        kernel_memory_limit: Bytes of kernel memory; cgroup v1 on old kernels.
        pids_limit: Number of processes and threads; -1 for no limit. (Docker had none of these here.)
    """

    blkio_weight: int | None = None
    cpu_shares: int | None = None
    cpu_period: int | None = None
    cpu_quota: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    memory_limit: int | None = None
    memory_swap: int | None = None
    memory_reservation: int | None = None
    kernel_memory_limit: int | None = None
    pids_limit: int | None = None

    def to_oci(self) -> LinuxResources:
        """Return them as the OCI spec has them, with only what is given."""
        cpu = {
            "shares": self.cpu_shares,
            "period": self.cpu_period,
            "quota": self.cpu_quota,
            "cpus": self.cpuset_cpus,
            "mems": self.cpuset_mems,
        }
        memory = {
            "limit": self.memory_limit,
            "swap": self.memory_swap,
            "reservation": self.memory_reservation,
            "kernel": self.kernel_memory_limit,
        }
        resources: LinuxResources = {}
        if given_cpu := _given(cpu):
            typed_cpu: LinuxCPU = given_cpu  # type: ignore[assignment]
            resources["cpu"] = typed_cpu
        if given_memory := _given(memory):
            typed_memory: LinuxMemory = given_memory  # type: ignore[assignment]
            resources["memory"] = typed_memory
        if self.blkio_weight is not None:
            resources["blockIO"] = {"weight": self.blkio_weight}
        if self.pids_limit is not None:
            resources["pids"] = {"limit": self.pids_limit}
        return resources


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A saved state of a container (Go: containerd 0.2's ``Checkpoint``).

    Attributes:
        name: Its name.
        exit: Whether the container was stopped by it.
        tcp: Whether established TCP connections were saved.
        unix_sockets: Whether Unix sockets whose other end is outside were allowed.
        shell: Whether a terminal from outside was allowed.
        empty_ns: Namespaces that are made anew on restore.
        created: When it was made.
    """

    name: str
    exit: bool = False
    tcp: bool = True
    unix_sockets: bool = True
    shell: bool = False
    empty_ns: Sequence[str] = ("network",)
    created: datetime | None = None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints in a directory.

    Attributes:
        checkpoints: They, by name.
    """

    checkpoints: Sequence[Checkpoint] = ()


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """Which containerd it is.

    Attributes:
        version: Such as ``2.1.9``, as its package spells it.
        revision: The commit or package it was built from.
        major: First part of the version.
        minor: Second part.
        patch: Third part.
    """

    version: str
    revision: str
    major: int = 0
    minor: int = 0
    patch: int = 0

    @classmethod
    def parse(cls, version: str, revision: str) -> Self:
        """Split a version; parts that are not there are 0."""
        match = re.match(r"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?", version)
        parts = [int(part or 0) for part in match.groups()] if match else [0, 0, 0]
        return cls(version, revision, *parts)
