"""The four errors of Docker's execdriver, with its texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound

if TYPE_CHECKING:
    from containerd_aio.execdriver.types import ExitStatus


class NotRunning(FailedPrecondition):
    """The process could not be started (Docker: ErrNotRunning).

    Attributes:
        exit_status: What Docker's driver returned beside the error: code -1, no OOM.
    """

    def __init__(self, message: str = "", *, method: str | None = None) -> None:
        super().__init__(_text("Process could not be started", message), method=method)

    @property
    def exit_status(self) -> ExitStatus:
        """Code -1, no OOM."""
        from containerd_aio.execdriver.types import ExitStatus

        return ExitStatus(-1, oom_killed=False)


class WaitTimeoutReached(DeadlineExceeded):
    """What was waited for did not happen in time (Docker: ErrWaitTimeoutReached)."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_text("Wait timeout reached", message))


class DriverAlreadyRegistered(AlreadyExists):
    """There is a driver of that name (Docker: ErrDriverAlreadyRegistered)."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_text("A driver already registered this docker init function", message))


class DriverNotFound(NotFound):
    """There is no driver of that name (Docker: ErrDriverNotFound)."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_text("The requested docker init has not been found", message))


def _text(docker: str, message: str) -> str:
    return f"{docker}: {message}" if message else docker
