"""The channel through which every RPC passes.

grpclib's ``Channel.request`` is the one function that all generated stubs call. It is overridden here, and with it the
``Stream`` it returns: that is the whole seam. Deadlines, headers, limits, balanced cancellation, the crash guard, the
hook and the translation of errors live in these classes and nowhere else.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, cast

import anyio
from grpclib.client import Channel as _GrpclibChannel
from grpclib.client import Handler
from grpclib.config import Configuration
from grpclib.const import Cardinality
from grpclib.metadata import Deadline
from h2.events import RemoteSettingsChanged
from multidict import MultiDict

from containerd_aio._transport import limits
from containerd_aio._transport.codec import Codec
from containerd_aio._transport.deadlines import default_timeout
from containerd_aio._transport.dial import explain_dial_failure
from containerd_aio._transport.protocol import ReceivingProtocol
from containerd_aio._transport.stream import Stream
from containerd_aio._transport.unary import UnaryStream
from containerd_aio.errors import Closed, ConnectError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from grpclib.protocol import EventsProcessor, H2Protocol

    from containerd_aio._transport.dial import Address
    from containerd_aio._transport.hook import RPCHook


class Channel(_GrpclibChannel):
    """A connection to containerd: dialled on first use, again after a loss, closed by its owner.

    Args:
        address: Where containerd listens.
        timeout: Seconds a unary call may take unless it says otherwise; calls that start or stop processes get four
            times as long, calls that wait for their work (``Tasks.Wait``, ``Diff.Apply``...) have no deadline.
        connect_timeout: Seconds until a connection must stand and have shown that it is HTTP/2.
        tls: TLS context for TCP addresses; None is plain text.
        hook: Called for every RPC.
    """

    _h2_config: Any

    def __init__(
        self,
        address: Address,
        *,
        timeout: float,
        connect_timeout: float,
        tls: ssl.SSLContext | None = None,
        hook: RPCHook | None = None,
    ) -> None:
        super().__init__(
            host=address.host or None,
            port=address.port or None,
            path=address.path,
            codec=Codec(),
            ssl=tls,
            config=Configuration(
                http2_connection_window_size=limits.CONNECTION_WINDOW,
                http2_stream_window_size=limits.STREAM_WINDOW,
            ),
        )
        if address.path is not None:
            self._authority = "localhost"
        self.address = address
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.hook = hook
        self.closed = False
        self.slots = anyio.Semaphore(limits.CONCURRENT_CALLS, fast_acquire=True)

    def __repr__(self) -> str:
        return f"<Channel {self.address}>"

    def request(  # type: ignore[override]
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stream:
        """Prepare one RPC; called by the stubs.

        Args:
            name: Full gRPC method.
            cardinality: Which sides stream.
            request_type: Class of the request messages.
            reply_type: Class of the reply messages.
            timeout: Seconds; None is the channel's default for this method, ``math.inf`` no deadline.
            deadline: A grpclib deadline; together with `timeout` the earlier one counts.
            metadata: Request headers.
        """
        if timeout is None and deadline is None:
            timeout = default_timeout(name, cardinality, self.timeout)
        short = timeout is not None and timeout != math.inf and cardinality is Cardinality.UNARY_UNARY
        if timeout is not None and timeout != math.inf:
            own = Deadline.from_timeout(timeout)
            deadline = own if deadline is None else min(own, deadline)
        kind = UnaryStream if cardinality is Cardinality.UNARY_UNARY else Stream
        return kind(
            self,
            name,
            cast("Any", MultiDict(metadata or {})),
            cardinality,
            request_type,
            reply_type,
            codec=self._codec,
            status_details_codec=None,
            dispatch=self.__dispatch__,
            deadline=deadline,
            short=short,
        )

    @property
    def connected(self) -> ReceivingProtocol | None:
        """The connection, if there is one."""
        return cast("ReceivingProtocol", self._protocol) if self._connected and not self.closed else None

    def missing(self, method: str) -> str | None:
        """Return what of `method` the daemon lacks, as far as this connection has shown it."""
        protocol = self._protocol
        if not isinstance(protocol, ReceivingProtocol) or not protocol.missing or not self._connected:
            return None
        service = method.rpartition("/")[0]
        return next((name for name in (service, method) if name in protocol.missing), None)

    def note_missing(self, name: str) -> None:
        """Remember, for the life of the connection, that the daemon lacks a service or a method."""
        if isinstance(self._protocol, ReceivingProtocol):
            self._protocol.missing.add(name)

    def _protocol_factory(self) -> H2Protocol:
        return ReceivingProtocol(Handler(), self._config, self._h2_config)

    async def dial(self) -> None:
        """Connect now, if not connected.

        Raises:
            ConnectError: There is no connection to be had; the text says why.
            Closed: The channel was closed.
        """
        await self.__connect__()

    async def __connect__(self) -> H2Protocol:
        if self.closed:
            raise Closed(f"the client of {self.address} is closed")
        return await super().__connect__()

    async def _create_connection(self) -> H2Protocol:
        started = time.monotonic()
        protocol: H2Protocol | None = None
        try:
            with anyio.fail_after(self.connect_timeout):
                protocol = await super()._create_connection()
                await self._await_settings(protocol)
        except TimeoutError:
            self._drop(protocol)
            raise ConnectError(
                f"cannot connect to containerd at {self.address}: no answer within "
                f"{time.monotonic() - started:.1f} s; it is frozen or overloaded, or this is not its gRPC address",
                address=self.address.text,
                reason="not-serving",
            ) from None
        except OSError as exc:
            self._drop(protocol)
            raise explain_dial_failure(self.address, exc) from exc
        except BaseException:
            self._drop(protocol)
            raise
        return protocol

    async def _await_settings(self, protocol: H2Protocol) -> None:
        """Wait for the SETTINGS frame with which every HTTP/2 server must begin: the evidence that one is there."""
        seen = anyio.Event()
        processor: EventsProcessor = protocol.processor
        on_settings = processor.process_remote_settings_changed

        def settings(event: RemoteSettingsChanged) -> None:
            on_settings(event)
            seen.set()

        processor.processors[RemoteSettingsChanged] = settings
        handler_close = protocol.handler.close

        def close() -> None:
            handler_close()
            seen.set()

        protocol.handler.close = close  # type: ignore[method-assign]
        await seen.wait()
        protocol.handler.close = handler_close  # type: ignore[method-assign]
        if protocol.handler.connection_lost:  # type: ignore[attr-defined]
            raise ConnectError(
                f"cannot connect to containerd at {self.address}: something listens there, but it does not speak "
                f"gRPC (HTTP/2); is this the grpc address of containerd's config, not its ttrpc, debug or metrics one?",
                address=self.address.text,
                reason="not-containerd",
            )

    def _drop(self, protocol: H2Protocol | None) -> None:
        if protocol is not None:
            protocol.processor.close("dial failed")

    def close(self) -> None:
        """Close the connection for good; calls under way end with `Closed`."""
        self.closed = True
        super().close()
