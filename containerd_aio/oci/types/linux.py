"""The ``linux`` section of the OCI runtime specification. See `containerd_aio.oci.types.common` for the rules."""

from typing import Literal, Required, TypedDict

from containerd_aio.oci.types.marks import Pointer

LinuxNamespaceType = Literal["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time"]
LinuxPersonalityDomain = Literal["LINUX", "LINUX32"]
LinuxSeccompAction = Literal[
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
]
LinuxSeccompOperator = Literal[
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
]
LinuxSeccompFlag = Literal[
    "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
]
MemoryPolicyMode = Literal[
    "MPOL_DEFAULT",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_WEIGHTED_INTERLEAVE",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_LOCAL",
]
MemoryPolicyFlag = Literal["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"]


class LinuxIDMapping(TypedDict, total=False):
    """``size`` ids from ``containerID`` on are ``hostID`` and following on the host."""

    containerID: Required[int]
    hostID: Required[int]
    size: Required[int]


class LinuxNamespace(TypedDict, total=False):
    """A namespace to create, or with ``path`` one to join."""

    type: Required[LinuxNamespaceType]
    path: str


class LinuxTimeOffset(TypedDict, total=False):
    """Offset of a clock in a time namespace."""

    secs: int
    nanosecs: int


class LinuxDevice(TypedDict, total=False):
    """A device node to create in the container; ``type`` is ``c``, ``b``, ``u`` or ``p``."""

    path: Required[str]
    type: Required[str]
    major: Required[int]
    minor: Required[int]
    fileMode: Pointer[int]
    uid: Pointer[int]
    gid: Pointer[int]


class LinuxNetDevice(TypedDict, total=False):
    """A network device moved into the container, ``name`` being its name there."""

    name: str


class LinuxDeviceCgroup(TypedDict, total=False):
    """A rule of the device cgroup; without ``major`` or ``minor`` it means all of them."""

    allow: Required[bool]
    type: str
    major: Pointer[int]
    minor: Pointer[int]
    access: str


class LinuxMemory(TypedDict, total=False):
    """Memory limits in bytes; ``swap`` is memory plus swap, -1 means no limit."""

    limit: Pointer[int]
    reservation: Pointer[int]
    swap: Pointer[int]
    kernel: Pointer[int]
    kernelTCP: Pointer[int]
    swappiness: Pointer[int]
    disableOOMKiller: Pointer[bool]
    useHierarchy: Pointer[bool]
    checkBeforeUpdate: Pointer[bool]


class LinuxCPU(TypedDict, total=False):
    """CPU limits; all times in microseconds."""

    shares: Pointer[int]
    quota: Pointer[int]
    burst: Pointer[int]
    period: Pointer[int]
    realtimeRuntime: Pointer[int]
    realtimePeriod: Pointer[int]
    cpus: str
    mems: str
    idle: Pointer[int]


class LinuxPids(TypedDict, total=False):
    """Most processes and threads at one time; 0 or -1 means no limit."""

    limit: Pointer[int]


class LinuxBlockIODevice(TypedDict, total=False):
    """A block device by its numbers."""

    major: Required[int]
    minor: Required[int]


class LinuxWeightDevice(LinuxBlockIODevice, total=False):
    """Share of one block device, 10 to 1000."""

    weight: Pointer[int]
    leafWeight: Pointer[int]


class LinuxThrottleDevice(LinuxBlockIODevice, total=False):
    """Limit of one block device, bytes or operations a second."""

    rate: Required[int]


class LinuxBlockIO(TypedDict, total=False):
    """Shares and limits of block devices."""

    weight: Pointer[int]
    leafWeight: Pointer[int]
    weightDevice: list[LinuxWeightDevice]
    throttleReadBpsDevice: list[LinuxThrottleDevice]
    throttleWriteBpsDevice: list[LinuxThrottleDevice]
    throttleReadIOPSDevice: list[LinuxThrottleDevice]
    throttleWriteIOPSDevice: list[LinuxThrottleDevice]


class LinuxHugepageLimit(TypedDict, total=False):
    """Limit in bytes for one size of huge page, such as ``2MB``."""

    pageSize: Required[str]
    limit: Required[int]


class LinuxInterfacePriority(TypedDict, total=False):
    """Priority of the traffic over one interface."""

    name: Required[str]
    priority: Required[int]


class LinuxNetwork(TypedDict, total=False):
    """net_cls and net_prio of cgroup v1."""

    classID: Pointer[int]
    priorities: list[LinuxInterfacePriority]


class LinuxRdma(TypedDict, total=False):
    """Limits of one RDMA device."""

    hcaHandles: Pointer[int]
    hcaObjects: Pointer[int]


class LinuxResources(TypedDict, total=False):
    """Limits enforced by cgroups; also the payload of a task update."""

    devices: list[LinuxDeviceCgroup]
    memory: LinuxMemory
    cpu: LinuxCPU
    pids: LinuxPids
    blockIO: LinuxBlockIO
    hugepageLimits: list[LinuxHugepageLimit]
    network: LinuxNetwork
    rdma: dict[str, LinuxRdma]
    unified: dict[str, str]


class LinuxSeccompArg(TypedDict, total=False):
    """A condition on one argument of a system call."""

    index: Required[int]
    value: Required[int]
    valueTwo: int
    op: Required[LinuxSeccompOperator]


class LinuxSyscall(TypedDict, total=False):
    """What to do on these system calls."""

    names: Required[list[str]]
    action: Required[LinuxSeccompAction]
    errnoRet: Pointer[int]
    args: list[LinuxSeccompArg]


class LinuxSeccomp(TypedDict, total=False):
    """A seccomp filter; ``architectures`` such as ``SCMP_ARCH_X86_64``."""

    defaultAction: Required[LinuxSeccompAction]
    defaultErrnoRet: Pointer[int]
    architectures: list[str]
    flags: list[LinuxSeccompFlag]
    listenerPath: str
    listenerMetadata: str
    syscalls: list[LinuxSyscall]


class LinuxIntelRdt(TypedDict, total=False):
    """Resource Director Technology: cache and memory bandwidth of a class of service.

    ``schemata`` and ``enableMonitoring`` are of 1.3, which dropped ``enableCMT`` and ``enableMBM``.
    """

    closID: str
    schemata: list[str]
    l3CacheSchema: str
    memBwSchema: str
    enableMonitoring: bool
    enableCMT: bool
    enableMBM: bool


class LinuxMemoryPolicy(TypedDict, total=False):
    """NUMA memory policy (set_mempolicy(2))."""

    mode: Required[MemoryPolicyMode]
    nodes: Required[str]
    flags: list[MemoryPolicyFlag]


class LinuxPersonality(TypedDict, total=False):
    """Execution domain (personality(2))."""

    domain: Required[LinuxPersonalityDomain]
    flags: list[str]


class Linux(TypedDict, total=False):
    """What is Linux's own: namespaces, cgroups, devices, seccomp, hidden paths."""

    uidMappings: list[LinuxIDMapping]
    gidMappings: list[LinuxIDMapping]
    sysctl: dict[str, str]
    resources: LinuxResources
    cgroupsPath: str
    namespaces: list[LinuxNamespace]
    devices: list[LinuxDevice]
    netDevices: dict[str, LinuxNetDevice]
    seccomp: LinuxSeccomp
    rootfsPropagation: str
    maskedPaths: list[str]
    readonlyPaths: list[str]
    mountLabel: str
    intelRdt: LinuxIntelRdt
    memoryPolicy: LinuxMemoryPolicy
    personality: LinuxPersonality
    timeOffsets: dict[str, LinuxTimeOffset]
