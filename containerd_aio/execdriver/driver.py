"""What a driver is, and which drivers there are."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from containerd_aio.execdriver.errors import DriverAlreadyRegistered, DriverNotFound

if TYPE_CHECKING:
    from containerd_aio.execdriver.pipes import Pipes
    from containerd_aio.execdriver.types import Command, ExitStatus, ProcessConfig, StartCallback


class Info(Protocol):
    """What a driver knows of a container."""

    def is_running(self) -> bool:
        """Return whether its process runs."""


class Driver(Protocol):
    """Runs containers."""

    async def run(
        self, command: Command, pipes: Pipes, start_callback: StartCallback | None = None
    ) -> ExitStatus:
        """Run a container until it ends."""

    async def exec(
        self,
        command: Command,
        process_config: ProcessConfig,
        pipes: Pipes,
        start_callback: StartCallback | None = None,
    ) -> int:
        """Run another process in a running container until it ends, and return its exit code."""

    async def kill(self, command: Command, sig: int) -> None:
        """Send a signal to the container's first process."""

    async def pause(self, command: Command) -> None:
        """Freeze every process of the container."""

    async def unpause(self, command: Command) -> None:
        """Thaw what `pause` froze."""

    def name(self) -> str:
        """Return the driver's name and version."""

    def info(self, container_id: str) -> Info:
        """Return what is known of a container."""

    async def get_pids_for_container(self, container_id: str) -> list[int]:
        """Return the host pids of every process in the container."""

    async def terminate(self, command: Command) -> None:
        """Kill the container whatever it takes, and clean up after it."""

    async def clean(self, container_id: str) -> None:
        """Remove every trace the driver keeps of a container."""


Factory: TypeAlias = Callable[..., Driver]
"""Makes a driver, of whatever arguments it takes."""


class Registry:
    """Drivers by name. `drivers` is the one of this process."""

    def __init__(self) -> None:
        self._factories: dict[str, Factory] = {}

    def register(self, name: str, factory: Factory) -> None:
        """Add a driver.

        Raises:
            DriverAlreadyRegistered: There is one of that name.
        """
        if name in self._factories:
            raise DriverAlreadyRegistered(name)
        self._factories[name] = factory

    def names(self) -> list[str]:
        """Return the names there are, sorted."""
        return sorted(self._factories)

    def new_driver(self, name: str, *args: Any, **options: Any) -> Driver:
        """Make a driver (Docker: NewDriver).

        Args:
            name: Its name; ``containerd`` is there from the start.
            args: What it takes: `ContainerdDriver` an open client, and options.
            options: The same.

        Raises:
            DriverNotFound: There is none of that name.
        """
        factory = self._factories.get(name)
        if factory is None:
            raise DriverNotFound(f"{name!r}; there are {', '.join(self.names()) or 'none'}")
        return factory(*args, **options)


def _containerd(*args: Any, **options: Any) -> Driver:
    made: Driver = import_module("containerd_aio.execdriver.containerd").ContainerdDriver(*args, **options)
    return made


drivers = Registry()
drivers.register("containerd", _containerd)
