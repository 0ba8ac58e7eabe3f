"""The four errors of containerd's ``runtime`` package, and what of containerd's answers each stands for.

containerd tells three of them apart by text alone: the same status has several meanings. The texts are those of 1.6, 1.7
and 2.1, which agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from containerd_aio.errors import AlreadyExists, ContainerdError, InvalidArgument, NotFound, Unknown

_FINISHED = "process already finished"
_NO_EXEC = "process does not exist"
_NO_RUNTIME = ("failed to resolve runtime path", "unknown runtime", "binary not installed")


class ContainerExists(AlreadyExists):
    """The container has a task already (Go: ErrContainerExists)."""


class ContainerNotExist(NotFound):
    """There is no such container, or it has no task (Go: ErrContainerNotExist)."""


class RuntimeNotExist(NotFound):
    """The runtime of the container is not installed on the daemon's machine (Go: ErrRuntimeNotExist)."""


class ProcessExited(NotFound):
    """The process has ended already (Go: ErrProcessExited)."""


_TEXTS: dict[type[ContainerdError], str] = {
    ContainerExists: "runtime: container with id already exists",
    ContainerNotExist: "runtime: container does not exist",
    RuntimeNotExist: "runtime: runtime does not exist",
    ProcessExited: "runtime: process already exited",
}


def error_class(error: ContainerdError) -> type[ContainerdError] | None:
    """Return which of the four an answer of containerd is; None for another error, which stays what it is."""
    if isinstance(error, NotFound | Unknown | InvalidArgument) and any(
        text in error.message for text in _NO_RUNTIME
    ):
        return RuntimeNotExist
    if isinstance(error, NotFound):
        if _FINISHED in error.message:
            return ProcessExited
        return None if _NO_EXEC in error.message else ContainerNotExist
    return ContainerExists if isinstance(error, AlreadyExists) else None


@contextmanager
def translated() -> Iterator[None]:
    """Raise the errors of this package in place of those of the client."""
    try:
        yield
    except ContainerdError as exc:
        cls = error_class(exc)
        if cls is None or isinstance(exc, cls):
            raise
        raise cls(f"{_TEXTS[cls]}: {exc.message}", method=exc.method, details=exc.details) from exc
