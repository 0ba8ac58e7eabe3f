"""What tracing and metrics are attached through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from multidict import MultiDict


class Call:
    """One RPC, as the hook sees it.

    Attributes:
        method: Full gRPC method, such as ``/containerd.services.tasks.v1.Tasks/Get``.
        headers: Request headers; the hook may add to them (a trace context, for example).
        address: The address of the daemon.
    """

    __slots__ = ("address", "headers", "method")

    def __init__(self, method: str, headers: MultiDict[str], address: str) -> None:
        self.method = method
        self.headers = headers
        self.address = address


class RPCHook(Protocol):
    """What tracing and metrics are attached through: called as each RPC starts.

    It may return a function, which is then called once when the RPC has ended, with the error or None. Both run in the
    event loop and must not block; what they raise goes to the caller of the RPC.
    """

    def __call__(self, call: Call, /) -> Callable[[BaseException | None], None] | None:
        """Take note of `call`."""
