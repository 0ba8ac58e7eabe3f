"""The channel through which every RPC passes.

grpclib's ``Channel.request`` is the one function that all generated stubs call. It is overridden here, and with it the
``Stream`` it returns: that is the whole seam. Deadlines, headers, limits, balanced cancellation, the crash guard, the
hook and the translation of errors live in these two classes and nowhere else.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import anyio
from grpclib.client import Channel as _GrpclibChannel
from grpclib.client import Handler
from grpclib.client import Stream as _GrpclibStream
from grpclib.config import Configuration
from grpclib.const import Cardinality, Status
from grpclib.encoding.base import GRPC_CONTENT_TYPE
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.metadata import USER_AGENT, Deadline, encode_metadata, encode_timeout
from h2.events import RemoteSettingsChanged
from h2.exceptions import H2Error
from multidict import MultiDict

from containerd_aio._transport.absence import absent, explain
from containerd_aio._transport.balance import BalancedDeadlineWrapper, BalancedWrapper
from containerd_aio._transport.codec import Codec, bytes_field, encode_pieces
from containerd_aio._transport.deadlines import default_timeout
from containerd_aio._transport.dial import explain_dial_failure
from containerd_aio._transport.guard import check_request
from containerd_aio._transport.hook import Call
from containerd_aio._transport.receive import Receiver, ReceivingProtocol
from containerd_aio._transport.send import send_data
from containerd_aio.errors import (
    Closed,
    ConnectError,
    ContainerdError,
    DeadlineExceeded,
    Internal,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    from_status,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from grpclib.protocol import EventsProcessor, H2Protocol

    from containerd_aio._transport.dial import Address
    from containerd_aio._transport.hook import RPCHook

T = TypeVar("T")

# containerd's own limit, both ways (Go: defaults.DefaultMaxRecvMsgSize)
MAX_MESSAGE = 16 << 20

# One unread stream must not use up the window of the connection: the calls beside it would hang.
_STREAM_WINDOW = 4 << 20
_CONNECTION_WINDOW = 64 << 20

# h2 looks at every open stream for each new one; more than this at once only makes all of them slower.
_CONCURRENT_CALLS = 64


_FIXED_HEADERS = (("te", "trailers"), ("content-type", GRPC_CONTENT_TYPE), ("user-agent", USER_AGENT))


class Stream(_GrpclibStream[Any, Any]):
    """One RPC: grpclib's stream with this library's deadlines, limits, cancellation and errors."""

    _wrapper: BalancedWrapper
    _channel: Channel
    _finish: Callable[[BaseException | None], None] | None = None
    _wrapper_ctx: Any = None
    _exhausted = False
    _receiver: Receiver
    _holds_slot = False

    def __init__(self, *args: Any, call: Call, short: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._call = call
        self._short = short

    async def __aenter__(self) -> Self:
        try:
            if self._deadline is None:
                self._wrapper = BalancedWrapper()
            else:
                self._wrapper = wrapper = BalancedDeadlineWrapper()
                self._wrapper_ctx = wrapper.start(self._deadline)
                self._wrapper_ctx.__enter__()
            if self._short:
                with self._wrapper:  # waiting for a slot counts against the deadline
                    await self._channel.slots.acquire()
                self._holds_slot = True
            if self._channel.hook is not None:
                self._finish = self._channel.hook(self._call)
        except BaseException as exc:
            self._release_slot()
            if self._wrapper_ctx is not None:
                self._wrapper_ctx.__exit__(None, None, None)
            translated = self._translated(exc)
            if translated is None or translated is exc:
                raise
            raise translated from exc
        return self

    async def send_message(self, message: Any, *, end: bool = False) -> None:
        """Send one message, unless it would crash the daemon or exceed its limit."""
        check_request(self._method_name, message)
        if not self._send_request_done:
            await self.send_request()
        if self._end_done or (self._send_message_done and not self._cardinality.client_streaming):
            raise ProtocolError("the request was sent already")
        pieces = encode_pieces(message)
        size = sum(map(len, pieces))
        if size > MAX_MESSAGE:
            raise ResourceExhausted(
                f"a {type(message).__name__} of {size} bytes was not sent; the limit is {MAX_MESSAGE}"
            )
        end = end or not self._cardinality.client_streaming
        with self._wrapper:
            pieces.insert(0, b"\0" + size.to_bytes(4, "big"))
            await send_data(self._stream, pieces, end=end, over=self._is_over)
        self._send_message_done = True
        self._end_done = self._end_done or end

    async def send_request(self, *, end: bool = False) -> None:
        """Send the headers, and from then on receive by way of `Receiver`.

        Raises:
            Unimplemented: The daemon has refused a call of this service, or method, on this connection before.
        """
        missing = self._channel.missing(self._method_name)
        if missing is not None:
            raise Unimplemented(explain(missing, self._channel.address.text))
        if self._send_request_done or (end and not self._cardinality.client_streaming):
            raise ProtocolError("the request was sent already, or ends without the message it needs")
        with self._wrapper:
            protocol = await self._channel.__connect__()
            connection = protocol.processor.connection
            self._stream = connection.create_stream(wrapper=self._wrapper)
            self._release_stream = cast(
                "Any",
                await self._stream.send_request(
                    self._request_headers(), end_stream=end, _processor=protocol.processor
                ),
            )
        self._send_request_done = True
        self._end_done = end
        self._wrapper.settled = self._is_over
        self._receiver = Receiver(
            self._stream, window=_STREAM_WINDOW, limit=MAX_MESSAGE, write=connection._transport.write
        )
        self._stream.buffer = cast("Any", self._receiver)

    def _request_headers(self) -> list[tuple[str, str]]:
        channel = self._channel
        headers = [
            (":method", "POST"),
            (":scheme", channel._scheme),
            (":path", self._method_name),
            (":authority", channel._authority),
        ]
        if self._deadline is not None:
            headers.append(("grpc-timeout", encode_timeout(self._deadline.time_remaining())))
        headers += _FIXED_HEADERS
        headers += encode_metadata(self._metadata)
        return headers

    def _is_over(self) -> bool:
        """Tell whether the daemon has ended the call: its status is here."""
        return self._receiver.ended or self._stream.trailers is not None

    async def recv_message(self) -> Any | None:
        """Return the next message, or None at the end of the stream."""
        data = await self._arrival(self._receiver.take)
        if data is None:
            return None
        try:
            return self._codec.decode(data, self._recv_type)
        except ValueError as exc:
            raise Internal(f"the reply is not a {self._recv_type.__name__}: {exc}") from exc

    async def recv_field(self, name: str) -> bytes | None:
        """Return one ``bytes`` field of the next message, None at the end of the stream: for bulk data, less copied."""
        found = await self._arrival(self._receiver.take_pieces)
        if found is None:
            return None
        try:
            return bytes_field(self._recv_type, name, found if isinstance(found, list) else [found])
        except ValueError as exc:
            raise Internal(f"the reply is not a {self._recv_type.__name__}: {exc}") from exc

    async def recv_encoded(self) -> list[bytes]:
        """Return every message that is here, encoded, waiting for the first; an empty list at the end of the stream.

        Raises:
            ContainerdError: The call failed. Translated here already: who reads in a task group raises into the group
                first, and not through the block of this stream.
        """
        try:
            return await self._arrival(self._receiver.take_all) or []
        except Exception as exc:
            translated = self._translated(exc)
            if translated is None or translated is exc:
                raise
            raise translated from exc

    async def raise_status(self) -> None:
        """Raise the status of a call that the daemon has ended before our side was; return if it is OK."""
        self._end_done = True  # nobody listens any more
        await self.recv_trailing_metadata()

    async def _arrival(self, take: Callable[[], T]) -> T | None:
        """Return what `take` finds, waiting if there is nothing yet; None at the end of the stream."""
        if not self._recv_initial_metadata_done:
            await self.recv_initial_metadata()
        while (found := take()) is None or found == []:
            if self._receiver.exhausted:
                self._exhausted = True
                return found
            with self._wrapper:
                await self._receiver.wait()
        return found

    def _raise_for_content_type(self, headers_map: dict[str, str]) -> None:
        if "grpc-status" not in headers_map:  # a refusal needs no content, and says more than a missing type
            super()._raise_for_content_type(headers_map)

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if (
            exc is None
            and self._cardinality.server_streaming
            and not self._exhausted
            and self._send_request_done
        ):
            # grpclib would wait for trailers that an endless stream never sends.
            self._abandon()
        failure = exc
        try:
            await super().__aexit__(exc_type, exc, tb)
        except BaseException as raised:  # noqa: BLE001 - translated and raised again below
            failure = raised
        finally:
            self._release_slot()
        translated = self._translated(failure) if failure is not None else None
        if self._finish is not None:
            self._finish(translated or failure)
        if translated is not None and translated is not exc:
            raise translated from failure
        if failure is not None and failure is not exc:
            raise failure

    def _abandon(self) -> None:
        if not self._cancel_done and self._stream.closable:
            self._stream.reset_nowait()
        self._cancel_done = True

    def _release_slot(self) -> None:
        if self._holds_slot:
            self._holds_slot = False
            self._channel.slots.release()

    def _translated(self, exc: BaseException) -> ContainerdError | None:
        """Return the error of our tree for `exc`, or None when it is not a failure of this RPC."""
        method = self._method_name
        if isinstance(exc, ContainerdError):
            if exc.method is None and not isinstance(exc, Closed | ConnectError):
                exc.method = method
            return exc
        if isinstance(exc, GRPCError):
            if exc.status is Status.UNIMPLEMENTED and (missing := absent(exc.message)) is not None:
                self._channel.note_missing(missing)
                return Unimplemented(explain(missing, self._channel.address.text), method=method)
            return from_status(exc.status.name, exc.message, method=method, details=exc.details or ())
        if isinstance(exc, StreamTerminatedError):
            if self._channel.closed:
                return Closed("the client was closed during the call", method=method)
            text = f"the connection to containerd at {self._channel.address} broke during the call ({exc})"
            if not self._cardinality.server_streaming:
                text += "; whether it was carried out is not known"
            return Unavailable(text, method=method)
        if isinstance(exc, TimeoutError) and exc is self._wrapper.error:
            return DeadlineExceeded(
                f"no answer from containerd at {self._channel.address} within the deadline; "
                f"it is frozen, overloaded, or the call needs a longer timeout=",
                method=method,
            )
        if isinstance(exc, H2Error | ProtocolError):
            return Unavailable(
                f"the connection to containerd at {self._channel.address} broke: {exc}", method=method
            )
        return None


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
                http2_connection_window_size=_CONNECTION_WINDOW, http2_stream_window_size=_STREAM_WINDOW
            ),
        )
        if address.path is not None:
            self._authority = "localhost"
        self.address = address
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self.hook = hook
        self.closed = False
        self.slots = anyio.Semaphore(_CONCURRENT_CALLS, fast_acquire=True)

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
        headers: MultiDict[str] = MultiDict(metadata or {})
        return Stream(
            self,
            name,
            cast("Any", headers),
            cardinality,
            request_type,
            reply_type,
            codec=self._codec,
            status_details_codec=None,
            dispatch=self.__dispatch__,
            deadline=deadline,
            call=Call(name, headers, self.address.text),
            short=short,
        )

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
