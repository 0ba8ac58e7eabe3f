"""What is measured of a task: `TaskMetrics`, and the numbers of the two versions of cgroups.

The parts of `Cgroup1Metrics` are in `containerd_aio.metrics.cgroup1`, those of `Cgroup2Metrics` in
`containerd_aio.metrics.cgroup2`.
"""

from containerd_aio.metrics.cgroup1 import Cgroup1Metrics
from containerd_aio.metrics.cgroup2 import Cgroup2Metrics
from containerd_aio.metrics.task import TaskMetrics

__all__ = ["Cgroup1Metrics", "Cgroup2Metrics", "TaskMetrics"]
