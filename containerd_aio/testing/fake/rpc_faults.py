"""Faults of RPCs: calls that are refused, late, kept back, unanswered, or answered with something else."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

import anyio
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from containerd_aio.testing.fake.call import Call

    Handle = Callable[[Any], Awaitable[None]]


class RPCFault:
    """A fault that is in force for the calls of some methods, until it is removed or has hit often enough.

    Made by the methods of `FakeContainerd`. As a context manager it is removed at the end of the block.

    Attributes:
        hits: How many calls it hit.
    """

    def __init__(
        self, faults: Faults, method: str, *, times: int | None, when: Callable[[Call], bool] | None
    ) -> None:
        self._faults = faults
        self._method = method
        self._times = times
        self._when = when
        self.hits = 0
        faults.add(self)

    def claims(self, call: Call) -> bool:
        """Tell whether this call is hit, and count it."""
        if self._times is not None and self.hits >= self._times:
            return False
        if not method_matches(call.method, self._method) or (self._when and not self._when(call)):
            return False
        self.hits += 1
        return True

    async def around(self, handle: Handle, stream: Any) -> None:
        """Handle the call in the faulty way."""
        await handle(stream)

    def remove(self) -> None:
        """End the fault."""
        self._faults.remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()


class Failure(RPCFault):
    """The call is refused, or carried out and its reply replaced by an error."""

    def __init__(self, faults: Faults, method: str, error: GRPCError, *, after: bool, **options: Any) -> None:
        super().__init__(faults, method, **options)
        self._error = error
        self._after = after

    async def around(self, handle: Handle, stream: Any) -> None:
        """Raise the error."""
        if self._after:
            await handle(_Kept(stream))
        raise self._error


class Delay(RPCFault):
    """The call is carried out later, or its reply is sent later."""

    def __init__(self, faults: Faults, method: str, seconds: float, *, reply: bool, **options: Any) -> None:
        super().__init__(faults, method, **options)
        self._seconds = seconds
        self._reply = reply

    async def around(self, handle: Handle, stream: Any) -> None:
        """Wait, before or after."""
        if not self._reply:
            await anyio.sleep(self._seconds)
            await handle(stream)
            return
        kept = _Kept(stream)
        try:
            await handle(kept)
        except GRPCError:
            await anyio.sleep(self._seconds)
            raise
        await anyio.sleep(self._seconds)
        await kept.deliver()


class Hold(RPCFault):
    """Calls are carried out at once and their replies are kept back until `release`.

    With ``before=True`` the calls themselves are kept back.
    """

    def __init__(self, faults: Faults, method: str, *, before: bool, **options: Any) -> None:
        super().__init__(faults, method, **options)
        self._before = before
        self._waiting = 0
        self._changed = anyio.Event()
        self._gate = anyio.Event()

    async def around(self, handle: Handle, stream: Any) -> None:
        """Wait for the release."""
        if self._before:
            await self._wait()
            await handle(stream)
            return
        kept = _Kept(stream)
        try:
            await handle(kept)
        except GRPCError:
            await self._wait()
            raise
        await self._wait()
        await kept.deliver()

    async def _wait(self) -> None:
        self._waiting += 1
        changed, self._changed = self._changed, anyio.Event()
        changed.set()
        try:
            await self._gate.wait()
        finally:
            self._waiting -= 1

    async def reached(self, count: int = 1) -> None:
        """Wait until so many calls are kept back."""
        while self._waiting < count:
            await self._changed.wait()

    def release(self) -> None:
        """Let go what is kept back; later calls are kept back again."""
        gate, self._gate = self._gate, anyio.Event()
        gate.set()


class Alteration(RPCFault):
    """Replies are changed on their way out."""

    def __init__(self, faults: Faults, method: str, change: Callable[[Any], Any], **options: Any) -> None:
        super().__init__(faults, method, **options)
        self._change = change

    async def around(self, handle: Handle, stream: Any) -> None:
        """Send what `change` makes of each reply."""
        await handle(_Altered(stream, self._change))


class Faults:
    """The faults in force.

    Args:
        methods: Full names of all methods there are.
    """

    def __init__(self, methods: Iterable[str]) -> None:
        self._methods = sorted(methods)
        self._faults: list[RPCFault] = []

    def add(self, fault: RPCFault) -> None:
        """Put a fault in force.

        Raises:
            InvalidArgument: It names a method that is not there.
        """
        method = fault._method  # noqa: SLF001 - one module
        if not any(method_matches(known, method) for known in self._methods):
            raise InvalidArgument(
                f"no method of the fake is named {method!r}; write SERVICE/METHOD, as in 'Tasks/Create' or 'Tasks/*'"
            )
        self._faults.append(fault)

    def remove(self, fault: RPCFault) -> None:
        """End a fault."""
        if fault in self._faults:
            self._faults.remove(fault)

    def clear(self) -> None:
        """End all faults."""
        self._faults.clear()

    def wrap(self, call: Call, handle: Handle) -> Handle:
        """Return the handler of a call with the faults that hit it around it; the first in force is the outermost."""
        for fault in reversed([fault for fault in self._faults if fault.claims(call)]):
            handle = _bound(fault, handle)
        return handle


def _bound(fault: RPCFault, handle: Handle) -> Handle:
    async def handle_faultily(stream: Any) -> None:
        await fault.around(handle, stream)

    return handle_faultily


def method_matches(full: str, pattern: str) -> bool:
    """Tell whether ``/package.Service/Method`` is meant by ``Service/Method``, where ``*`` stands for anything."""
    return fnmatchcase(full.rpartition(".")[2], pattern) or full == pattern


class _Wrapped:
    """A server stream with one thing changed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> Any:
        return self._stream.__aiter__()


class _Kept(_Wrapped):
    """Replies are collected instead of sent."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._replies: list[Any] = []

    async def send_message(self, message: Any) -> None:
        self._replies.append(message)

    async def deliver(self) -> None:
        for reply in self._replies:
            await self._stream.send_message(reply)


class _Altered(_Wrapped):
    """Replies are changed before they are sent."""

    def __init__(self, stream: Any, change: Callable[[Any], Any]) -> None:
        super().__init__(stream)
        self._change = change

    async def send_message(self, message: Any) -> None:
        await self._stream.send_message(self._change(message))


def grpc_error(code: str, text: str) -> GRPCError:
    """Return the error of a gRPC status by its name.

    Raises:
        InvalidArgument: There is no such status, or it is OK.
    """
    if code not in Status.__members__ or code == "OK":
        raise InvalidArgument(f"{code!r} is no gRPC status of a failure; write it as in 'UNAVAILABLE'")
    return GRPCError(Status[code], text)
