"""Options for cgroups: path, memory, CPU, processes, block I/O, cache and memory bandwidth.

But for `with_cgroup` and `with_memory_limit`, which also know other systems, they do nothing to a spec that has no
``linux`` section, as Go's do since 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import cpu, linux, memory, require_linux, resources
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.defaults import namespaced_cgroup
from containerd_aio.oci.encoding import to_json
from containerd_aio.oci.types import LinuxBlockIO, LinuxIntelRdt, LinuxResources, Spec

_SET = re.compile(r"[0-9]+(-[0-9]+(:[0-9]+/[0-9]+)?)?(,[0-9]+(-[0-9]+(:[0-9]+/[0-9]+)?)?)*|")


def _on_linux(change: Callable[[Spec], None]) -> SpecOpt:
    def opt(_: SpecContext, spec: Spec) -> None:
        if "linux" in spec:
            change(spec)

    return opt


def with_cgroup(path: str) -> SpecOpt:
    """Set the cgroup path (Go: WithCgroup).

    Args:
        path: For cgroupfs such as ``/jobs/7``, for systemd ``slice:prefix:name``. Empty: the runtime decides.

    Raises:
        InvalidArgument: Not a string.
    """
    check.text("path", path)

    def opt(_: SpecContext, spec: Spec) -> None:
        linux(spec)["cgroupsPath"] = path

    return opt


def with_namespaced_cgroup() -> SpecOpt:
    """Set the cgroup path to ``/<containerd namespace>/<container id>``, the default (Go: WithNamespacedCgroup).

    Raises:
        InvalidArgument: When applied: the context has no namespace.
    """

    def opt(context: SpecContext, spec: Spec) -> None:
        path = namespaced_cgroup(context.namespace, context.container_id)
        linux(spec)["cgroupsPath"] = path

    return opt


def with_memory_limit(limit: int) -> SpecOpt:
    """Set the memory limit (Go: WithMemoryLimit).

    Args:
        limit: Bytes. On Linux 0 means that none is set.

    Raises:
        InvalidArgument: Below 0 or above 2**63-1.
    """
    check.integer("limit", limit, unit="bytes")

    def opt(_: SpecContext, spec: Spec) -> None:
        if "linux" in spec:
            memory(spec)["limit"] = limit
        if "windows" in spec:
            spec["windows"].setdefault("resources", {}).setdefault("memory", {})["limit"] = limit

    return opt


def with_memory_swap(swap: int) -> SpecOpt:
    """Set the limit of memory and swap together (Go: WithMemorySwap).

    Args:
        swap: Bytes, not below the memory limit; -1 means no limit.

    Raises:
        InvalidArgument: Below -1.
    """
    check.integer("swap", swap, least=-1, unit="bytes, -1 for no limit")

    def change(spec: Spec) -> None:
        memory(spec)["swap"] = swap

    return _on_linux(change)


def with_pids_limit(limit: int) -> SpecOpt:
    """Set how many processes and threads there may be at one time (Go: WithPidsLimit).

    Args:
        limit: -1 means no limit; 0 too, for runc up to 1.3.

    Raises:
        InvalidArgument: Below -1.
    """
    check.integer("limit", limit, least=-1, unit="processes, -1 for no limit")

    def change(spec: Spec) -> None:
        resources(spec).setdefault("pids", {})["limit"] = limit

    return _on_linux(change)


def with_cpu_shares(shares: int) -> SpecOpt:
    """Set the relative weight among cgroups (Go: WithCPUShares).

    Args:
        shares: From 2 to 262144, 1024 being the usual; 0 leaves the kernel's default.

    Raises:
        InvalidArgument: Below 0.
    """
    check.integer("shares", shares, most=check.MAX_UINT64)

    def change(spec: Spec) -> None:
        cpu(spec)["shares"] = shares

    return _on_linux(change)


def _cpu_set(what: str, value: str) -> str:
    if not _SET.fullmatch(check.text(what, value)):
        raise InvalidArgument(f"{what} is {value!r}; write numbers and ranges, such as '0-2,7'")
    return value


def with_cpus(cpus: str) -> SpecOpt:
    """Set the CPUs the container may run on (Go: WithCPUs).

    Args:
        cpus: Numbers and ranges, such as ``0-2,7``. Empty: any.

    Raises:
        InvalidArgument: Not that form.
    """
    _cpu_set("cpus", cpus)

    def change(spec: Spec) -> None:
        cpu(spec)["cpus"] = cpus

    return _on_linux(change)


def with_cpus_mems(mems: str) -> SpecOpt:
    """Set the NUMA nodes the container's memory may come from (Go: WithCPUsMems).

    Args:
        mems: Numbers and ranges, such as ``0-1``. Empty: any.

    Raises:
        InvalidArgument: Not that form.
    """
    _cpu_set("mems", mems)

    def change(spec: Spec) -> None:
        cpu(spec)["mems"] = mems

    return _on_linux(change)


def with_cpu_cfs(quota: int, period: int) -> SpecOpt:
    """Limit CPU time: so much in every period (Go: WithCPUCFS).

    Args:
        quota: Microseconds; -1 means no limit. Twice the period is two CPUs' worth.
        period: Microseconds; Linux allows 1000 to 1000000. 0 leaves the kernel's default of 100000.

    Raises:
        InvalidArgument: Out of range.
    """
    check.integer("quota", quota, least=-1, unit="microseconds, -1 for no limit")
    check.integer("period", period, most=check.MAX_UINT64, unit="microseconds")

    def change(spec: Spec) -> None:
        section = cpu(spec)
        section["quota"], section["period"] = quota, period

    return _on_linux(change)


def with_cpu_burst(burst: int) -> SpecOpt:
    """Let unused quota be saved up (Go: WithCPUBurst).

    Args:
        burst: Microseconds, at most the quota.

    Raises:
        InvalidArgument: Below 0.
    """
    check.integer("burst", burst, most=check.MAX_UINT64, unit="microseconds")

    def change(spec: Spec) -> None:
        cpu(spec)["burst"] = burst

    return _on_linux(change)


def with_cpu_rt(runtime: int, period: int) -> SpecOpt:
    """Limit real-time scheduling; kernels with RT group scheduling only (Go: WithCPURT).

    Args:
        runtime: Microseconds in every period; -1 means no limit.
        period: Microseconds.

    Raises:
        InvalidArgument: Out of range.
    """
    check.integer("runtime", runtime, least=-1, unit="microseconds, -1 for no limit")
    check.integer("period", period, most=check.MAX_UINT64, unit="microseconds")

    def change(spec: Spec) -> None:
        section = cpu(spec)
        section["realtimeRuntime"], section["realtimePeriod"] = runtime, period

    return _on_linux(change)


def with_block_io(block_io: LinuxBlockIO) -> SpecOpt:
    """Set weights and limits of block devices, in place of those the spec has (Go: WithBlockIO).

    Raises:
        InvalidArgument: Not a `LinuxBlockIO`. The text names the field.
    """
    to_json({"blockIO": block_io}, kind=LinuxResources)
    given = deepcopy(block_io)

    def change(spec: Spec) -> None:
        resources(spec)["blockIO"] = deepcopy(given)

    return _on_linux(change)


def with_rdt(clos_id: str, l3_cache_schema: str = "", mem_bw_schema: str = "") -> SpecOpt:
    """Set the class of Intel's Resource Director Technology, in place of what the spec has (Go: WithRdt).

    Args:
        clos_id: Class of service.
        l3_cache_schema: Such as ``L3:0=f;1=f0``.
        mem_bw_schema: Such as ``MB:0=20;1=70``.

    Raises:
        InvalidArgument: Not strings; when applied: the spec has no linux section.
    """
    given: LinuxIntelRdt = {
        "closID": check.text("clos_id", clos_id),
        "l3CacheSchema": check.text("l3_cache_schema", l3_cache_schema),
        "memBwSchema": check.text("mem_bw_schema", mem_bw_schema),
    }

    def opt(_: SpecContext, spec: Spec) -> None:
        require_linux(spec, "with_rdt")["intelRdt"] = deepcopy(given)

    return opt
