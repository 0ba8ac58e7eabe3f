"""What containerd reads from the cgroups of a task where the machine has cgroups of version 1.

The names are containerd's (``io.containerd.cgroups.v1``), the numbers the kernel's: bytes, counts, nanoseconds. What a
machine does not measure is None, empty or 0.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CPUUsage:
    """CPU time since the start.

    Attributes:
        total: Nanoseconds.
        kernel: Of these, in the kernel.
        user: Of these, in user space.
        per_cpu: Nanoseconds on each CPU; empty if they are not told apart.
    """

    total: int = 0
    kernel: int = 0
    user: int = 0
    per_cpu: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """How the CPU quota held the task back.

    Attributes:
        periods: Periods that have passed.
        throttled_periods: Of these, how many used the quota up.
        throttled_time: Nanoseconds spent waiting for the next period.
    """

    periods: int = 0
    throttled_periods: int = 0
    throttled_time: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CPU:
    """The CPU controllers.

    Attributes:
        usage: Time used.
        throttling: Time withheld.
    """

    usage: CPUUsage | None = None
    throttling: Throttle | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEntry:
    """A kind of memory that has a limit of its own.

    Attributes:
        limit: Bytes at most; a huge number for no limit.
        usage: Bytes now.
        max: Most bytes ever.
        failcnt: How often the limit was hit.
    """

    limit: int = 0
    usage: int = 0
    max: int = 0
    failcnt: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory controller: the fields of ``memory.stat`` under their names, in bytes or counts of pages.

    Attributes:
        usage: Memory.
        swap: Memory and swap together.
        kernel: Memory of the kernel.
        kernel_tcp: Buffers of TCP.
    """

    cache: int = 0
    rss: int = 0
    rss_huge: int = 0
    mapped_file: int = 0
    dirty: int = 0
    writeback: int = 0
    pg_pg_in: int = 0
    pg_pg_out: int = 0
    pg_fault: int = 0
    pg_maj_fault: int = 0
    inactive_anon: int = 0
    active_anon: int = 0
    inactive_file: int = 0
    active_file: int = 0
    unevictable: int = 0
    hierarchical_memory_limit: int = 0
    hierarchical_swap_limit: int = 0
    total_cache: int = 0
    total_rss: int = 0
    total_rss_huge: int = 0
    total_mapped_file: int = 0
    total_dirty: int = 0
    total_writeback: int = 0
    total_pg_pg_in: int = 0
    total_pg_pg_out: int = 0
    total_pg_fault: int = 0
    total_pg_maj_fault: int = 0
    total_inactive_anon: int = 0
    total_active_anon: int = 0
    total_inactive_file: int = 0
    total_active_file: int = 0
    total_unevictable: int = 0
    usage: MemoryEntry | None = None
    swap: MemoryEntry | None = None
    kernel: MemoryEntry | None = None
    kernel_tcp: MemoryEntry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOOMControl:
    """The OOM killer.

    Attributes:
        oom_kill_disable: 1 if it is switched off here.
        under_oom: 1 while processes wait for memory.
        oom_kill: How many processes it has killed.
    """

    oom_kill_disable: int = 0
    under_oom: int = 0
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
class BlkIOEntry:
    """A number about a block device.

    Attributes:
        op: Kind of operation, such as ``Read``.
        device: Path of the device.
        major: Its major number.
        minor: Its minor number.
        value: The number.
    """

    op: str = ""
    device: str = ""
    major: int = 0
    minor: int = 0
    value: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlkIO:
    """The block I/O controller: the files ``blkio.*`` under their names."""

    io_service_bytes_recursive: tuple[BlkIOEntry, ...] = ()
    io_serviced_recursive: tuple[BlkIOEntry, ...] = ()
    io_queued_recursive: tuple[BlkIOEntry, ...] = ()
    io_service_time_recursive: tuple[BlkIOEntry, ...] = ()
    io_wait_time_recursive: tuple[BlkIOEntry, ...] = ()
    io_merged_recursive: tuple[BlkIOEntry, ...] = ()
    io_time_recursive: tuple[BlkIOEntry, ...] = ()
    sectors_recursive: tuple[BlkIOEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HugeTLB:
    """Huge pages of one size.

    Attributes:
        usage: Bytes now.
        max: Most bytes ever.
        failcnt: How often the limit was hit.
        pagesize: The size, such as ``2MB``.
    """

    usage: int = 0
    max: int = 0
    failcnt: int = 0
    pagesize: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RDMAEntry:
    """RDMA resources of one device.

    Attributes:
        device: The device.
        hca_handles: Handles.
        hca_objects: Objects.
    """

    device: str = ""
    hca_handles: int = 0
    hca_objects: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RDMA:
    """The RDMA controller.

    Attributes:
        current: In use.
        limit: Allowed.
    """

    current: tuple[RDMAEntry, ...] = ()
    limit: tuple[RDMAEntry, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network interface.

    Attributes:
        name: Its name.
    """

    name: str = ""
    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupStats:
    """How many tasks of the cgroup are in which state (cgroupstats)."""

    nr_sleeping: int = 0
    nr_running: int = 0
    nr_stopped: int = 0
    nr_uninterruptible: int = 0
    nr_io_wait: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup1Metrics:
    """The metrics of a task in cgroups of version 1 (``io.containerd.cgroups.v1.Metrics``).

    Attributes:
        hugetlb: Huge pages, by size.
        pids: Processes and threads.
        cpu: CPU time.
        memory: Memory.
        blkio: Block devices.
        rdma: RDMA.
        network: Network interfaces; containerd's runc shim does not fill it.
        cgroup_stats: States of its tasks.
        memory_oom_control: The OOM killer.
    """

    hugetlb: tuple[HugeTLB, ...] = ()
    pids: Pids | None = None
    cpu: CPU | None = None
    memory: Memory | None = None
    blkio: BlkIO | None = None
    rdma: RDMA | None = None
    network: tuple[Network, ...] = ()
    cgroup_stats: CgroupStats | None = None
    memory_oom_control: MemoryOOMControl | None = None
