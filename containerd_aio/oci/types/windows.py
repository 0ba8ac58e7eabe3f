"""The ``windows`` section of the OCI runtime specification. See `containerd_aio.oci.types.common` for the rules."""

from typing import Any, Required, TypedDict

from containerd_aio.oci.types.marks import Always, Pointer


class WindowsDevice(TypedDict, total=False):
    """A host device, by an id of kind ``idType`` (such as ``class``)."""

    id: Required[str]
    idType: Required[str]


class WindowsMemoryResources(TypedDict, total=False):
    """Memory limit in bytes."""

    limit: Pointer[int]


class WindowsCPUGroupAffinity(TypedDict, total=False):
    """Processors of one processor group, as a bit mask."""

    mask: int
    group: int


class WindowsCPUResources(TypedDict, total=False):
    """CPU limits: number of CPUs, relative weight, and maximum in hundredths of a percent."""

    count: Pointer[int]
    shares: Pointer[int]
    maximum: Pointer[int]
    affinity: list[WindowsCPUGroupAffinity]


class WindowsStorageResources(TypedDict, total=False):
    """Limits of the system drive: operations and bytes a second, least size in bytes."""

    iops: Pointer[int]
    bps: Pointer[int]
    sandboxSize: Pointer[int]


class WindowsResources(TypedDict, total=False):
    """Limits of a Windows container; also the payload of a task update."""

    memory: WindowsMemoryResources
    cpu: WindowsCPUResources
    storage: WindowsStorageResources


class WindowsNetwork(TypedDict, total=False):
    """Network of a Windows container."""

    endpointList: list[str]
    allowUnqualifiedDNSQuery: bool
    DNSSearchList: list[str]
    networkSharedContainerName: str
    networkNamespace: str


class WindowsHyperV(TypedDict, total=False):
    """Hyper-V isolation; its presence, even empty, asks for it."""

    utilityVMPath: str


class Windows(TypedDict, total=False):
    """What is Windows' own."""

    layerFolders: Always[list[str]]
    devices: list[WindowsDevice]
    resources: WindowsResources
    credentialSpec: Any
    servicing: bool
    ignoreFlushesDuringBoot: bool
    hyperv: WindowsHyperV
    network: WindowsNetwork
