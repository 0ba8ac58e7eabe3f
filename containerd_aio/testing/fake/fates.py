"""What a process of the fake does when it is started."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from containerd_aio.testing.fake.process import FakeProcess

Program = Callable[["FakeProcess"], Awaitable[int | None]]
"""An async function that is the process: it may write, read, sleep; what it returns is the exit code (None is 0)."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What a process does, told beforehand.

    Attributes:
        exit_code: Its exit code; None runs until it is killed.
        after: Seconds from the start to the exit, by the event loop's clock. With 0 the exit is published before the
            reply to the start is sent, which happens in reality as well.
        stdout: What it writes to its stdout when it is started.
        stderr: What it writes to its stderr when it is started.
        traps: Signals it handles, and the exit code each leads to; None is for a signal it ignores. Without a handler an
            init process ignores all signals but SIGKILL, as Linux has it, and an exec dies of every one.
        oom: The kernel kills it for lack of memory at the end: the exit code becomes 137, and the cgroup counts it.
        oom_event: Whether, and when, the TaskOOM event of that is published. Real ones are missing for a fifth of the
            kills on a busy machine.
        create_error: The task can't be created; the text is the runtime's.
        start_error: The process can't be started; the text is the runtime's.
    """

    exit_code: int | None = 0
    after: float = 0.0
    stdout: bytes = b""
    stderr: bytes = b""
    traps: Mapping[int, int | None] = field(default_factory=dict)
    oom: bool = False
    oom_event: str = "before-exit"
    create_error: str = ""
    start_error: str = ""

    def __post_init__(self) -> None:
        if self.exit_code is not None and not 0 <= self.exit_code <= 255:
            raise InvalidArgument(f"exit_code is {self.exit_code}; it must be from 0 to 255")
        if self.after < 0:
            raise InvalidArgument(f"after is {self.after} seconds; it must not be negative")
        if self.oom_event not in {"before-start", "before-exit", "after-exit", "never"}:
            raise InvalidArgument(
                f"oom_event is {self.oom_event!r}; it is one of before-start, before-exit, after-exit, never"
            )

    @property
    def silent(self) -> bool:
        """Whether it writes nothing, so that a timer is all it needs."""
        return not self.stdout and not self.stderr

    async def __call__(self, process: FakeProcess) -> int | None:
        """Be the process."""
        if self.stdout:
            await process.write(self.stdout)
        if self.stderr:
            await process.write(self.stderr, stderr=True)
        if self.exit_code is None:
            await anyio.sleep_forever()
        await anyio.sleep(self.after)
        return self.exit_code


RUNS_FOR_EVER = Fate(exit_code=None)
"""Runs until it is killed."""
