"""The fake daemon itself: what a test holds in its hands."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio

from containerd_aio._supervisor import Supervisor
from containerd_aio.errors import Closed, FailedPrecondition, InvalidArgument
from containerd_aio.testing.fake import event_faults
from containerd_aio.testing.fake.clock import Clock
from containerd_aio.testing.fake.collector import Collector
from containerd_aio.testing.fake.containers import ContainersService
from containerd_aio.testing.fake.content import ContentService
from containerd_aio.testing.fake.diff import DiffService
from containerd_aio.testing.fake.event_faults import EventFault
from containerd_aio.testing.fake.events import EventsService
from containerd_aio.testing.fake.exchange import Exchange
from containerd_aio.testing.fake.fates import Fate
from containerd_aio.testing.fake.images import ImagesService
from containerd_aio.testing.fake.leases import LeasesService
from containerd_aio.testing.fake.namespaces import NamespacesService
from containerd_aio.testing.fake.releases import release_of
from containerd_aio.testing.fake.rpc_faults import (
    Alteration,
    Delay,
    Failure,
    Faults,
    Hold,
    RPCFault,
    grpc_error,
    method_matches,
)
from containerd_aio.testing.fake.runtime import CLEAN_UP_DELAY, Runtime
from containerd_aio.testing.fake.server import Server
from containerd_aio.testing.fake.snapshots import SnapshotsService
from containerd_aio.testing.fake.store import Store
from containerd_aio.testing.fake.system import HealthService, IntrospectionService, VersionService
from containerd_aio.testing.fake.tasks import TasksService
from containerd_aio.testing.fake.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from types import TracebackType

    from betterproto2 import Message

    from containerd_aio.events.event import Event
    from containerd_aio.testing.fake.call import Call
    from containerd_aio.testing.fake.fates import Program
    from containerd_aio.testing.fake.metrics import CgroupVersion
    from containerd_aio.testing.fake.releases import ReleaseName
    from containerd_aio.testing.fake.runtime import OnStart
    from containerd_aio.testing.fake.task import FakeTask


class FakeContainerd:
    """A containerd in memory, for tests: ``async with FakeContainerd() as fake, Client(fake.address) as client``.

    It speaks gRPC on a unix socket and does what the real daemons do, down to the texts of their errors, without root and
    without processes: a container is a story (`Fate`), which is told by `script`, `on_start` or `program`, or by a command
    it knows, such as ``["sh", "-c", "echo hi; exit 3"]``. All of its timing goes by the event loop's clock, so that tests may
    use virtual time.

    Args:
        path: Where to make the socket; a temporary directory by default.
        release: Which release line it behaves like.
        cgroup: In which form it answers Tasks.Metrics.
        default: What a program does that is neither scripted nor known.

    Attributes:
        address: Its address, for `Client`.

    Raises:
        InvalidArgument: The release is not known.
    """

    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        *,
        release: ReleaseName = "2.1",
        cgroup: CgroupVersion = "v1",
        default: Program | None = None,
    ) -> None:
        if cgroup not in {"v1", "v2"}:
            raise InvalidArgument(f"cgroup {cgroup!r} is not one of v1, v2")
        self._release = release_of(release)
        self._cgroup = cgroup
        self._default = default or Fate()
        self._wanted_path = None if path is None else Path(path).absolute()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._supervisor: Supervisor | None = None
        self.address = ""

    def __repr__(self) -> str:
        return f"<FakeContainerd {self._release.name} {self.address or 'not started'}>"

    # --- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start to serve.

        Raises:
            Closed: It was started already.
            FailedPrecondition: Something is at the given path, other than a socket left behind.
            OSError: The socket can't be made.
        """
        if self._supervisor is not None:
            raise Closed("this fake was started already; make another one")
        self._folder = tempfile.TemporaryDirectory(prefix="containerd-aio-fake-")
        root = Path(self._folder.name)
        path = self._wanted_path or root / "containerd.sock"
        self.address = str(path)
        self._supervisor = supervisor = Supervisor()
        try:
            await supervisor.start(f"fake containerd {path}")
            clock = Clock()
            self._world = World(self._release, clock, Store(), Exchange(clock), root, Collector())
            self._runtime = Runtime(self._world, supervisor.task_group, alive=lambda: self._server.listening)
            self._runtime.scripts.default = self._default
            self._server = Server(path, self._services(), lambda: self._faults)
            self._faults = Faults(self._server.methods)
            await self._server.listen()
        except BaseException:
            await self._close(supervisor)
            raise
        return self

    def _services(self) -> list[Any]:
        world = self._world
        kinds = (
            VersionService,
            IntrospectionService,
            NamespacesService,
            EventsService,
            ContainersService,
            LeasesService,
            ContentService,
            ImagesService,
            SnapshotsService,
            DiffService,
        )
        return [
            *(kind(world) for kind in kinds),
            HealthService(),
            TasksService(world, self._runtime, self._cgroup),
        ]

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """End every connection and process; nothing is left on the disk."""
        assert self._supervisor is not None
        with anyio.CancelScope(shield=True):
            self._world.collector.stop()
            self._runtime.close()
            await self._server.close()
            await self._close(self._supervisor)

    async def _close(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.stop()
        finally:
            assert self._folder is not None
            self._folder.cleanup()

    # --- what processes do --------------------------------------------------------------------------------------------

    def script(self, container_id: str, fate: Program, *, exec_id: str = "") -> None:
        """Say what a process does, before it is created: the init process of a container, or an exec of it.

        Args:
            container_id: Id of the container, in whatever namespace.
            fate: A `Fate`, or an async function that is the process: ``async def program(process) -> int``.
            exec_id: Id of the exec; empty for the init process.
        """
        self._runtime.scripts.by_process[container_id, exec_id] = fate

    def program(self, name: str, fate: Program) -> None:
        """Say what the program of that name (``args[0]``, with or without its folder) does in every container."""
        self._runtime.scripts.by_name[name] = fate

    def on_start(self, callback: OnStart) -> OnStart:
        """Have `callback` decide what a process does that has no script: ``callback(process) -> Fate | program | None``.

        It is called when the process is created; None leaves the decision to others. May be used as a decorator.
        """
        self._runtime.scripts.callbacks.append(callback)
        return callback

    # --- tasks --------------------------------------------------------------------------------------------------------

    def task(self, container_id: str, *, namespace: str | None = None) -> FakeTask:
        """Return a task, to look at.

        Args:
            container_id: Id of its container.
            namespace: Its namespace; not needed while only one namespace has a task of that id.

        Raises:
            NotFound: There is none, or there are several.
        """
        return self._runtime.find(container_id, namespace)

    @property
    def tasks(self) -> list[FakeTask]:
        """All tasks."""
        return list(self._runtime.tasks.values())

    def exit(
        self, container_id: str, code: int = 0, *, exec_id: str = "", namespace: str | None = None
    ) -> None:
        """Have a process end now.

        Raises:
            NotFound: There is no such task or exec.
            FailedPrecondition: It does not run.
        """
        task = self.task(container_id, namespace=namespace)
        process = task.process(exec_id)
        if not process.running:
            raise FailedPrecondition(f"{process!r} does not run")
        task.exit(process, code)

    def oom(self, container_id: str, *, event: bool = True, namespace: str | None = None) -> None:
        """Have the kernel kill something in a container for lack of memory: the cgroup counts it, nothing ends.

        Args:
            container_id: Id of the container.
            event: Whether the TaskOOM event is published.
            namespace: As in `task`.
        """
        self.task(container_id, namespace=namespace).out_of_memory(event=event)

    def pause(self, container_id: str, *, namespace: str | None = None) -> None:
        """Pause a task, as another client would."""
        self.task(container_id, namespace=namespace).pause()

    def resume(self, container_id: str, *, namespace: str | None = None) -> None:
        """Resume a task, as another client would."""
        self.task(container_id, namespace=namespace).resume()

    def kill_shim(
        self,
        container_id: str,
        *,
        code: int = 137,
        pid: int | None = None,
        delay: float = CLEAN_UP_DELAY,
        namespace: str | None = None,
    ) -> None:
        """Kill the shim of a task: its Waits fail at once, the daemon's TaskExit and TaskDelete come later.

        Args:
            container_id: Id of the container.
            code: The exit code the daemon tells: 137, or 255 (with ``pid=0``) when its clean-up fails as well.
            pid: The pid it tells; the real one by default.
            delay: Seconds until then.
            namespace: As in `task`.
        """
        self._runtime.kill_shim(self.task(container_id, namespace=namespace), code=code, pid=pid, delay=delay)

    def duplicate_exit(
        self, container_id: str, code: int = 137, *, exec_id: str = "", namespace: str | None = None
    ) -> None:
        """Publish another TaskExit of a process, with the same pid, a later time and perhaps another code."""
        task = self.task(container_id, namespace=namespace)
        task.publish_exit(task.process(exec_id), code=code)

    def reuse_pid(self, pid: int) -> None:
        """Give this pid to the next process."""
        self._runtime.next_pids.append(pid)

    def shift_clock(self, seconds: float) -> None:
        """Set the daemon's wall clock forwards, or backwards with a negative number."""
        self._world.clock.shift(seconds)

    # --- events -------------------------------------------------------------------------------------------------------

    @property
    def published(self) -> list[Event]:
        """The events that were published last (up to 10 000), delivered or not."""
        return [view.event for view in self._world.exchange.published]

    def publish(self, topic: str, event: Message, *, namespace: str = "default") -> None:
        """Publish any event, such as ``TaskExit`` of ``containerd_aio.api.containerd.events``."""
        self._world.exchange.publish(namespace, topic, event)

    async def subscribed(self, count: int = 1) -> None:
        """Wait until there are exactly so many subscriptions."""
        await self._world.exchange.until_subscribed(count)

    def end_subscriptions(self, code: str | None = None, text: str = "") -> None:
        """End every subscription: in good order, or with a gRPC status such as ``UNAVAILABLE``."""
        error = None if code is None else grpc_error(code, text)
        for subscriber in self._world.exchange.subscribers:
            subscriber.end(error)

    def swallow_events(self, *filters: str, times: int | None = None) -> EventFault:
        """Lose events that match any of `filters` (containerd's filter language), or all."""
        return self._event_fault(filters, times, event_faults.swallow)

    def hold_events(self, *filters: str, times: int | None = None) -> EventFault:
        """Keep events back until ``release()`` of what is returned; without filters the streams are silent."""
        return self._event_fault(filters, times, event_faults.hold)

    def delay_events(self, seconds: float, *filters: str, times: int | None = None) -> EventFault:
        """Deliver events later."""
        return self._event_fault(filters, times, event_faults.late(seconds))

    def repeat_events(self, *filters: str, copies: int = 2, times: int | None = None) -> EventFault:
        """Deliver events several times."""
        return self._event_fault(filters, times, event_faults.repeat(copies))

    def _event_fault(self, filters: Sequence[str], times: int | None, act: event_faults.Act) -> EventFault:
        return EventFault(self._world.exchange, filters, times=times, act=act)

    # --- calls --------------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> list[Call]:
        """The calls that came last (up to 10 000)."""
        return list(self._server.calls)

    async def called(self, method: str, count: int = 1) -> list[Call]:
        """Wait until there were so many calls of a method, as in ``Tasks/Create``; return them."""
        return await self._server.called(lambda call: method_matches(call.method, method), count)

    def fail(
        self,
        method: str,
        code: str,
        text: str = "",
        *,
        times: int | None = 1,
        after: bool = False,
        when: Callable[[Call], bool] | None = None,
    ) -> RPCFault:
        """Refuse calls of a method.

        Args:
            method: As in ``Tasks/Create``, or ``Tasks/*``.
            code: gRPC status, as in ``UNAVAILABLE``.
            text: Its text.
            times: How many calls; None is all.
            after: Carry them out first: only the reply is an error.
            when: Tells which calls are meant.

        Raises:
            InvalidArgument: There is no such method or status.
        """
        return Failure(self._faults, method, grpc_error(code, text), after=after, times=times, when=when)

    def delay(
        self,
        method: str,
        seconds: float,
        *,
        times: int | None = None,
        reply: bool = False,
        when: Callable[[Call], bool] | None = None,
    ) -> RPCFault:
        """Carry out calls later; with `reply` carry them out at once and send the reply later."""
        return Delay(self._faults, method, seconds, reply=reply, times=times, when=when)

    def hold(
        self,
        method: str,
        *,
        times: int | None = None,
        before: bool = False,
        when: Callable[[Call], bool] | None = None,
    ) -> Hold:
        """Keep back replies until ``release()`` of what is returned; with `before` the calls themselves.

        Never released, the calls are never answered.
        """
        return Hold(self._faults, method, before=before, times=times, when=when)

    def alter(
        self,
        method: str,
        change: Callable[[Any], Any],
        *,
        times: int | None = None,
        when: Callable[[Call], bool] | None = None,
    ) -> RPCFault:
        """Send what `change` makes of each reply."""
        return Alteration(self._faults, method, change, times=times, when=when)

    def clear_faults(self) -> None:
        """End all faults of calls and of events."""
        self._faults.clear()
        self._world.exchange.interceptors.clear()

    # --- connections --------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return self._server.connections

    async def drop_connections(self) -> None:
        """Break every connection, and return when they are gone; new ones are accepted."""
        self._server.drop()
        await self._server.dropped()

    def freeze(self) -> None:
        """Neither read nor write any more, as a daemon under SIGSTOP: connections stay, and new ones are not answered."""
        self._server.freeze()

    def thaw(self) -> None:
        """Go on where `freeze` stopped."""
        self._server.thaw()

    async def stop(self, *, graceful: bool = False) -> None:
        """Take the daemon away; its containers go on.

        Args:
            graceful: Remove the socket, as after SIGTERM; otherwise it stays without anybody behind it, as after SIGKILL.
        """
        self._server.refuse(remove_socket=graceful)
        self._server.drop()
        await self._server.dropped()

    async def start(self) -> None:
        """Bring it back after `stop`: records are kept, subscriptions are gone, and tasks are as the release has it.

        containerd 1.6 still knows a task that ended meanwhile, and its shim publishes the exit when it tries again, unless
        it gave up. Later releases forget such a task without a word.
        """
        self._server.thaw()
        self._runtime.daemon_started()
        await self._server.listen()

    async def restart(self) -> None:
        """`stop` and `start`."""
        await self.stop()
        await self.start()
