"""Named streams between a client and the daemon, which the transfer service uses (containerd 1.7 and later).

A stream is opened under a name; a request to another service then names it. Both sides send messages packed in ``Any``.
Bytes go in `Data` messages of 32 KiB at most, and only as many as the receiver has allowed by `WindowUpdate` messages:
nothing before the first one. There is no message for a failure: who fails just ends the stream, and the request that
uses it tells why.
"""

from __future__ import annotations

import math
from contextlib import aclosing, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio
from grpclib.const import Cardinality
from grpclib.exceptions import StreamTerminatedError

from containerd_aio._transport.codec import decode
from containerd_aio.api.containerd.services.streaming.v1 import StreamInit
from containerd_aio.api.containerd.types.transfer import Data, WindowUpdate
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.errors import ContainerdError, Internal, InvalidArgument
from containerd_aio.services._convert import unique_name
from containerd_aio.typeurl import pack, unpack

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

    from betterproto2 import Message

    from containerd_aio.services.stubs import Services

_METHOD = "/containerd.services.streaming.v1.Streaming/Stream"

# What Go's daemon sends at most in one message, and what it asks of others.
_LARGEST = 32 << 10

# What the daemon may send before it hears of us again; Go's clients allow 64 KiB.
_WINDOW = 1 << 20


class NamedStream:
    """One stream; made by `open_stream`.

    Attributes:
        name: What requests call it.
        ended: The daemon has ended it.
    """

    def __init__(self, name: str, stream: Any) -> None:
        self.name = name
        self.ended = False
        self._stream = stream

    def __repr__(self) -> str:
        return f"<NamedStream {self.name}>"

    async def send(self, message: Message) -> bool:
        """Send a message of ``containerd_aio.api``; False if the daemon has ended the stream."""
        try:
            await self._stream.send_message(pack(message))
        except StreamTerminatedError:
            return False
        return True

    async def end(self) -> None:
        """Say that nothing more will be sent."""
        with suppress(StreamTerminatedError):  # the daemon was faster
            await self._stream.end()

    async def messages(self) -> AsyncGenerator[Any, None]:
        """Yield what the daemon sends until it ends the stream: messages of ``containerd_aio.api``.

        Raises:
            Unavailable: The connection broke.
        """
        while encoded := await self._stream.recv_encoded():
            for item in encoded:
                yield unpack(decode(AnyMessage, item))
        self.ended = True


@asynccontextmanager
async def open_stream(services: Services, *, name: str | None = None) -> AsyncGenerator[NamedStream, None]:
    """Open a stream for the length of the block.

    The stream belongs to the namespace and to the lease in force.

    Args:
        services: Says which daemon and namespace.
        name: Its name, unique within the namespace; by default one that nobody else uses.

    Raises:
        Unimplemented: The daemon has no streams (containerd 1.6).
        AlreadyExists: There is a stream of that name.
        InvalidArgument: `name` is empty.
    """
    if name == "":
        raise InvalidArgument("the name of a stream is empty")
    name = name or f"stream-{unique_name()}"
    channel: Any = services.streaming.channel
    async with channel.request(
        _METHOD, Cardinality.STREAM_STREAM, AnyMessage, bytes, timeout=math.inf
    ) as stream:
        await stream.send_message(pack(StreamInit(id=name)))
        if not await stream.recv_encoded():  # the acknowledgement is always alone
            await stream.raise_status()
            raise Internal(f"containerd ended the stream {name} without a word")
        opened = NamedStream(name, stream)
        yield opened
        if opened.ended:
            await stream.raise_status()


async def send_bytes(stream: NamedStream, data: AsyncIterable[bytes]) -> int:
    """Send `data` as fast as the daemon allows, then end our side of the stream.

    Args:
        stream: The stream.
        data: The bytes, in pieces of any size.

    Returns:
        How many bytes were sent: fewer than there are when the daemon has ended the stream.

    Raises:
        Unavailable: The connection broke.
    """
    window = _Window()
    sent = 0
    async with anyio.create_task_group() as group:
        group.start_soon(window.follow, stream)
        async for chunk in data:
            rest = memoryview(chunk)
            while rest and (allowed := await window.wait()):
                piece, rest = rest[: min(allowed, _LARGEST)], rest[min(allowed, _LARGEST) :]
                window.size -= len(piece)
                if not await stream.send(Data(data=bytes(piece))):
                    break
                sent += len(piece)
            if rest:
                break
        else:
            await stream.end()
        group.cancel_scope.cancel()
    if window.failure is not None:
        raise window.failure
    return sent


class _Window:
    """How many bytes the daemon takes at the moment."""

    def __init__(self) -> None:
        self.size = 0
        self.failure: ContainerdError | None = None
        self._closed = False
        self._changed = anyio.Event()

    async def follow(self, stream: NamedStream) -> None:
        """Add up what the daemon allows, until it ends the stream."""
        try:
            async with aclosing(stream.messages()) as messages:
                async for message in messages:
                    if isinstance(message, WindowUpdate):  # others are for later releases
                        self.size += message.update
                        self._changed.set()
        except ContainerdError as exc:
            self.failure = exc
        self._closed = True
        self._changed.set()

    async def wait(self) -> int:
        """Return how many bytes may be sent, waiting until there are some; 0 when the stream has ended."""
        while self.size <= 0 and not self._closed:
            self._changed = anyio.Event()
            await self._changed.wait()
        return 0 if self._closed else self.size


async def receive_bytes(stream: NamedStream) -> AsyncGenerator[bytes, None]:
    """Yield the bytes that the daemon sends until it ends the stream. It sends no faster than they are taken.

    Raises:
        Unavailable: The connection broke.
    """
    left = _WINDOW
    await stream.send(WindowUpdate(update=left))
    async with aclosing(stream.messages()) as messages:
        async for message in messages:
            if not isinstance(message, Data):
                continue
            yield message.data
            left -= len(message.data)
            if left < _WINDOW // 2:
                await stream.send(WindowUpdate(update=_WINDOW - left))
                left = _WINDOW
