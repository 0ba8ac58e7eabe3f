"""containerd-aio: the asyncio-native containerd client.

The names are loaded when they are first used: importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from containerd_aio._version import __version__

if TYPE_CHECKING:
    from containerd_aio import cni, metrics, mounts, oci, restart, stdio, typeurl
    from containerd_aio._transport.hook import Call, RPCHook
    from containerd_aio.checkpoint import CheckpointOptions
    from containerd_aio.client import Client, Version
    from containerd_aio.container import Container, ContainerInfo
    from containerd_aio.daemon import Daemon, Supervision
    from containerd_aio.errors import (
        Aborted,
        AlreadyExists,
        Canceled,
        Closed,
        ConnectError,
        ContainerdError,
        DataLoss,
        DeadlineExceeded,
        FailedPrecondition,
        Internal,
        InvalidArgument,
        NotFound,
        OutOfRange,
        PermissionDenied,
        ResourceExhausted,
        Unauthenticated,
        Unavailable,
        Unimplemented,
        Unknown,
    )
    from containerd_aio.events.callbacks import StateChanges
    from containerd_aio.events.dispatch import DeliveryFailure, Retry
    from containerd_aio.events.event import Event, Gap, Lagged, UnknownEvent
    from containerd_aio.events.exits import UNKNOWN_EXIT_STATUS, ExitStatus
    from containerd_aio.events.model import (
        SandboxCreate,
        SandboxExit,
        SandboxStart,
        TaskCheckpointed,
        TaskCreate,
        TaskDelete,
        TaskExecAdded,
        TaskExecStarted,
        TaskExit,
        TaskOOM,
        TaskPaused,
        TaskResumed,
        TaskStart,
    )
    from containerd_aio.events.resources import (
        ContainerCreate,
        ContainerDelete,
        ContainerUpdate,
        ContentCreate,
        ContentDelete,
        ImageCreate,
        ImageDelete,
        ImageUpdate,
        NamespaceCreate,
        NamespaceDelete,
        NamespaceUpdate,
        SnapshotCommit,
        SnapshotPrepare,
        SnapshotRemove,
    )
    from containerd_aio.events.states import StateChange
    from containerd_aio.events.status import Statistics, Status
    from containerd_aio.events.subscription import Subscription
    from containerd_aio.idmap import IDMap, IDRange
    from containerd_aio.image import Image
    from containerd_aio.metrics import Cgroup1Metrics, Cgroup2Metrics, TaskMetrics
    from containerd_aio.process import Process, ProcessStatus
    from containerd_aio.restart import RestartPolicy, RestartState
    from containerd_aio.run import RunFailed, RunResult, RunTimeout
    from containerd_aio.sandbox import Sandbox
    from containerd_aio.services._content_writer import ContentWriter
    from containerd_aio.services._reader import ContentReader
    from containerd_aio.services.content import ContentInfo, ContentStore, IngestStatus
    from containerd_aio.services.descriptor import Descriptor, Platform
    from containerd_aio.services.diff import Diff
    from containerd_aio.services.introspection import (
        Introspection,
        Plugin,
        PluginInfo,
        RuntimeInfo,
        ServerInfo,
    )
    from containerd_aio.services.leases import Lease, Leases, Resource
    from containerd_aio.services.namespaces import Namespace, Namespaces
    from containerd_aio.services.sandboxes import SandboxExitStatus, SandboxInfo, SandboxStatus
    from containerd_aio.services.snapshots import Mount, SnapshotInfo, Snapshotter
    from containerd_aio.task import ProcessInfo, Task

_HOMES = {
    "client": ("Client", "Version"),
    "container": ("Container", "ContainerInfo"),
    "daemon": ("Daemon", "Supervision"),
    "errors": (
        "Aborted", "AlreadyExists", "Canceled", "Closed", "ConnectError", "ContainerdError", "DataLoss",
        "DeadlineExceeded", "FailedPrecondition", "Internal", "InvalidArgument", "NotFound", "OutOfRange",
        "PermissionDenied", "ResourceExhausted", "Unauthenticated", "Unavailable", "Unimplemented", "Unknown",
    ),
    "events.callbacks": ("StateChanges",),
    "events.dispatch": ("DeliveryFailure", "Retry"),
    "events.event": ("Event", "Gap", "Lagged", "UnknownEvent"),
    "events.exits": ("UNKNOWN_EXIT_STATUS", "ExitStatus"),
    "events.model": (
        "SandboxCreate", "SandboxExit", "SandboxStart", "TaskCheckpointed", "TaskCreate", "TaskDelete", "TaskExecAdded",
        "TaskExecStarted", "TaskExit", "TaskOOM", "TaskPaused", "TaskResumed", "TaskStart",
    ),
    "events.resources": (
        "ContainerCreate", "ContainerDelete", "ContainerUpdate", "ContentCreate", "ContentDelete", "ImageCreate",
        "ImageDelete", "ImageUpdate", "NamespaceCreate", "NamespaceDelete", "NamespaceUpdate", "SnapshotCommit",
        "SnapshotPrepare", "SnapshotRemove",
    ),
    "events.states": ("StateChange",),
    "events.status": ("Statistics", "Status"),
    "events.subscription": ("Subscription",),
    "image": ("Image",),
    "process": ("Process", "ProcessStatus"),
    "run": ("RunFailed", "RunResult", "RunTimeout"),
    "task": ("ProcessInfo", "Task"),
    "checkpoint": ("CheckpointOptions",),
    "idmap": ("IDMap", "IDRange"),
    "metrics": ("Cgroup1Metrics", "Cgroup2Metrics", "TaskMetrics"),
    "restart": ("RestartPolicy", "RestartState"),
    "_transport.hook": ("Call", "RPCHook"),
    "services.descriptor": ("Descriptor", "Platform"),
    "services.snapshots": ("Mount", "Snapshotter", "SnapshotInfo"),
    "services.namespaces": ("Namespace", "Namespaces"),
    "services.introspection": ("ServerInfo", "Introspection", "Plugin", "PluginInfo", "RuntimeInfo"),
    "services.content": ("ContentStore", "ContentInfo", "IngestStatus"),
    "services._reader": ("ContentReader",),
    "services._content_writer": ("ContentWriter",),
    "services.diff": ("Diff",),
    "services.leases": ("Leases", "Lease", "Resource"),
    "sandbox": ("Sandbox",),
    "services.sandboxes": ("SandboxInfo", "SandboxStatus", "SandboxExitStatus"),
}  # fmt: skip
_MODULES = ("cni", "metrics", "mounts", "oci", "restart", "stdio", "typeurl")
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "UNKNOWN_EXIT_STATUS",
    "Aborted",
    "AlreadyExists",
    "Call",
    "Canceled",
    "Cgroup1Metrics",
    "Cgroup2Metrics",
    "CheckpointOptions",
    "Client",
    "Closed",
    "ConnectError",
    "Container",
    "ContainerCreate",
    "ContainerDelete",
    "ContainerInfo",
    "ContainerUpdate",
    "ContainerdError",
    "ContentCreate",
    "ContentDelete",
    "ContentInfo",
    "ContentReader",
    "ContentStore",
    "ContentWriter",
    "Daemon",
    "DataLoss",
    "DeadlineExceeded",
    "DeliveryFailure",
    "Descriptor",
    "Diff",
    "Event",
    "ExitStatus",
    "FailedPrecondition",
    "Gap",
    "IDMap",
    "IDRange",
    "Image",
    "ImageCreate",
    "ImageDelete",
    "ImageUpdate",
    "IngestStatus",
    "Internal",
    "Introspection",
    "InvalidArgument",
    "Lagged",
    "Lease",
    "Leases",
    "Mount",
    "Namespace",
    "NamespaceCreate",
    "NamespaceDelete",
    "NamespaceUpdate",
    "Namespaces",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "Platform",
    "Plugin",
    "PluginInfo",
    "Process",
    "ProcessInfo",
    "ProcessStatus",
    "RPCHook",
    "Resource",
    "ResourceExhausted",
    "RestartPolicy",
    "RestartState",
    "Retry",
    "RunFailed",
    "RunResult",
    "RunTimeout",
    "RuntimeInfo",
    "Sandbox",
    "SandboxCreate",
    "SandboxExit",
    "SandboxExitStatus",
    "SandboxInfo",
    "SandboxStart",
    "SandboxStatus",
    "ServerInfo",
    "SnapshotCommit",
    "SnapshotInfo",
    "SnapshotPrepare",
    "SnapshotRemove",
    "Snapshotter",
    "StateChange",
    "StateChanges",
    "Statistics",
    "Status",
    "Subscription",
    "Supervision",
    "Task",
    "TaskCheckpointed",
    "TaskCreate",
    "TaskDelete",
    "TaskExecAdded",
    "TaskExecStarted",
    "TaskExit",
    "TaskMetrics",
    "TaskOOM",
    "TaskPaused",
    "TaskResumed",
    "TaskStart",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "UnknownEvent",
    "Version",
    "__version__",
    "cni",
    "metrics",
    "mounts",
    "oci",
    "restart",
    "stdio",
    "typeurl",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"containerd_aio.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'containerd_aio' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"containerd_aio.{home}"), name)
    return value


def __dir__() -> list[str]:
    return __all__
