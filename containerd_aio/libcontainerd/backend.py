"""What the user of libcontainerd gives to it: a backend, and callbacks that take standard streams."""

from __future__ import annotations

from inspect import isawaitable
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from containerd_aio.libcontainerd.iopipe import IOPipe
    from containerd_aio.libcontainerd.states import StateInfo


class Backend(Protocol):
    """Who is told what happens to containers.

    The calls for one container come one after the other, those for different containers at the same time. One that
    raises or hangs is felt by its container alone.

    A backend may also have the method of `StreamBackend`.
    """

    async def state_changed(self, container_id: str, state: StateInfo) -> None:
        """Take a change of state.

        What it raises is logged (see the options of `Remote.client`), but for ``start-container``: `Client.create` then
        fails with it, and the container is stopped.
        """


@runtime_checkable
class StreamBackend(Backend, Protocol):
    """A backend that takes the standard streams of every process, as in docker 1.11."""

    async def attach_streams(self, process_name: str, io: IOPipe) -> None:
        """Take the streams of a process for which no callback was given; see `IOPipe` for who closes them.

        Args:
            process_name: Id of the container, or name of the exec.
            io: The streams.
        """


StdioCallback: TypeAlias = "Callable[[IOPipe], Awaitable[object]]"
"""Takes the standard streams of a process, as in docker 1.13; see `IOPipe` for who closes them."""


async def awaited(callback: str, result: Awaitable[object]) -> None:
    """Await what a callback returned.

    Args:
        callback: What the callback is called in the error.
        result: What it returned.

    Raises:
        TypeError: It is not an async function.
    """
    if not isawaitable(result):
        raise TypeError(f"{callback} must be an async function; it returned {result!r}")
    await result
