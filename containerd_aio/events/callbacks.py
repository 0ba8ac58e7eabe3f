"""Changes of state, delivered to an async handler: `Client.state_changes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeAlias

from containerd_aio.errors import InvalidArgument
from containerd_aio.events.dispatch import DeliveryFailure, Dispatcher, Retry
from containerd_aio.events.states import StateChange, StateReporter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from types import TracebackType

    from containerd_aio.events.effects import Effect
    from containerd_aio.events.hub import EventHub
    from containerd_aio.events.model import Event

Key: TypeAlias = tuple[str, str]
Handler: TypeAlias = "Callable[[StateChange], Awaitable[object]]"
ErrorHook: TypeAlias = "Callable[[DeliveryFailure[Key, StateChange]], object]"


class StateChanges:
    """Calls a handler for every `StateChange`: ``async with client.state_changes(handler)``.

    Tasks that run already are told as ``restore``. The changes of one container are delivered one after the other, those
    of different containers at the same time. A handler that raises, or never returns, delays what comes later for its
    container and nothing else: not other containers, not `Process.wait`, not subscriptions.

    Args:
        hub: The event hub.
        handler: Called with each change.
        namespace: Tell of this namespace; None for all.
        retry: See `Dispatcher`.
        timeout: See `Dispatcher`.
        on_error: See `Dispatcher`.
        buffer: See `Dispatcher`.
    """

    def __init__(
        self,
        hub: EventHub,
        handler: Handler,
        *,
        namespace: str | None,
        retry: Retry | None = None,
        timeout: float | None = None,
        on_error: ErrorHook | None = None,
        buffer: int = 1000,
    ) -> None:
        if not callable(handler):
            raise InvalidArgument(
                f"the handler is {handler!r}; it must be an async function of a StateChange"
            )
        self._hub = hub
        self._namespace = namespace
        self._reporter = StateReporter()
        self._dispatcher: Dispatcher[Key, StateChange] = Dispatcher(
            handler, retry=retry, timeout=timeout, on_error=on_error, buffer=buffer
        )

    @property
    def delivered(self) -> int:
        """Changes that the handler took."""
        return self._dispatcher.delivered

    @property
    def failed(self) -> int:
        """Changes that were given up after the handler had failed."""
        return self._dispatcher.failed

    @property
    def dropped(self) -> int:
        """Changes that were given up because too many of their container waited."""
        return self._dispatcher.dropped

    @property
    def pending(self) -> int:
        """Changes that wait, or are being handled."""
        return self._dispatcher.pending

    async def drain(self, container_id: str | None = None, *, namespace: str | None = None) -> None:
        """Return when every change known so far was handled; a handler that never returns makes it wait for ever.

        Args:
            container_id: Look at this container alone.
            namespace: Its namespace; that of the client by default.
        """
        if container_id is None:
            await self._dispatcher.drain()
        else:
            await self._dispatcher.drain((namespace or self._namespace or "default", container_id))

    async def __aenter__(self) -> Self:
        """Begin to deliver.

        Raises:
            ConnectError: containerd can't be reached.
        """
        await self._dispatcher.__aenter__()
        try:
            await self._hub.ready()
        except BaseException:
            await self._dispatcher.aclose()
            raise
        self._hub.observe(self)
        for incarnation in list(self._hub.registry.open_incarnations()):
            if self.follows(incarnation.namespace):
                self._submit(self._reporter.restore(incarnation))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Cancel handlers that are at work and forget what waits; await `drain` before to have all delivered."""
        self._hub.unobserve(self)
        await self._dispatcher.aclose()

    # --- for the hub --------------------------------------------------------------------------------------------------

    def follows(self, namespace: str) -> bool:
        """Return whether the handler is told of containers of `namespace`."""
        return self._namespace is None or namespace == self._namespace

    def effects(self, effects: Sequence[Effect]) -> None:
        """Take what the registry concluded in one turn."""
        self._submit(self._reporter.effects(effects))

    def event(self, event: Event) -> None:
        """Take an event of the daemon."""
        if self.follows(event.namespace):
            self._submit(self._reporter.event(event))

    def _submit(self, changes: Iterable[StateChange]) -> None:
        for change in changes:
            if self.follows(change.namespace):
                self._dispatcher.submit((change.namespace, change.container_id), change)
