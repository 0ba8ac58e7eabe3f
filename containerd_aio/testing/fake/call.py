"""What a handler needs to know of the call it handles, and how it refuses it."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from grpclib.const import Status
from grpclib.exceptions import GRPCError

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_IDENTIFIER_GO: Final = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
_MAX_IDENTIFIER = 76


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC as it came in.

    Attributes:
        method: Full gRPC method, such as ``/containerd.services.tasks.v1.Tasks/Get``.
        namespace: Its namespace header; empty for none.
        lease: Its lease header; empty for none.
        at: When it came, by the event loop's clock.
    """

    method: str
    namespace: str
    lease: str
    at: float


current_call: ContextVar[Call] = ContextVar("containerd_aio_fake_call")
"""The call that is being handled."""


def refuse(status: Status, text: str) -> GRPCError:
    """Return the error to raise, with containerd's ending for its class where it has one."""
    return GRPCError(status, text + _ENDINGS.get(status, ""))


def refuse_plainly(status: Status, text: str) -> GRPCError:
    """Return the error to raise, with exactly this text."""
    return GRPCError(status, text)


_ENDINGS: Final = {
    Status.NOT_FOUND: ": not found",
    Status.ALREADY_EXISTS: ": already exists",
    Status.INVALID_ARGUMENT: ": invalid argument",
    Status.FAILED_PRECONDITION: ": failed precondition",
    Status.UNIMPLEMENTED: ": not implemented",
}


def required_namespace() -> str:
    """Return the namespace of the call.

    Raises:
        GRPCError: It names none, or not a valid one.
    """
    namespace = current_call.get().namespace
    if not namespace:
        raise refuse(Status.FAILED_PRECONDITION, "namespace is required")
    fault = identifier_fault(namespace)
    if fault:
        raise refuse(Status.INVALID_ARGUMENT, f"namespace validation: {fault}")
    return namespace


def identifier_fault(text: str) -> str:
    """Say what is wrong with an identifier, in containerd's words (Go: identifiers.Validate); empty for nothing."""
    if not text:
        return "identifier must not be empty"
    if len(text) > _MAX_IDENTIFIER:
        return f'identifier "{text}" greater than maximum length ({_MAX_IDENTIFIER} characters)'
    if not _IDENTIFIER.fullmatch(text):
        return f'identifier "{text}" must match {_IDENTIFIER_GO}'
    return ""
