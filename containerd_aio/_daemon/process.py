"""Processes of ours: the daemon and its guardian, watched by pidfd."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Self

import anyio
import anyio.to_thread

from containerd_aio._daemon import cleanup, log_keeper
from containerd_aio._daemon.cleanup import Handle, Layout

# systemd's sockets and watchdog are meant for this process, not for its child
_NOT_INHERITED = frozenset({"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "WATCHDOG_USEC", "WATCHDOG_PID"})


def inherited_environment(path: str) -> dict[str, str]:
    """Return the environment of a daemon: ours, with another ``PATH``."""
    env = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return env | {"PATH": path}


def spawn(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int | None = None,
    output: str = os.devnull,
    keep_fd: int | None = None,
    blocked: Collection[signal.Signals] = (),
) -> Handle:
    """Start a process in a session of its own and hold it by pidfd.

    Args:
        argv: Executable and arguments.
        env: Its whole environment.
        stdin: Descriptor that becomes its standard input; None is /dev/null.
        output: File to which standard output and error are appended.
        keep_fd: A descriptor that it inherits besides, under the same number.
        blocked: Signals that it starts with blocked.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    read_null = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    actions: list[tuple[object, ...]] = [
        read_null if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0),
        (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    if keep_fd is not None:
        # dup2 onto itself is how posix_spawn is asked to clear close-on-exec
        actions.append((os.POSIX_SPAWN_DUP2, keep_fd, keep_fd))
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        env,
        file_actions=actions,
        setsid=True,
        setsigmask=blocked,
        setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ),
    )
    return Handle(pid)


def keep_log(path: str, pid: int) -> None:
    """Start the process that bounds the log of a detached daemon; blocks for a few milliseconds."""
    argv = [sys.executable, "-I", "-S", log_keeper.__file__, path, str(pid)]
    handle = spawn(argv, env={})
    try:
        os.waitid(os.P_PIDFD, handle.fd, os.WEXITED)  # it goes on in a child of its own
    except ChildProcessError:
        pass  # SIGCHLD is ignored here
    finally:
        handle.close()


class WatchedProcess:
    """A running daemon, our child or adopted.

    Attributes:
        pid: Its process id.
        exited: Set once it has ended and, if it is our child, was reaped.
        returncode: Exit code, or the negated signal that ended it; None while it runs, and for an adopted one.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.pid = handle.pid
        self.exited = anyio.Event()
        self.returncode: int | None = None

    async def watch(self) -> None:
        """Wait for the end and reap; runs in the background for as long as the process is looked after."""
        try:
            await anyio.wait_readable(self._handle.fd)
            # Somebody else's child can't be reaped, nor one of ours where SIGCHLD is ignored.
            with contextlib.suppress(ChildProcessError):
                result = os.waitid(os.P_PIDFD, self._handle.fd, os.WEXITED | os.WNOHANG)  # noqa: ASYNC222
                if result is not None:
                    code = result.si_status
                    self.returncode = code if result.si_code == os.CLD_EXITED else -code
            self.exited.set()
        finally:
            anyio.notify_closing(self._handle.fd)
            self._handle.close()

    def send(self, signum: int) -> None:
        """Send a signal; nothing happens when it has ended."""
        if not self.exited.is_set():
            self._handle.send(signum)

    def __str__(self) -> str:
        if not self.exited.is_set():
            return f"pid {self.pid}, running"
        if self.returncode is None:
            return f"pid {self.pid}, ended"
        if self.returncode < 0:
            return f"pid {self.pid}, killed by {signal.Signals(-self.returncode).name}"
        return f"pid {self.pid}, ended with exit code {self.returncode}"


class Guardian:
    """The process that clears up if ours is killed. It holds the daemon's lock as well, until it is done."""

    def __init__(self, handle: Handle, pipe: int) -> None:
        self._handle = handle
        self._pipe = pipe

    @classmethod
    def start(cls, layout: Layout, *, lock: int) -> Self:
        """Start one; blocks for a few milliseconds."""
        reader, writer = os.pipe()
        try:
            argv = [sys.executable, "-I", "-S", cleanup.__file__, str(os.getpid())]
            env = {"PATH": layout.path}
            handle = spawn(argv, env=env, stdin=reader, keep_fd=lock, blocked=cleanup.GUARDIAN_SIGNALS)
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(reader)
        guardian = cls(handle, writer)
        guardian.tell(layout.to_json())
        return guardian

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._handle.pid

    def tell(self, line: str) -> None:
        """Send a line: a newer layout, or ``done``."""
        with contextlib.suppress(BrokenPipeError):  # somebody killed it
            os.write(self._pipe, line.encode() + b"\n")

    async def dismiss(self) -> None:
        """Tell it that nothing is left to do, and reap it."""
        self.tell("done")
        os.close(self._pipe)
        process = WatchedProcess(self._handle)
        await process.watch()
