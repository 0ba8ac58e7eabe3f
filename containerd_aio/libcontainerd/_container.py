"""What a client knows of one container, from before it is made until its exit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

from containerd_aio.libcontainerd.states import INIT_FRIENDLY_NAME

if TYPE_CHECKING:
    from containerd_aio.events.states import StateChange
    from containerd_aio.libcontainerd._delivery import Callback
    from containerd_aio.libcontainerd.backend import StdioCallback
    from containerd_aio.libcontainerd.iopipe import AttachedIO
    from containerd_aio.libcontainerd.options import CreateParameters
    from containerd_aio.process import Process
    from containerd_aio.task import Task


@dataclass(eq=False, slots=True)
class KnownProcess:
    """A process of a container.

    Attributes:
        handle: The process.
        command: Its command line.
        io: Its standard streams, if they were given away.
    """

    handle: Process
    command: str
    io: AttachedIO | None = None


@dataclass(eq=False, slots=True)
class KnownContainer:
    """A container that was created or restored, and whose exit was not seen.

    Attributes:
        id: Its id.
        parameters: How it is made.
        attach_stdio: Takes its standard streams; None throws them away.
        task: Its task, while there is one.
        processes: Its processes that run, by name; init is `INIT_FRIENDLY_NAME`.
        held: Changes that came before the backend was told of the start; None when it was.
        began: When that was, by the clock of the loop.
        paused: Whether the backend was told last that it is paused.
        oom_killed: Whether there was an OOM report in this life.
        quiet: Whether it is being ended: only its exit is told.
        waiters: Who waits for the backend to be told of a state.
        exit_callback: What tells of the exit of its last life.
        gone: Set when that was submitted.
    """

    id: str
    parameters: CreateParameters
    attach_stdio: StdioCallback | None = None
    task: Task | None = None
    processes: dict[str, KnownProcess] = field(default_factory=dict)
    held: list[StateChange] | None = field(default_factory=list)
    began: float = 0.0
    paused: bool = False
    oom_killed: bool = False
    quiet: bool = False
    waiters: dict[str, list[anyio.Event]] = field(default_factory=dict)
    exit_callback: Callback | None = None
    gone: anyio.Event = field(default_factory=anyio.Event)

    @property
    def life(self) -> int | None:
        """Which life of the container it is, in `StateChange.incarnation`; None before its task is made."""
        return self.task.incarnation.opened if self.task is not None else None

    def prepare_life(self) -> None:
        """Begin anew: what was known of the last task is over."""
        self.task = None
        self.held = []
        self.processes = {}
        self.paused = self.oom_killed = False

    def begin(self, task: Task, io: AttachedIO | None, spec: Any) -> None:
        """Take in its task."""
        self.task = task
        args = ((spec or {}).get("process") or {}).get("args") or []
        self.processes = {INIT_FRIENDLY_NAME: KnownProcess(task, " ".join(args), io)}

    def expect(self, state: str) -> anyio.Event:
        """Return what is set when the backend was told of a state, or the container ended."""
        waiter = anyio.Event()
        self.waiters.setdefault(state, []).append(waiter)
        return waiter

    def expect_no_more(self, state: str, waiter: anyio.Event) -> None:
        """Forget somebody who waits."""
        waiters = self.waiters.get(state, [])
        if waiter in waiters:
            waiters.remove(waiter)

    def told(self, state: str) -> None:
        """Wake who waits for a state."""
        for waiter in self.waiters.pop(state, ()):
            waiter.set()

    def end(self) -> None:
        """Take it that init has ended."""
        for state in list(self.waiters):
            self.told(state)
        for process in self.processes.values():
            if process.io is not None:
                process.io.exited()
