"""containerd's ``runtime`` package of 2017 (v1.0.0-alpha0), on a containerd of today.

A `Runtime` makes tasks of containers and tells a `TaskMonitor` of them. Everything here is a thin translation: the same
task can be used through `Client` at the same time.
"""

from containerd_aio.runtime.errors import (
    ContainerExists,
    ContainerNotExist,
    ProcessExited,
    RuntimeNotExist,
)
from containerd_aio.runtime.monitor import (
    EventTaskMonitor,
    TaskMonitor,
    new_multi_task_monitor,
    new_noop_monitor,
)
from containerd_aio.runtime.runtime import (
    Runtime,
)
from containerd_aio.runtime.task import (
    Process,
    Task,
)
from containerd_aio.runtime.types import (
    IO,
    ConsoleSize,
    CreateOpts,
    ExecOpts,
    Exit,
    State,
    Status,
    TaskInfo,
)

__all__ = [
    "IO",
    "ConsoleSize",
    "ContainerExists",
    "ContainerNotExist",
    "CreateOpts",
    "EventTaskMonitor",
    "ExecOpts",
    "Exit",
    "Process",
    "ProcessExited",
    "Runtime",
    "RuntimeNotExist",
    "State",
    "Status",
    "Task",
    "TaskInfo",
    "TaskMonitor",
    "new_multi_task_monitor",
    "new_noop_monitor",
]
