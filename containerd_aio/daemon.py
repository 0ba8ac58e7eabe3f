"""A containerd process of our own: start, adopt, watch, restart, stop, and leave nothing behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import anyio
import anyio.to_thread

from containerd_aio._daemon import cleanup
from containerd_aio._daemon.cleanup import Layout
from containerd_aio._daemon.config import LOG_LEVELS, generate
from containerd_aio._daemon.logs import Follower, last_words
from containerd_aio._daemon.paths import (
    check_free,
    directories,
    executable,
    make_directories,
    socket_path,
    take_lock,
    write_private,
)
from containerd_aio._daemon.probe import probe
from containerd_aio._daemon.process import Guardian, WatchedProcess, inherited_environment, keep_log, spawn
from containerd_aio._daemon.supervision import Supervision, Watchdog
from containerd_aio._log import get_logger
from containerd_aio._supervisor import Supervisor
from containerd_aio.errors import (
    Closed,
    ContainerdError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
    Unimplemented,
)

__all__ = ["Daemon", "Supervision"]

_POLL = 0.01
_PROBE_TIMEOUT = 2.0
_LOCK_POLL = 0.05


class Daemon:
    """A private containerd, as an async context manager.

    Entering starts the daemon, or adopts the one that is running with the same `state`, and returns when it answers.
    Leaving stops it together with its shims and containers, unmounts what they mounted and deletes the directories
    that did not exist before. The same is done by a small guardian process if this process is killed.

    ::

        async with Daemon() as daemon, Client(daemon.address) as client:
            ...

    Linux 5.3 and root are needed. Its log arrives as structlog events, at the level containerd gave them.

    Args:
        root: Directory for persistent data; None is a new one, deleted in the end.
        state: Directory for sockets, bundles and the pid file, best on a tmpfs; None is a new one below ``/run``, the
            same for the same `root`.
        address: Path of the gRPC socket; None is ``containerd.sock`` in `state`. At most 101 bytes; one in use is refused.
        binary: The containerd executable; None is the one on ``PATH``. The folder of a given one is searched first
            for shims and runc.
        path: Folders put in front of the daemon's ``PATH``.
        config: Settings of containerd's configuration file, merged over the generated ones (version 2 of the format).
        cri: Leave the Kubernetes plugins enabled.
        log_level: containerd's: trace, debug, info, warn, error, fatal or panic.
        start_timeout: Seconds until the daemon must answer, and for which a clean-up of its predecessor is awaited.
        stop_timeout: Seconds between SIGTERM and SIGKILL.
        adopt: Take over a live daemon of the same `state`; False refuses to start beside it.
        detach: Leave the daemon running when the context is left or this process dies. To adopt it later, give
            `root` and `state`. A small process beside it keeps its log from growing for ever.
        supervise: Start the daemon again when it ends by itself, and kill and start it when it hangs, as long as the context
            is open; True for the default `Supervision`. `stop` and `kill` are not undone.
        keep: Don't delete `root`, even if it was created here.

    Raises:
        InvalidArgument: An argument can't be used; nothing was touched.
        NotFound: There is no containerd on ``PATH``.

    Attributes:
        root: Directory for persistent data.
        state: Directory for everything else.
        address: Where it listens, for `Client`.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        state: str | os.PathLike[str] | None = None,
        *,
        address: str | os.PathLike[str] | None = None,
        binary: str | os.PathLike[str] | None = None,
        path: Sequence[str | os.PathLike[str]] = (),
        config: Mapping[str, Any] | None = None,
        cri: bool = False,
        log_level: str = "info",
        start_timeout: float = 15.0,
        stop_timeout: float = 15.0,
        adopt: bool = True,
        detach: bool = False,
        keep: bool = False,
        supervise: bool | Supervision = False,
    ) -> None:
        if log_level not in LOG_LEVELS:
            raise InvalidArgument(f"log_level={log_level!r}: containerd knows {', '.join(LOG_LEVELS)}")
        self._log_level = log_level
        if start_timeout <= 0 or stop_timeout < 0:
            raise InvalidArgument("start_timeout has to be more than 0 seconds, stop_timeout at least 0")
        self.root, self.state = directories(root, state)
        self.address = socket_path(address, self.state)
        found, search = executable(binary, [os.fspath(folder) for folder in path])
        self._layout = Layout(
            root=self.root,
            state=self.state,
            address=self.address,
            config=f"{self.state}/config.toml",
            binary=found,
            path=search,
            stop_timeout=stop_timeout,
        )
        self._config = generate(
            root=self.root,
            state=self.state,
            address=self.address,
            cri=cri,
            log_level=log_level,
            config=config,
        )
        self._start_timeout = start_timeout
        self._adopt = adopt
        self._detach = detach
        self._keep = keep
        self._supervision = Supervision() if supervise is True else supervise or None
        self._restarts = 0
        self._begun = anyio.Event()  # set, and replaced, when there is another process
        self._log = get_logger(__name__).bind(daemon=self.address)
        self._busy = anyio.Lock()
        self._process: WatchedProcess | None = None
        self._launched: cleanup.Handle | None = None  # started by a worker thread, not yet taken over
        self._expected_end = False
        self._version = ""
        self._supervisor: Supervisor | None = None
        self._follower: Follower | None = None
        self._guardian: Guardian | None = None
        self._lock: int | None = None
        self._owned = False  # until a daemon is started or adopted there is nothing of ours to clear up
        # Worker threads outlive a cancelled await. Whatever one of them starts, it starts under this lock and not
        # after leaving has begun, so that nothing can appear behind the back of the clean-up.
        self._gate = threading.Lock()
        self._leaving = False

    def __repr__(self) -> str:
        return f"<Daemon {self.address} ({self._process or 'not started'})>"

    # -- what is known of it ------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the process exists; a frozen one does."""
        return self._process is not None and not self._process.exited.is_set()

    @property
    def pid(self) -> int:
        """Process id of the daemon, also after its end.

        Raises:
            Closed: It was never started.
        """
        return self._current().pid

    @property
    def version(self) -> str:
        """What the daemon says its version is, for example ``1.7.24~ds1``; empty before it first answered."""
        return self._version

    @property
    def restarts(self) -> int:
        """How often it was started again by supervision."""
        return self._restarts

    @property
    def log_file(self) -> str:
        """The file to which the daemon writes its log."""
        return f"{self.root}/containerd.log"

    # -- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if os.geteuid() != 0:
            raise PermissionDenied("containerd has to run as root; this process does not")
        if not hasattr(os, "pidfd_open"):
            raise Unimplemented("a daemon can only be kept on Linux")
        if self._supervisor is not None or self._leaving:
            raise FailedPrecondition("a Daemon can be entered once; make another one")
        self._supervisor = Supervisor()
        await self._supervisor.start(f"containerd-aio daemon {self.address}")
        try:
            await self._take_lock()
            await self._begin()
            if self._supervision is not None:
                self._supervisor.task_group.start_soon(self._watchdog(self._supervision).run)
        except BaseException:
            await self._leave(failed=True)
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._leave()

    async def start(self) -> None:
        """Start the daemon again after `stop`, `kill` or its own end. Containers that still run are found again.

        Raises:
            FailedPrecondition: It is running.
            Closed: The context is not open.
            Unavailable: It ended before it was ready; the text has the last lines of its log.
            DeadlineExceeded: It was not ready within `start_timeout`; it has been killed.
        """
        async with self._busy:
            if self.running:
                raise FailedPrecondition(f"the daemon is running (pid {self.pid})")
            await self._start()

    async def stop(self) -> None:
        """Stop the daemon: SIGTERM, and SIGKILL after `stop_timeout`. Its containers go on without it."""
        async with self._busy:
            await self._stop()

    async def restart(self) -> None:
        """Stop and start it, with the same directories and address. Raises what `start` raises."""
        async with self._busy:
            await self._stop()
            await self._start()

    async def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send the daemon a signal; with SIGKILL, return when it has ended.

        SIGSTOP freezes it (it accepts connections and never answers), SIGCONT lets it go on.
        """
        process = self._current()
        if signum in (signal.SIGKILL, signal.SIGTERM):
            self._expected_end = True
        process.send(signum)
        if signum == signal.SIGKILL:
            await process.exited.wait()

    async def wait(self) -> int | None:
        """Wait until the running daemon process has ended.

        Returns:
            Its exit code, the negated signal number if it was killed by one, or None for an adopted daemon, whose
            exit code only its parent learns.
        """
        process = self._current()
        await process.exited.wait()
        return process.returncode

    # -- beginning ----------------------------------------------------------------------------------------------

    async def _take_lock(self) -> None:
        """Lock the state directory: one `Daemon` at a time, and none while a guardian clears up."""
        with anyio.move_on_after(self._start_timeout):
            while not await anyio.to_thread.run_sync(self._try_lock):  # noqa: ASYNC110
                await anyio.sleep(_LOCK_POLL)  # no event tells of another process' lock
            return
        raise FailedPrecondition(
            f"the daemon of {self.state} is kept by another Daemon, in this process or another"
        )

    def _try_lock(self) -> bool:
        with self._gate:
            if self._leaving:
                return False
            self._note_created(make_directories(os.path.dirname(self.state)))  # noqa: PTH120
            self._lock = take_lock(self._layout.lock)
            if self._lock is not None:
                self._note_created(make_directories(self.state))
                return True
            return False

    async def _begin(self) -> None:
        handles = await anyio.to_thread.run_sync(cleanup.find_daemon, self._layout)
        for extra in handles[1:]:
            extra.close()
        if handles:
            await self._take_over(WatchedProcess(handles[0]))
        else:
            self._owned = True
            # Whoever was here before us and was stopped: the state is then as much ours as it was theirs.
            recorded = await anyio.to_thread.run_sync(cleanup.recorded, self._layout)
            self._note_created({self.state}.intersection(recorded.created))
            await anyio.to_thread.run_sync(self._prepare)
            self._follow_log()
            await self._start()

    async def _take_over(self, process: WatchedProcess) -> None:
        """Adopt a running daemon. Until that has succeeded it is not ours, and left alone."""
        self._look_after(process)
        if not self._adopt:
            raise FailedPrecondition(
                f"the daemon of {self.state} is running (pid {process.pid}), and adopt=False"
            )
        recorded = await anyio.to_thread.run_sync(cleanup.recorded, self._layout)
        if (recorded.root, recorded.address) != (self.root, self.address):
            raise FailedPrecondition(
                f"the daemon of {self.state} (pid {process.pid}) runs with root={recorded.root!r} and "
                f"address={recorded.address!r}; give these to adopt it"
            )
        self._follow_log()
        await self._await_ready(process)
        self._note_created(recorded.created)
        self._owned = True
        await anyio.to_thread.run_sync(self._prepare)
        self._log.info("containerd adopted", pid=process.pid, version=self._version)

    def _note_created(self, folders: Iterable[str]) -> None:
        created = {*self._layout.created, *folders} - ({self.root} if self._keep else set())
        self._layout = dataclasses.replace(self._layout, created=tuple(sorted(created)))

    def _prepare(self) -> None:
        with self._gate:
            if self._leaving or self._lock is None:
                return
            self._note_created(make_directories(self.root))
            self._note_created(make_directories(os.path.dirname(self.address)))  # noqa: PTH120
            if not self._detach:
                self._guardian = Guardian.start(self._layout, lock=self._lock)

    def _launch(self) -> None:
        with self._gate:
            if self._leaving:
                raise Closed("the daemon's context has been left")
            check_free(self.address, f"{self.address}.ttrpc", patience=3)
            write_private(self._layout.config, self._config)
            write_private(f"{self.state}/layout.json", self._layout.to_json())
            argv = [self._layout.binary, "--config", self._layout.config]
            handle = spawn(argv, env=inherited_environment(self._layout.path), output=self.log_file)
            self._launched = handle
            if self._detach:
                keep_log(self.log_file, handle.pid)
            write_private(f"{self.state}/containerd.pid", f"{handle.pid}\n")

    async def _start(self) -> None:
        if self._supervisor is None or self._leaving:
            raise Closed("a daemon runs while its context is open: use `async with Daemon(...)`")
        self._launched = None
        self._expected_end = True  # until it is ready, its end is reported here and not by the watcher
        try:
            await anyio.to_thread.run_sync(self._launch)
            await self._await_ready(self._take_launched())
            self._expected_end = False
        except BaseException:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._abort)
                if self._launched is not None:  # the launch succeeded after it was cancelled
                    self._take_launched()
                if self._process is not None:
                    self._process.send(signal.SIGKILL)  # just started, it may not have been found yet
                    await self._process.exited.wait()
            raise

    def _take_launched(self) -> WatchedProcess:
        assert self._launched is not None
        process, self._launched = WatchedProcess(self._launched), None
        self._look_after(process)
        return process

    def _abort(self) -> None:
        with self._gate:
            cleanup.end_daemon(dataclasses.replace(self._layout, stop_timeout=0))

    async def _await_ready(self, process: WatchedProcess) -> None:
        problem = "it does not answer"
        with anyio.move_on_after(self._start_timeout):
            while not process.exited.is_set():
                try:
                    self._version = await probe(
                        self.address, timeout=min(_PROBE_TIMEOUT, self._start_timeout / 2)
                    )
                except (Unavailable, DeadlineExceeded) as error:
                    problem = str(error)
                else:
                    return
                with anyio.move_on_after(_POLL):
                    await process.exited.wait()
        words = ""
        if self._follower is not None:
            await self._follower.drain()
            words = last_words(self._follower.recent)
        if process.exited.is_set():
            raise Unavailable(f"containerd did not start ({process}){words}")
        raise DeadlineExceeded(
            f"containerd ({process}) was not ready within start_timeout={self._start_timeout:g} s: "
            f"{problem}{words}"
        )

    # -- keeping ------------------------------------------------------------------------------------------------

    def _current(self) -> WatchedProcess:
        if self._process is None:
            raise Closed("the daemon was not started: use `async with Daemon(...)`")
        return self._process

    def _look_after(self, process: WatchedProcess) -> None:
        if self._supervisor is None or self._leaving:
            raise Closed("the daemon's context has been left")
        self._process = process
        begun, self._begun = self._begun, anyio.Event()
        begun.set()
        self._supervisor.task_group.start_soon(self._watch, process)

    def _follow_log(self) -> None:
        """Begin with what is written from now on: called before the daemon is started."""
        if self._follower is None and self._supervisor is not None:
            self._follower = Follower(self.log_file, self._log, level=self._log_level)
            self._supervisor.task_group.start_soon(self._follower.run)

    async def _watch(self, process: WatchedProcess) -> None:
        await process.watch()
        if not self._expected_end:
            self._log.error("containerd ended unexpectedly", pid=process.pid, returncode=process.returncode)

    # -- supervising --------------------------------------------------------------------------------------------

    def _watchdog(self, supervision: Supervision) -> Watchdog:
        return Watchdog(
            supervision, self.address, self._log, self._current, lambda: self._expected_end, self._another,
            self._start_again,
        )  # fmt: skip

    async def _another(self, process: WatchedProcess) -> None:
        while self._process is process:
            await self._begun.wait()

    async def _start_again(self) -> None:
        async with self._busy:
            if self.running or self._expected_end:
                return
            try:
                await self._start()
                self._restarts += 1
            except (ContainerdError, OSError) as error:
                self._expected_end = False
                self._log.error("containerd could not be started again", error=str(error))

    # -- ending -------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._expected_end = True
        if not self.running:
            return
        process = self._current()
        process.send(signal.SIGTERM)
        process.send(signal.SIGCONT)  # a frozen one would not see the other signal
        with anyio.move_on_after(self._layout.stop_timeout) as in_time:
            await process.exited.wait()
        if in_time.cancelled_caught:
            self._log.warning("containerd did not stop in time and is killed", pid=process.pid)
            process.send(signal.SIGKILL)
            await process.exited.wait()
        cleanup.remove_traces(self._layout)

    async def _leave(self, *, failed: bool = False) -> None:
        with anyio.CancelScope(shield=True):
            self._expected_end = self._owned
            for problem in await anyio.to_thread.run_sync(self._clear_up, failed):
                self._log.warning("left behind", problem=problem)
            if self._owned and not self._detach and self._process is not None:
                await self._process.exited.wait()
            if self._guardian is not None:
                await self._guardian.dismiss()
            if self._lock is not None:
                os.close(self._lock)
            if self._supervisor is not None:
                await self._supervisor.stop()

    def _clear_up(self, failed: bool) -> list[str]:
        with self._gate:
            self._leaving = True
            layout = self._layout
            if self._lock is None:
                return []
            if not self._owned:
                return list(cleanup.remove_created(layout))  # of a daemon that was not even started
            if self._detach:
                # Also when it could not be started: containers that it is detached for must not end by that.
                kept = self.running or cleanup.has_shims(layout)
                gone = {*layout.created} if failed else {self.state}.intersection(layout.created)
                layout = dataclasses.replace(layout, created=() if kept else tuple(gone))
                return list(cleanup.remove_created(layout))
        return cleanup.clean(layout)
