"""Every error this library raises, as one tree.

::

    ContainerdError
    ├── NotFound
    ├── AlreadyExists
    ├── InvalidArgument             also: an argument refused here, before any RPC (``method`` is None)
    ├── FailedPrecondition
    ├── PermissionDenied
    ├── Unauthenticated
    ├── ResourceExhausted
    ├── Aborted
    ├── OutOfRange
    ├── Unimplemented               the daemon has no such service, or not in this version
    ├── Internal
    ├── Unknown                     the runtime's own words: shim and runc errors arrive as this
    ├── Canceled                    the daemon gave the call up
    ├── DataLoss
    ├── DeadlineExceeded            no answer in time (also a TimeoutError)
    ├── Unavailable                 the connection broke, or the daemon is stopping
    │   └── ConnectError            no connection could be made; says why and what to do
    └── Closed                      the client, subscription or stream was closed by us

At home where they are raised: `run.RunTimeout` (a `DeadlineExceeded`), `run.RunFailed`, `cni.CNIError`.

Three questions, three places to catch: *it said no* (the classes with a gRPC code), *could not reach it*
(`Unavailable`, `ConnectError`), *took too long* (`DeadlineExceeded`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Aborted",
    "AlreadyExists",
    "Canceled",
    "Closed",
    "ConnectError",
    "ContainerdError",
    "DataLoss",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Unknown",
    "from_status",
]

ConnectReason = Literal["missing", "permission", "refused", "not-containerd", "not-serving", "tls", "address"]


class ContainerdError(Exception):
    """Base of everything raised by this library.

    Attributes:
        message: What happened, in the daemon's words when it was the daemon that refused.
        method: Full gRPC method, such as ``/containerd.services.tasks.v1.Tasks/Get``; None when no RPC was involved.
        code: Name of the gRPC status, such as ``NOT_FOUND``; None for errors that have no status.
        details: Status details sent by the daemon, if any.
    """

    code: ClassVar[str | None] = None

    def __init__(self, message: str, *, method: str | None = None, details: Sequence[object] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.method = method
        self.details = tuple(details)

    def __str__(self) -> str:
        if self.method is None:
            return self.message
        # "/containerd.services.tasks.v1.Tasks/Get" reads better as "Tasks.Get".
        service, _, rpc = self.method.rpartition("/")
        return f"{service.rpartition('.')[2]}.{rpc}: {self.message}"


class NotFound(ContainerdError):
    """The thing named does not exist (in this namespace)."""

    code = "NOT_FOUND"


class AlreadyExists(ContainerdError):
    """A thing of that name exists already."""

    code = "ALREADY_EXISTS"


class InvalidArgument(ContainerdError, ValueError):
    """An argument was refused: by the daemon, or here before anything was sent (then ``method`` is None)."""

    code = "INVALID_ARGUMENT"


class FailedPrecondition(ContainerdError):
    """The thing is not in a state in which this can be done."""

    code = "FAILED_PRECONDITION"


class PermissionDenied(ContainerdError):
    """The daemon refused for lack of rights."""

    code = "PERMISSION_DENIED"


class Unauthenticated(ContainerdError):
    """Credentials are missing or wrong."""

    code = "UNAUTHENTICATED"


class ResourceExhausted(ContainerdError):
    """A limit was hit, for example a message over 16 MiB."""

    code = "RESOURCE_EXHAUSTED"


class Aborted(ContainerdError):
    """The daemon gave up because of a concurrent change."""

    code = "ABORTED"


class OutOfRange(ContainerdError):
    """An offset lies outside the object."""

    code = "OUT_OF_RANGE"


class Unimplemented(ContainerdError):
    """The daemon does not have this service or method, usually because it is older or a plugin is off."""

    code = "UNIMPLEMENTED"


class Internal(ContainerdError):
    """The daemon or the protocol failed internally."""

    code = "INTERNAL"


class Unknown(ContainerdError):
    """An error without a class of its own: most failures of shims and runc arrive like this, with their text."""

    code = "UNKNOWN"


class Canceled(ContainerdError):
    """The daemon cancelled the call. Never raised for a cancellation of ours."""

    code = "CANCELLED"


class DataLoss(ContainerdError):
    """Stored data is damaged."""

    code = "DATA_LOSS"


class DeadlineExceeded(ContainerdError, TimeoutError):
    """No answer before the deadline: the daemon is frozen, overloaded, or the work takes longer than allowed."""

    code = "DEADLINE_EXCEEDED"


class Unavailable(ContainerdError):
    """The connection broke or the daemon is going away. Whether the call was carried out is not known."""

    code = "UNAVAILABLE"


class ConnectError(Unavailable):
    """No connection could be made. The text names the cause and the cure.

    Attributes:
        address: The address that was dialled.
        reason: ``missing`` (no such socket), ``permission``, ``refused`` (nobody listens), ``not-containerd``
            (somebody else answers), ``not-serving`` (connected, no answer), ``tls`` or ``address`` (unusable address).
    """

    def __init__(
        self, message: str, *, address: str, reason: ConnectReason, method: str | None = None
    ) -> None:
        super().__init__(message, method=method)
        self.address = address
        self.reason: ConnectReason = reason


class Closed(ContainerdError):
    """The object was closed by its owner and can't be used any more."""


_BY_CODE: dict[str, type[ContainerdError]] = {
    cls.code: cls
    for cls in (
        NotFound, AlreadyExists, InvalidArgument, FailedPrecondition, PermissionDenied, Unauthenticated,
        ResourceExhausted, Aborted, OutOfRange, Unimplemented, Internal, Unknown, Canceled, DataLoss,
        DeadlineExceeded, Unavailable,
    )
    if cls.code is not None
}  # fmt: skip


def from_status(
    code: str, message: str | None, *, method: str | None = None, details: Sequence[object] = ()
) -> ContainerdError:
    """Turn a gRPC status into the error of this tree.

    Args:
        code: Name of the status, such as ``NOT_FOUND``. One that is not known becomes `Unknown`.
        message: The daemon's text; None or empty becomes the code's name.
        method: Full gRPC method.
        details: Decoded status details.

    Returns:
        The error, not raised.
    """
    return _BY_CODE.get(code, Unknown)(message or code, method=method, details=details)
