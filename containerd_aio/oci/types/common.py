"""The OCI runtime specification, part for all platforms.

Field names, their order and their kinds equal ``config.go`` of runtime-spec 1.3.0; what older versions lack is
optional here. The order of the fields is the order in which `containerd_aio.oci.to_json` writes them.
"""

from typing import Literal, Required, TypedDict

from containerd_aio.oci.types.linux import Linux, LinuxIDMapping
from containerd_aio.oci.types.marks import Pointer
from containerd_aio.oci.types.platforms import VM, ZOS, FreeBSD, Solaris
from containerd_aio.oci.types.windows import Windows

SchedulerPolicy = Literal[
    "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_ISO", "SCHED_IDLE", "SCHED_DEADLINE"
]
SchedulerFlag = Literal[
    "SCHED_FLAG_RESET_ON_FORK",
    "SCHED_FLAG_RECLAIM",
    "SCHED_FLAG_DL_OVERRUN",
    "SCHED_FLAG_KEEP_POLICY",
    "SCHED_FLAG_KEEP_PARAMS",
    "SCHED_FLAG_UTIL_CLAMP_MIN",
    "SCHED_FLAG_UTIL_CLAMP_MAX",
]
IOPriorityClass = Literal["IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"]


class Box(TypedDict, total=False):
    """Size of a console, in characters."""

    height: Required[int]
    width: Required[int]


class User(TypedDict, total=False):
    """Who the process runs as. ``username`` is for Windows; the ids are for everything else."""

    uid: Required[int]
    gid: Required[int]
    umask: Pointer[int]
    additionalGids: list[int]
    username: str


class LinuxCapabilities(TypedDict, total=False):
    """The five capability sets of a process, names such as ``CAP_NET_ADMIN``."""

    bounding: list[str]
    effective: list[str]
    inheritable: list[str]
    permitted: list[str]
    ambient: list[str]


class POSIXRlimit(TypedDict, total=False):
    """One resource limit, ``type`` such as ``RLIMIT_NOFILE``."""

    type: Required[str]
    hard: Required[int]
    soft: Required[int]


class Scheduler(TypedDict, total=False):
    """Scheduling policy of the process; ``runtime``, ``deadline`` and ``period`` are nanoseconds."""

    policy: Required[SchedulerPolicy]
    nice: int
    priority: int
    flags: list[SchedulerFlag]
    runtime: int
    deadline: int
    period: int


#: I/O priority of the process (ioprio_set(2)). In this form because ``class`` is a Python keyword.
LinuxIOPriority = TypedDict(
    "LinuxIOPriority", {"class": Required[IOPriorityClass], "priority": Required[int]}, total=False
)


class CPUAffinity(TypedDict, total=False):
    """CPUs an exec'd process runs on, before and after it moved into the container's cgroup."""

    initial: str
    final: str


class Process(TypedDict, total=False):
    """The process to run: the container's first one, or what an exec starts."""

    terminal: bool
    consoleSize: Box
    user: Required[User]
    args: list[str]
    commandLine: str
    env: list[str]
    cwd: Required[str]
    capabilities: LinuxCapabilities
    rlimits: list[POSIXRlimit]
    noNewPrivileges: bool
    apparmorProfile: str
    oomScoreAdj: Pointer[int]
    scheduler: Scheduler
    selinuxLabel: str
    ioPriority: LinuxIOPriority
    execCPUAffinity: CPUAffinity


class Root(TypedDict, total=False):
    """The container's root filesystem; a relative ``path`` is relative to the bundle."""

    path: Required[str]
    readonly: bool


class Mount(TypedDict, total=False):
    """A mount inside the container, applied in the order of the list."""

    destination: Required[str]
    type: str
    source: str
    options: list[str]
    uidMappings: list[LinuxIDMapping]
    gidMappings: list[LinuxIDMapping]


class Hook(TypedDict, total=False):
    """A program the runtime runs; ``timeout`` in seconds."""

    path: Required[str]
    args: list[str]
    env: list[str]
    timeout: Pointer[int]


class Hooks(TypedDict, total=False):
    """Programs run at points of the container's life. ``prestart`` is deprecated by the specification."""

    prestart: list[Hook]
    createRuntime: list[Hook]
    createContainer: list[Hook]
    startContainer: list[Hook]
    poststart: list[Hook]
    poststop: list[Hook]


class Spec(TypedDict, total=False):
    """An OCI runtime spec: ``config.json``. A plain dict, so unknown fields survive a round trip."""

    ociVersion: Required[str]
    process: Process
    root: Root
    hostname: str
    domainname: str
    mounts: list[Mount]
    hooks: Hooks
    annotations: dict[str, str]
    linux: Linux
    solaris: Solaris
    windows: Windows
    vm: VM
    zos: ZOS
    freebsd: FreeBSD
