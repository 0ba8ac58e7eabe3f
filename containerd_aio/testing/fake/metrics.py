"""What Tasks.Metrics tells of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from containerd_aio import typeurl
from containerd_aio.api.io.containerd.cgroups import v1, v2

if TYPE_CHECKING:
    from containerd_aio.api.google.protobuf import Any as AnyMessage
    from containerd_aio.testing.fake.task import FakeTask

CgroupVersion = Literal["v1", "v2"]
"""Which of the two kinds of cgroups the fake's machine has."""


def measure(task: FakeTask, version: CgroupVersion) -> AnyMessage:
    """Return a task's metrics: the number of its processes and the OOM kills are true, the rest is 0."""
    processes = sum(process.running for process in (task.init, *task.execs.values()))
    if version == "v1":
        return typeurl.pack(
            v1.Metrics(
                pids=v1.PidsStat(current=processes),
                cpu=v1.CpuStat(usage=v1.CpuUsage(per_cpu=[0]), throttling=v1.Throttle()),
                memory=v1.MemoryStat(usage=v1.MemoryEntry(), swap=v1.MemoryEntry(), kernel=v1.MemoryEntry()),
                blkio=v1.BlkIoStat(),
                memory_oom_control=v1.MemoryOomControl(oom_kill=task.oom_kills),
            )
        )
    return typeurl.pack(
        v2.Metrics(
            pids=v2.PidsStat(current=processes),
            cpu=v2.CpuStat(),
            memory=v2.MemoryStat(),
            io=v2.IoStat(),
            memory_events=v2.MemoryEvents(oom_kill=task.oom_kills, oom=task.oom_kills),
        )
    )
