"""The client: one daemon, one set of connections, one event core."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import anyio

from containerd_aio import typeurl
from containerd_aio._client_containers import ContainerVerbs
from containerd_aio._client_images import ImageVerbs
from containerd_aio._client_services import ServiceVerbs
from containerd_aio._identifiers import check_identifier
from containerd_aio._scope import Core, Scope
from containerd_aio._supervisor import Supervisor
from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import DEFAULT_ADDRESS, Address
from containerd_aio.errors import (
    Closed,
    ConnectError,
    ContainerdError,
    DeadlineExceeded,
    InvalidArgument,
    Unimplemented,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Mapping
    from types import TracebackType

    from betterproto2 import Message

    from containerd_aio._transport.hook import RPCHook
    from containerd_aio.events.callbacks import StateChanges
    from containerd_aio.events.dispatch import DeliveryFailure, Retry
    from containerd_aio.events.states import StateChange
    from containerd_aio.events.status import Statistics, StatusChanges
    from containerd_aio.events.subscription import Overflow, Subscription
    from containerd_aio.services.introspection import ServerInfo
    from containerd_aio.services.namespaces import Namespaces


# So many answers in a row that are not containerd's, and `Client.wait_ready` waits no longer.
STRANGERS = 3


@dataclass(frozen=True, slots=True)
class Version:
    """Which containerd it is.

    Attributes:
        version: Such as ``2.1.9``, as its package spells it.
        revision: The commit or package it was built from.
    """

    version: str
    revision: str

    def __str__(self) -> str:
        return self.version


class Client(ContainerVerbs, ImageVerbs, ServiceVerbs):
    """A client of one containerd, for use as ``async with Client() as client``.

    Entering connects, so that a wrong address is told at once; a connection lost later is made again by itself. Leaving
    ends what the client runs in the background (the event core, the copying of standard streams), and nothing else:
    containers go on running.

    Args:
        address: Socket path, ``unix://``, ``unix-abstract:`` or ``tcp://host:port``. Default: ``CONTAINERD_ADDRESS``,
            else ``/run/containerd/containerd.sock``.
        namespace: Namespace of what is done through this client. Default: ``CONTAINERD_NAMESPACE``, else ``default``.
        timeout: Seconds a call may take unless it says otherwise. Calls that start or stop processes get four times as
            long; calls that wait for their work have no deadline.
        connect_timeout: Seconds until a connection must stand and have shown that a gRPC server is at its end.
        heartbeat: Seconds of silence on the event stream after which the daemon is asked for a sign of life.
        heartbeat_timeout: Seconds within which that must come; else the stream counts as broken and is made anew.
        audit: Seconds between comparisons of what is believed with the daemon's listing of tasks, which find an exit
            that was never published; longer when the daemon is slow. None for none.
        tls: TLS context for ``tcp://`` addresses.
        hook: Called for every RPC; what tracing and metrics are attached through.
        lazy: Connect on first use instead of on entering.

    Raises:
        InvalidArgument: An argument can't be used; the text says which and why.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        namespace: str | None = None,
        timeout: float = 30.0,
        connect_timeout: float = 10.0,
        heartbeat: float = 30.0,
        heartbeat_timeout: float = 5.0,
        audit: float | None = 120.0,
        tls: ssl.SSLContext | None = None,
        hook: RPCHook | None = None,
        lazy: bool = False,
    ) -> None:
        self._address = Address.parse(address or os.environ.get("CONTAINERD_ADDRESS") or DEFAULT_ADDRESS)
        self._namespace = check_identifier(
            namespace or os.environ.get("CONTAINERD_NAMESPACE") or "default", "namespace"
        )
        for name, seconds in (
            ("timeout", timeout),
            ("connect_timeout", connect_timeout),
            ("heartbeat", heartbeat),
            ("heartbeat_timeout", heartbeat_timeout),
            ("audit", audit),
        ):
            if seconds is not None and not seconds > 0:
                raise InvalidArgument(f"{name} is {seconds}; it must be more than 0 seconds")
        if tls is not None and self._address.path is not None:
            raise InvalidArgument(f"tls was given for {self._address}, which is a unix socket")
        self._settings: dict[str, Any] = {
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "tls": tls,
            "hook": hook,
        }
        self._hub_options = {"heartbeat": heartbeat, "patience": heartbeat_timeout, "audit": audit}
        self._lazy = lazy
        self._open_scope = None

    def __repr__(self) -> str:
        return f"<Client {self._address} namespace={self._namespace}>"

    @property
    def address(self) -> str:
        """The address of the daemon."""
        return str(self._address)

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            ConnectError: containerd can't be reached; the text names cause and cure.
            Closed: It is open already.
        """
        if self._open_scope is not None:
            raise Closed("this client is open already; open a second one, or use namespaced()")
        connections = Connections(self._address, **self._settings)
        try:
            if not self._lazy:
                await _check_is_containerd(connections)
            self._supervisor = Supervisor()
            await self._supervisor.start(f"containerd-aio client of {self._address}")
        except BaseException:
            connections.close()
            raise
        core = Core(connections, self._supervisor.task_group, hub_options=self._hub_options)
        self._open_scope = Scope(core, self._namespace)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        core, self._open_scope = self._scope.core, None
        core.closed = True
        try:
            await self._supervisor.stop()
        finally:
            core.connections.close()

    def namespaced(self, namespace: str) -> Client:
        """Return this client for another namespace: same connections, same event core, same life.

        Raises:
            InvalidArgument: The name is not valid.
            Closed: The client is not open.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._namespace = check_identifier(namespace, "namespace")
        other._open_scope = Scope(self._scope.core, namespace)
        return other

    # --- the daemon ---------------------------------------------------------------------------------------------------

    async def version(self) -> Version:
        """Ask the daemon for its version."""
        reply = await self.services.version.version()
        return Version(reply.version, reply.revision)

    async def is_serving(self) -> bool:
        """Tell whether the daemon says it is ready to serve (gRPC health service); False when it can't be reached."""
        from containerd_aio.api.grpc.health.v1 import HealthCheckRequest, HealthCheckResponseServingStatus

        try:
            reply = await self.services.health.check(HealthCheckRequest())
        except ContainerdError:
            return False
        return reply.status == HealthCheckResponseServingStatus.SERVING

    async def wait_ready(self, *, timeout: float | None = None) -> None:
        """Wait until the daemon serves, dialling again and again.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            ConnectError: It did not serve in time, and the last cause is told; or, before that, something else than
                containerd answered three times in a row. (Once means little: a daemon that is ending cuts connections.)
        """
        from containerd_aio._backoff import Backoff

        backoff, last, strangers = Backoff(), None, 0
        with anyio.move_on_after(timeout):
            while True:
                try:
                    await _check_is_containerd(self._scope.core.connections)
                    if await self.is_serving():
                        return
                    strangers = 0
                except ConnectError as exc:
                    strangers = strangers + 1 if exc.reason == "not-containerd" else 0
                    if strangers == STRANGERS:
                        raise
                    last = exc
                except ContainerdError as exc:
                    last = ConnectError(str(exc), address=self.address, reason="not-serving")
                await anyio.sleep(backoff.next())
        raise last or ConnectError(
            f"containerd at {self.address} did not serve within {timeout:g} s",
            address=self.address,
            reason="not-serving",
        )

    async def server_info(self) -> ServerInfo:
        """Ask the daemon who it is: UUID, pid, deprecation warnings."""
        from containerd_aio.services.introspection import Introspection

        return await Introspection(self.services).server()

    @property
    def namespaces(self) -> Namespaces:
        """The daemon's namespaces and their labels."""
        from containerd_aio.services.namespaces import Namespaces

        return Namespaces(self.services)

    # --- events -------------------------------------------------------------------------------------------------------

    def events(
        self,
        *filters: str,
        buffer: int = 1024,
        overflow: Overflow = "drop_oldest",
        labels: Mapping[str, str] | None = None,
        all_namespaces: bool = False,
    ) -> Subscription:
        """Subscribe to events: ``async with client.events() as events: async for event in events``.

        Args:
            filters: Filters in containerd's language; an event that matches any of them is delivered.
            buffer: How many events are kept for a slow reader. Only that reader is affected when there are more.
            overflow: What happens then: ``"drop_oldest"``, the oldest are dropped and a `Lagged` says how many;
                ``"block_never"``, what comes is missed and a `Lagged` says how much; ``"close"``, the subscription ends
                with `ResourceExhausted`.
            labels: Only events of containers and tasks that have these labels. That costs a listing, and one call per new
                container. Events of a container whose labels can't be learnt, as it was gone already, are delivered.
            all_namespaces: Events of every namespace, not only of the client's.

        Raises:
            InvalidArgument: A filter or an option is not valid; nothing was sent.
        """
        from containerd_aio.events.subscription import Subscription

        return Subscription(
            self._scope.core.run_hub(),
            filters,
            namespace=None if all_namespaces else self._namespace,
            buffer=buffer,
            overflow=overflow,
            labels=labels,
        )

    def state_changes(
        self,
        handler: Callable[[StateChange], Awaitable[object]],
        *,
        all_namespaces: bool = False,
        retry: Retry | None = None,
        timeout: float | None = None,
        on_error: Callable[[DeliveryFailure[tuple[str, str], StateChange]], object] | None = None,
        buffer: int = 1000,
    ) -> StateChanges:
        """Have `handler` called for every change of state of a container: ``async with client.state_changes(handler)``.

        Where `events` tells what containerd said, this tells what is so: each change once, a container's in order, one
        call at a time for each container and at the same time for others. See `StateChange` and `StateChanges`.

        Args:
            handler: An async function that takes a `StateChange`.
            all_namespaces: Tell of every namespace, not only of the client's.
            retry: When to call again after `handler` raised; by default its container's next change follows at once.
            timeout: Seconds that one call may take; it is then cancelled, which counts as raising. None for no limit.
            on_error: Called, synchronously, with every failure; by default they are logged.
            buffer: How many changes of one container may wait; when there are more, the oldest goes to `on_error`.

        Raises:
            InvalidArgument: An argument can't be used.
        """
        from containerd_aio.events.callbacks import StateChanges

        return StateChanges(
            self._scope.core.run_hub(),
            handler,
            namespace=None if all_namespaces else self._namespace,
            retry=retry,
            timeout=timeout,
            on_error=on_error,
            buffer=buffer,
        )

    async def publish(self, topic: str, payload: Message | None = None) -> None:
        """Publish an event in the client's namespace.

        Args:
            topic: Topic: identifiers, each with a slash in front, such as ``/jobs/done``.
            payload: A message of ``containerd_aio.api``; ``google.protobuf.Empty`` by default.

        Raises:
            InvalidArgument: The topic is not valid.
        """
        from containerd_aio.api.containerd.services.events.v1 import PublishRequest
        from containerd_aio.api.google.protobuf import Empty

        if not isinstance(topic, str) or not topic.startswith("/"):
            raise InvalidArgument(f"topic is {topic!r}; it must begin with a slash, such as '/jobs/done'")
        for part in topic[1:].split("/"):
            check_identifier(part, f"part of topic {topic!r}")
        await self.services.events.publish(
            PublishRequest(topic=topic, event=typeurl.pack(payload or Empty()))
        )

    async def barrier(self) -> None:
        """Return when everything that containerd published before this call has been dispatched here.

        Raises:
            ContainerdError: The daemon can't be reached.
            DeadlineExceeded: What was published does not come back.
        """
        await (await self._scope.core.live_hub()).barrier()

    def status(self) -> StatusChanges:
        """Follow the state of the event stream: ``async for status in client.status()``, the present one first.

        There is nothing to close: the loop may be left at any time. It ends when the client is closed.
        """
        return self._scope.core.run_hub().status.follow()

    def statistics(self) -> Statistics:
        """Return the counters of the event core."""
        return self._scope.core.hub.statistics()


async def _check_is_containerd(connections: Connections) -> None:
    """Dial, and make sure that it is containerd that answers."""
    from containerd_aio.services.stubs import Services

    await connections.rpc.dial()
    try:
        await Services(connections, "default").version.version(timeout=connections.rpc.connect_timeout)
    except Unimplemented as exc:
        raise ConnectError(
            f"cannot use {connections.address}: a gRPC server answers there, but it is not containerd",
            address=str(connections.address),
            reason="not-containerd",
        ) from exc
    except DeadlineExceeded as exc:
        raise ConnectError(
            f"cannot use {connections.address}: connected, but there is no answer; containerd is frozen or overloaded",
            address=str(connections.address),
            reason="not-serving",
        ) from exc
