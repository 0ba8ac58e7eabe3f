"""What containerd reads from the cgroup of a task where the machine has cgroups of version 2.

The names are containerd's (``io.containerd.cgroups.v2``), the numbers the kernel's: bytes, counts, microseconds. What a
machine does not measure is None, empty or 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from containerd_aio.metrics.cgroup1 import RDMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Pressure:
    """How much of the time something was waited for (PSI), in percent of the last seconds.

    Attributes:
        avg10: Over 10 seconds.
        avg60: Over 60 seconds.
        avg300: Over 300 seconds.
        total: Microseconds since the start.
    """

    avg10: float = 0.0
    avg60: float = 0.0
    avg300: float = 0.0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PSI:
    """Pressure stall information of one resource (containerd 1.7 and later).

    Attributes:
        some: At least one process waited.
        full: All waited at once.
    """

    some: Pressure | None = None
    full: Pressure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CPU:
    """``cpu.stat``: times in microseconds, since the start.

    Attributes:
        usage_usec: CPU time.
        user_usec: Of these, in user space.
        system_usec: Of these, in the kernel.
        nr_periods: Periods of the quota that have passed.
        nr_throttled: Of these, how many used the quota up.
        throttled_usec: Time spent waiting for the next period.
        psi: Pressure.
    """

    usage_usec: int = 0
    user_usec: int = 0
    system_usec: int = 0
    nr_periods: int = 0
    nr_throttled: int = 0
    throttled_usec: int = 0
    psi: PSI | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory controller: the fields of ``memory.stat`` under their names, in bytes or counts of pages.

    Attributes:
        usage: Bytes now.
        usage_limit: Bytes at most; a huge number for no limit.
        swap_usage: Bytes of swap now.
        swap_limit: Bytes of swap at most.
        max_usage: Most bytes ever, where the kernel tells.
        swap_max_usage: Most bytes of swap ever, where the kernel tells.
        psi: Pressure.
    """

    anon: int = 0
    file: int = 0
    kernel_stack: int = 0
    slab: int = 0
    sock: int = 0
    shmem: int = 0
    file_mapped: int = 0
    file_dirty: int = 0
    file_writeback: int = 0
    anon_thp: int = 0
    inactive_anon: int = 0
    active_anon: int = 0
    inactive_file: int = 0
    active_file: int = 0
    unevictable: int = 0
    slab_reclaimable: int = 0
    slab_unreclaimable: int = 0
    pgfault: int = 0
    pgmajfault: int = 0
    workingset_refault: int = 0
    workingset_activate: int = 0
    workingset_nodereclaim: int = 0
    pgrefill: int = 0
    pgscan: int = 0
    pgsteal: int = 0
    pgactivate: int = 0
    pgdeactivate: int = 0
    pglazyfree: int = 0
    pglazyfreed: int = 0
    thp_fault_alloc: int = 0
    thp_collapse_alloc: int = 0
    usage: int = 0
    usage_limit: int = 0
    swap_usage: int = 0
    swap_limit: int = 0
    max_usage: int = 0
    swap_max_usage: int = 0
    psi: PSI | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvents:
    """``memory.events``: how often a limit mattered.

    Attributes:
        low: Reclaimed although below ``memory.low``.
        high: Held back at ``memory.high``.
        max: Went to ``memory.max``.
        oom: Could not get memory.
        oom_kill: Processes that the OOM killer killed.
    """

    low: int = 0
    high: int = 0
    max: int = 0
    oom: int = 0
    oom_kill: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pids:
    """The number of processes and threads.

    Attributes:
        current: Now.
        limit: At most; 0 for no limit.
    """

    current: int = 0
    limit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IOEntry:
    """``io.stat`` of one block device.

    Attributes:
        major: Its major number.
        minor: Its minor number.
        rbytes: Bytes read.
        wbytes: Bytes written.
        rios: Reads.
        wios: Writes.
    """

    major: int = 0
    minor: int = 0
    rbytes: int = 0
    wbytes: int = 0
    rios: int = 0
    wios: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IO:
    """The I/O controller.

    Attributes:
        usage: The devices.
        psi: Pressure.
    """

    usage: tuple[IOEntry, ...] = ()
    psi: PSI | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HugeTLB:
    """Huge pages of one size.

    Attributes:
        current: Bytes now.
        max: Bytes at most.
        pagesize: The size, such as ``2MB``.
    """

    current: int = 0
    max: int = 0
    pagesize: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup2Metrics:
    """The metrics of a task in a cgroup of version 2 (``io.containerd.cgroups.v2.Metrics``).

    Attributes:
        pids: Processes and threads.
        cpu: CPU time.
        memory: Memory.
        rdma: RDMA.
        io: Block devices.
        hugetlb: Huge pages, by size.
        memory_events: What happened at the limits.
    """

    pids: Pids | None = None
    cpu: CPU | None = None
    memory: Memory | None = None
    rdma: RDMA | None = None
    io: IO | None = None
    hugetlb: tuple[HugeTLB, ...] = ()
    memory_events: MemoryEvents | None = None
