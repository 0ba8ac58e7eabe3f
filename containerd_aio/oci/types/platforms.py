"""The ``solaris``, ``vm``, ``zos`` and ``freebsd`` sections. See `containerd_aio.oci.types.common` for the rules."""

from typing import Literal, Required, TypedDict

from containerd_aio.oci.types.marks import Always, Pointer

ZOSNamespaceType = Literal["pid", "mount", "ipc", "uts"]
FreeBSDSharing = Literal["disable", "new", "inherit"]


class SolarisCappedCPU(TypedDict, total=False):
    """CPU cap of a Solaris zone."""

    ncpus: str


class SolarisCappedMemory(TypedDict, total=False):
    """Memory caps of a Solaris zone."""

    physical: str
    swap: str


class SolarisAnet(TypedDict, total=False):
    """A network resource created for a Solaris zone."""

    linkname: str
    lowerLink: str
    allowedAddress: str
    configureAllowedAddress: str
    defrouter: str
    linkProtection: str
    macAddress: str


class Solaris(TypedDict, total=False):
    """What is Solaris' own."""

    milestone: str
    limitpriv: str
    maxShmMemory: str
    anet: list[SolarisAnet]
    cappedCPU: SolarisCappedCPU
    cappedMemory: SolarisCappedMemory


class VMHypervisor(TypedDict, total=False):
    """The hypervisor that runs the virtual machine."""

    path: Required[str]
    parameters: list[str]


class VMKernel(TypedDict, total=False):
    """The kernel the virtual machine boots."""

    path: Required[str]
    parameters: list[str]
    initrd: str


class VMImage(TypedDict, total=False):
    """The virtual machine's root image."""

    path: Required[str]
    format: Required[str]


class IOMems(TypedDict, total=False):
    """A range of I/O memory passed to the virtual machine, in frames."""

    firstGFN: Pointer[int]
    firstMFN: Required[Pointer[int]]
    nrMFNs: Required[Pointer[int]]


class HWConfig(TypedDict, total=False):
    """Hardware of the virtual machine; ``memory`` in bytes."""

    deviceTree: str
    vcpus: Pointer[int]
    memory: Pointer[int]
    dtdevs: list[str]
    iomems: list[IOMems]
    irqs: list[int]


class VM(TypedDict, total=False):
    """For runtimes that start a virtual machine."""

    hypervisor: Always[VMHypervisor]
    kernel: Required[VMKernel]
    image: Always[VMImage]
    hwconfig: HWConfig


class ZOSNamespace(TypedDict, total=False):
    """A z/OS namespace to create, or with ``path`` one to join."""

    type: Required[ZOSNamespaceType]
    path: str


class ZOSDevice(TypedDict, total=False):
    """A z/OS special file to create in the container."""

    path: Required[str]
    type: Required[str]
    major: Required[int]
    minor: Required[int]
    fileMode: Pointer[int]
    uid: Pointer[int]
    gid: Pointer[int]


class ZOS(TypedDict, total=False):
    """What is z/OS' own. 1.2.1 replaced ``devices`` by ``namespaces``."""

    devices: list[ZOSDevice]
    namespaces: list[ZOSNamespace]


class FreeBSDDevice(TypedDict, total=False):
    """A device visible in the jail."""

    path: Required[str]
    mode: Pointer[int]


class FreeBSDJailAllow(TypedDict, total=False):
    """What processes in the jail may do."""

    setHostname: bool
    rawSockets: bool
    chflags: bool
    mount: list[str]
    quotas: bool
    socketAf: bool
    mlock: bool
    reservedPorts: bool
    suser: bool


class FreeBSDJail(TypedDict, total=False):
    """Parameters of the jail (jail(8))."""

    parent: str
    host: FreeBSDSharing
    ip4: FreeBSDSharing
    ip4Addr: list[str]
    ip6: FreeBSDSharing
    ip6Addr: list[str]
    vnet: FreeBSDSharing
    interface: str
    vnetInterfaces: list[str]
    sysvmsg: FreeBSDSharing
    sysvsem: FreeBSDSharing
    sysvshm: FreeBSDSharing
    enforceStatfs: Pointer[int]
    allow: FreeBSDJailAllow


class FreeBSD(TypedDict, total=False):
    """What is FreeBSD's own."""

    devices: list[FreeBSDDevice]
    jail: FreeBSDJail
