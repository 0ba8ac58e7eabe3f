"""What is measured of a task."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from containerd_aio import typeurl
from containerd_aio.metrics.cgroup1 import Cgroup1Metrics
from containerd_aio.metrics.cgroup2 import Cgroup2Metrics
from containerd_aio.metrics.read import read
from containerd_aio.services._convert import to_datetime

if TYPE_CHECKING:
    from datetime import datetime

    from containerd_aio.api.containerd.types import Metric as RawMetric

_V1 = "io.containerd.cgroups.v1.Metrics"
_V2 = "io.containerd.cgroups.v2.Metrics"


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """What containerd measured of a task, from `Task.metrics`.

    Attributes:
        id: Id of the container.
        timestamp: When it was measured.
        data: The numbers: `Cgroup1Metrics` or `Cgroup2Metrics`, as the machine has it. For other runtimes (Windows) what
            `typeurl.unpack` makes of them.
        raw: containerd's message.
    """

    id: str
    timestamp: datetime | None
    data: Cgroup1Metrics | Cgroup2Metrics | Any
    raw: RawMetric = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawMetric) -> Self:
        """Take over containerd's message.

        Raises:
            InvalidArgument: The numbers are not what their type says.
        """
        data: Any = None
        if raw.data is not None:
            data = typeurl.unpack(raw.data)
            kind = raw.data.type_url.rpartition("/")[2]
            if kind == _V1:
                data = read(Cgroup1Metrics, data)
            elif kind == _V2:
                data = read(Cgroup2Metrics, data)
        return cls(raw.id, to_datetime(raw.timestamp), data, raw)

    @property
    def memory_usage(self) -> int | None:
        """Bytes of memory in use, page cache included; None if that is not measured."""
        match self.data:
            case Cgroup1Metrics(memory=memory) if memory is not None and memory.usage is not None:
                return memory.usage.usage
            case Cgroup2Metrics(memory=memory) if memory is not None:
                return memory.usage
        return None

    @property
    def cpu_usage(self) -> int | None:
        """Nanoseconds of CPU time since the start; None if that is not measured."""
        match self.data:
            case Cgroup1Metrics(cpu=cpu) if cpu is not None and cpu.usage is not None:
                return cpu.usage.total
            case Cgroup2Metrics(cpu=cpu) if cpu is not None:
                return cpu.usage_usec * 1000
        return None

    @property
    def pids(self) -> int | None:
        """Processes and threads now; None if that is not measured."""
        if isinstance(self.data, Cgroup1Metrics | Cgroup2Metrics) and self.data.pids is not None:
            return self.data.pids.current
        return None

    @property
    def oom_kills(self) -> int | None:
        """Processes that the kernel's OOM killer has killed; None if that is not measured."""
        match self.data:
            case Cgroup1Metrics(memory_oom_control=control) if control is not None:
                return control.oom_kill
            case Cgroup2Metrics(memory_events=events) if events is not None:
                return events.oom_kill
        return None
