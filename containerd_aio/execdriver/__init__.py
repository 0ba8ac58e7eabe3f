"""Docker's execdriver of 1.4, on a containerd of today.

A `Driver` runs a `Command`: `ContainerdDriver` does it as a container of containerd. Names, JSON and meaning are Docker's;
every function that talks to anybody is async.
"""

from containerd_aio.execdriver.capabilities import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    tweak_capabilities,
)
from containerd_aio.execdriver.containerd import (
    ContainerdDriver,
)
from containerd_aio.execdriver.driver import (
    Driver,
    Info,
    Registry,
    drivers,
)
from containerd_aio.execdriver.errors import (
    DriverAlreadyRegistered,
    DriverNotFound,
    NotRunning,
    WaitTimeoutReached,
)
from containerd_aio.execdriver.pipes import (
    Pipes,
    new_pipes,
)
from containerd_aio.execdriver.terminal import (
    StdConsole,
    Terminal,
    TtyConsole,
    TtyTerminal,
    new_std_console,
)
from containerd_aio.execdriver.types import (
    WILDCARD,
    Command,
    Context,
    Device,
    ExitStatus,
    Ipc,
    Mount,
    Network,
    NetworkInterface,
    ProcessConfig,
    Resources,
    StartCallback,
)

__all__ = [
    "ALL_CAPABILITIES",
    "DEFAULT_CAPABILITIES",
    "WILDCARD",
    "Command",
    "ContainerdDriver",
    "Context",
    "Device",
    "Driver",
    "DriverAlreadyRegistered",
    "DriverNotFound",
    "ExitStatus",
    "Info",
    "Ipc",
    "Mount",
    "Network",
    "NetworkInterface",
    "NotRunning",
    "Pipes",
    "ProcessConfig",
    "Registry",
    "Resources",
    "StartCallback",
    "StdConsole",
    "Terminal",
    "TtyConsole",
    "TtyTerminal",
    "WaitTimeoutReached",
    "drivers",
    "new_pipes",
    "new_std_console",
    "tweak_capabilities",
]
