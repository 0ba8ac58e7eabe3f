"""One RPC: grpclib's stream with this library's deadlines, limits, cancellation and errors."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from grpclib.client import Stream as _GrpclibStream
from grpclib.const import Status
from grpclib.encoding.base import GRPC_CONTENT_TYPE
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.metadata import USER_AGENT, encode_metadata, encode_timeout
from h2.exceptions import H2Error

from containerd_aio._transport import limits
from containerd_aio._transport.absence import absent, explain
from containerd_aio._transport.balance import BalancedWrapper
from containerd_aio._transport.codec import bytes_field, encode_pieces
from containerd_aio._transport.guard import check_request
from containerd_aio._transport.hook import Call
from containerd_aio._transport.receive import Receiver
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
    from collections.abc import Callable
    from types import TracebackType

    from multidict import MultiDict

    from containerd_aio._transport.channel import Channel

T = TypeVar("T")

_FIXED_HEADERS = (("te", "trailers"), ("content-type", GRPC_CONTENT_TYPE), ("user-agent", USER_AGENT))


class Stream(_GrpclibStream[Any, Any]):
    """One RPC: grpclib's stream with this library's deadlines, limits, cancellation and errors."""

    _wrapper: BalancedWrapper
    _channel: Channel
    _finish: Callable[[BaseException | None], None] | None = None
    _exhausted = False
    _receiver: Receiver
    _holds_slot = False

    def __init__(self, *args: Any, short: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._short = short

    async def __aenter__(self) -> Self:
        self._wrapper = BalancedWrapper()
        try:
            if self._deadline is not None:
                self._wrapper.arm(self._deadline)
            if self._short:
                with self._wrapper:  # waiting for a slot counts against the deadline
                    await self._channel.slots.acquire()
                self._holds_slot = True
            if self._channel.hook is not None:
                call = Call(
                    self._method_name, cast("MultiDict[str]", self._metadata), self._channel.address.text
                )
                self._finish = self._channel.hook(call)
        except BaseException as exc:
            self._wrapper.disarm()
            self._release_slot()
            translated = self._translated(exc)
            if translated is None or translated is exc:
                raise
            raise translated from exc
        return self

    async def send_message(self, message: Any, *, end: bool = False) -> None:
        """Send one message, unless it would crash the daemon or exceed its limit."""
        pieces, size = self._encoded(message)
        if not self._send_request_done:
            await self.send_request()
        if self._end_done or (self._send_message_done and not self._cardinality.client_streaming):
            raise ProtocolError("the request was sent already")
        end = end or not self._cardinality.client_streaming
        with self._wrapper:
            pieces.insert(0, b"\0" + size.to_bytes(4, "big"))
            await send_data(self._stream, pieces, end=end, over=self._is_over)
        self._send_message_done = True
        self._end_done = self._end_done or end

    def _encoded(self, message: Any) -> tuple[list[bytes], int]:
        """Return `message` in pieces, and its size, if it may be sent."""
        check_request(self._method_name, message)
        pieces = encode_pieces(message)
        size = sum(map(len, pieces))
        if size > limits.MAX_MESSAGE:
            raise ResourceExhausted(
                f"a {type(message).__name__} of {size} bytes was not sent; the limit is {limits.MAX_MESSAGE}"
            )
        return pieces, size

    async def send_request(self, *, end: bool = False) -> None:
        """Send the headers, and from then on receive by way of `Receiver`.

        Raises:
            Unimplemented: The daemon has refused a call of this service, or method, on this connection before.
        """
        self._refuse_missing()
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
            self._stream,
            window=limits.STREAM_WINDOW,
            limit=limits.MAX_MESSAGE,
            write=connection._transport.write,
        )
        self._stream.buffer = cast("Any", self._receiver)

    def _refuse_missing(self) -> None:
        missing = self._channel.missing(self._method_name)
        if missing is not None:
            raise Unimplemented(explain(missing, self._channel.address.text))

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
        headers += [_checked(name, value) for name, value in self._metadata.items()]
        return headers

    def _is_over(self) -> bool:
        """Tell whether the daemon has ended the call: its status is here."""
        return self._receiver.ended or self._stream.trailers is not None

    async def recv_message(self) -> Any | None:
        """Return the next message, or None at the end of the stream."""
        data = await self._arrival(self._receiver.take)
        return None if data is None else self._decoded(data)

    def _decoded(self, data: bytes) -> Any:
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
            await self._leave(exc_type, exc, tb)
        except BaseException as raised:  # noqa: BLE001 - translated and raised again below
            failure = raised
        finally:
            self._wrapper.disarm()
            self._release_slot()
        translated = self._translated(failure) if failure is not None else None
        if self._finish is not None:
            self._finish(translated or failure)
        if translated is not None and translated is not exc:
            raise translated from failure
        if failure is not None and failure is not exc:
            raise failure

    async def _leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await super().__aexit__(exc_type, exc, tb)

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


@lru_cache(256)
def _checked(name: str, value: str | bytes) -> tuple[str, str]:
    """Return a header as it is sent."""
    (header,) = encode_metadata([(name, value)])
    return header
