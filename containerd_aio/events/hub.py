"""The event hub: one subscription to the daemon, kept alive, in step with what the daemon says, and fanned out.

One session goes through: connect, subscribe, publish a sentinel until it comes back (only then is the subscription
known to be live), list the tasks, work out what was missed, hand out what arrived meanwhile, and then live. When it
breaks, the next one begins, for ever. Decisions are the registry's; here they are carried out.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from containerd_aio._backoff import Backoff
from containerd_aio._log import get_logger
from containerd_aio.errors import (
    Closed,
    ContainerdError,
    InvalidArgument,
    Unavailable,
    Unimplemented,
    Unknown,
)
from containerd_aio.events.audit import Audit
from containerd_aio.events.decode import MAX_ROUTES, EnvelopeView, Route, decode_envelope, route_of
from containerd_aio.events.effects import CheckOOM, Confirm, Decided, Effect, Synthesised, Unclear
from containerd_aio.events.inquiry import Inquiry
from containerd_aio.events.labels import LabelCache
from containerd_aio.events.model import Event, Gap
from containerd_aio.events.records import Incarnation, ProcessRecord
from containerd_aio.events.registry import Registry
from containerd_aio.events.sentinel import TOPIC as SENTINEL_TOPIC
from containerd_aio.events.sentinel import Sentinels
from containerd_aio.events.status import Statistics, StatusLog
from containerd_aio.events.stream import Envelopes, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from anyio.abc import TaskGroup

    from containerd_aio._transport.connections import Connections
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.events.subscription import Subscription

# Held this long, a connection is a good one and the next loss is tried again at once.
STABLE_AFTER = 5.0
# Seconds that a clock may be short of what was slept.
RESOLUTION = 0.001
# Beginnings of the topics that the core itself listens to.
_OURS = ("/tasks/", "/containers/", SENTINEL_TOPIC)

_log = get_logger(__name__)


class Observer(Protocol):
    """Who is told of everything at once, in the order in which the registry concludes it; it must not block or raise."""

    def follows(self, namespace: str) -> bool:
        """Return whether tasks of `namespace` shall be watched though nobody holds a handle."""

    def effects(self, effects: Sequence[Effect]) -> None:
        """Take what follows from one piece of evidence."""

    def event(self, event: Event) -> None:
        """Take an event about a task, after its effects."""


class EventHub:
    """Feeds the registry and the subscribers of one client; run by the client's task group.

    Args:
        connections: The connections of the client.
        heartbeat: Seconds without traffic after which the daemon is asked for a sign of life.
        patience: Seconds within which a sentinel must come back.
        audit: Seconds from one audit to the next; None for none.
        backoff: Delays between attempts to reconnect.

    Attributes:
        registry: What is known of every task.
        labels: What is known of the labels of containers, if somebody selects by them.
        status: The state of the stream, now and before.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        heartbeat: float = 30.0,
        patience: float = 5.0,
        audit: float | None = 120.0,
        backoff: Backoff | None = None,
    ) -> None:
        self.registry = Registry()
        self.status = StatusLog()
        self._connections = connections
        self._heartbeat = heartbeat
        self._backoff = backoff or Backoff()
        self._sentinels = Sentinels(connections, patience=patience)
        self._inquiry = Inquiry(connections)
        self._audit: Audit | None = None
        if audit is not None:
            self._audit = Audit(self.registry, self._inquiry, self._carry_out, interval=audit)
        self.labels = LabelCache(connections, self._spawn)
        self._subscribers: set[Subscription] = set()
        self._wanted: dict[Route, bool] = {}
        self._observers: tuple[Observer, ...] = ()
        self._waiters: dict[ProcessRecord, anyio.Event] = {}
        self._buffer: list[EnvelopeView] | None = None
        self._tasks: TaskGroup | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._failure: ContainerdError | None = None
        self._final: ContainerdError | None = None
        self._attempts = 0
        self._lost_at: datetime | None = None
        self._lost_reason = ""
        self._last_traffic = 0.0
        self._closed = False
        self._events = self._sessions = self._resynced = self._malformed = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Hold a session, and after it the next, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            async with anyio.create_task_group() as self._tasks:
                while True:
                    began = loop.time()
                    error = await self._session()
                    if self.status.present.state == "connected" and loop.time() - began > STABLE_AFTER:
                        self._backoff.reset()
                    self._attempts += 1
                    self._failure = error
                    self._lost(error)
                    if _is_permanent(error):
                        self._final = error
                        return
                    await anyio.sleep(self._backoff.next())
        finally:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._tasks = None
        if self._timer is not None:
            self._timer.cancel()
        for subscriber in list(self._subscribers):
            subscriber.close(self._final)
        for waiter in self._waiters.values():
            waiter.set()
        self._sentinels.interrupt()
        self.status.close()

    def _lost(self, error: ContainerdError) -> None:
        if self._lost_at is None:
            self._lost_at, self._lost_reason = datetime.now(UTC), str(error)
        if self.status.present.state != "disconnected":
            _log.warning("event stream lost", reason=str(error), address=str(self._connections.address))
        self.status.set("disconnected", str(error))
        self.registry.disconnected()
        self._replay()  # what was heard before the break is evidence, though the listing never came
        self._sentinels.interrupt()

    async def _session(self) -> ContainerdError:
        """Hold one subscription from end to end; return why it ended."""
        self._buffer = []
        ended: list[ContainerdError] = []
        try:
            async with subscribe(self._connections.events) as envelopes, anyio.create_task_group() as group:
                group.start_soon(self._read, envelopes, ended, group.cancel_scope)
                try:
                    await self._sentinels.handshake()
                    self.status.set("resyncing", "listing tasks")
                    await self._resync()
                    if self._audit is not None:
                        group.start_soon(self._audit.run)
                    await self._watch()
                except ContainerdError as error:
                    ended.append(error)
                group.cancel_scope.cancel()
        except ContainerdError as error:
            ended.append(error)
        return ended[0]

    async def _read(
        self, envelopes: Envelopes, ended: list[ContainerdError], scope: anyio.CancelScope
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            while batch := await envelopes.recv_encoded():
                self._last_traffic = loop.time()
                for data in batch:
                    self._take(data)
            ended.append(Unavailable("containerd ended the event stream"))
        except ContainerdError as error:
            ended.append(error)
        scope.cancel()

    # --- a session's steps --------------------------------------------------------------------------------------------

    async def _resync(self) -> None:
        """Compare the daemon's tasks with those we believe in, tell the difference, then go live."""
        first = self._sessions == 0
        as_of = self.registry.moment
        states = await self._inquiry.all_tasks()
        if self._lost_at is not None and not first:
            gap = Gap(self._lost_at, datetime.now(UTC), self._lost_reason)
            for subscriber in self._subscribers:
                subscriber.interrupt(gap)
        if not first:
            self.labels.reload()
        self._lost_at = None
        now = asyncio.get_running_loop().time()
        self._carry_out(self.registry.listed(states, as_of=as_of, now=now, tell=not first))
        self._replay()
        self._sessions += 1
        self._failure = None
        self.status.set("connected")

    def _replay(self) -> None:
        """Hand out what arrived while the tasks were listed."""
        buffered, self._buffer = self._buffer or [], None
        for view in buffered:
            self._dispatch(view)

    async def _watch(self) -> None:
        """Ask for a sign of life whenever the stream has been silent for long; return never, raise when none comes."""
        loop = asyncio.get_running_loop()
        while True:
            quiet_for = loop.time() - self._last_traffic
            if self._heartbeat - quiet_for > RESOLUTION:
                await anyio.sleep(self._heartbeat - quiet_for)
                continue
            try:
                await self._sentinels.round_trip()
            except ContainerdError as exc:
                self.status.set("degraded", "no sign of life")
                raise Unavailable(f"containerd gave no sign of life on the event stream: {exc}") from exc

    # --- what arrives -------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        route = route_of(data)
        if route is not None and not self._wants(route):
            self._events += 1
            return
        try:
            view = decode_envelope(data)
        except ValueError as exc:
            self._malformed += 1
            _log.warning("an event could not be read", error=str(exc), size=len(data))
            return
        if self._sentinels.take(view.topic):
            return
        if self._buffer is not None:
            self._buffer.append(view)
        else:
            self._dispatch(view)

    def _wants(self, route: Route) -> bool:
        """Tell whether anybody here wants events of this namespace and topic; remembered until others are here."""
        wanted = self._wanted.get(route)
        if wanted is None:
            if len(self._wanted) >= MAX_ROUTES:
                self._wanted.clear()
            view = EnvelopeView(*route)
            wanted = view.topic.startswith(_OURS) or any(s.may_want(view) for s in self._subscribers)
            self._wanted[route] = wanted
        return wanted

    def _dispatch(self, view: EnvelopeView) -> None:
        self._events += 1
        deliver = True
        if view.topic.startswith("/tasks/"):
            effects, deliver = self.registry.event(view.event, asyncio.get_running_loop().time())
            self._carry_out(effects)
            for observer in self._observers if deliver else ():
                observer.event(view.event)
        elif view.topic.startswith("/containers/"):
            self.labels.note(view.event)
        if deliver:
            for subscriber in self._subscribers:
                subscriber.offer(view)

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Decided(process):
                    waiter = self._waiters.pop(process, None)
                    if waiter is not None:
                        waiter.set()
                case Synthesised(event):
                    self._resynced += 1
                    for subscriber in self._subscribers:
                        subscriber.offer(event)
                case Confirm(process):
                    self._spawn(self._confirm, process)
                case Unclear(process):
                    _tell_unclear(process)
                case CheckOOM(incarnation):
                    self._spawn(self._check_oom, incarnation)
                case _:
                    pass  # the record says it, to those who hold it
        for observer in self._observers if effects else ():
            observer.effects(effects)
        self._arm_timer()

    def _spawn(self, function: Callable[[Any], Coroutine[Any, Any, None]], subject: object) -> None:
        if self._tasks is not None:
            self._tasks.start_soon(function, subject)

    async def _confirm(self, process: ProcessRecord) -> None:
        as_of = self.registry.moment
        answer = await self._inquiry.task(*process.incarnation.key, process.exec_id)
        now = asyncio.get_running_loop().time()
        self._carry_out(self.registry.answered(process, answer, as_of=as_of, now=now))

    async def _check_oom(self, incarnation: Incarnation) -> None:
        as_of = self.registry.moment
        killed = await self._inquiry.oom_killed(*incarnation.key)
        now = asyncio.get_running_loop().time()
        self._carry_out(self.registry.oom_checked(incarnation, killed, as_of=as_of, now=now))

    def _arm_timer(self) -> None:
        deadline = self.registry.next_deadline()
        if self._timer is not None:
            if deadline == self._timer.when() and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None and not self._closed:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._carry_out(self.registry.tick(asyncio.get_running_loop().time()))

    # --- for the client -----------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Wait until the stream is live and in step.

        Raises:
            ContainerdError: Every attempt since this call failed; the first failure is raised.
            Closed: The client was closed.
        """
        attempts = self._attempts
        while self.status.present.state != "connected":
            if self._closed:
                raise self._ending("the client is closed")
            if self._attempts > attempts and self._failure is not None:
                raise self._failure.with_traceback(None)
            await self.status.change()

    async def barrier(self) -> None:
        """Return when every event that containerd published before this call has been dispatched.

        After a break of the stream it returns once the resync is done.

        Raises:
            ContainerdError: The daemon can't be reached.
            DeadlineExceeded: What was published does not come back.
        """
        await self.ready()
        await self._sentinels.round_trip()
        await self.ready()

    async def wait(self, process: ProcessRecord) -> ExitStatus:
        """Return the exit of `process` as soon as it is decided; it may be cancelled without harm.

        Raises:
            Closed: The client was closed first.
            ContainerdError: The daemon refuses subscriptions for good.
        """
        while process.exit is None:
            if self._closed:
                raise self._ending("the client was closed while the process ran; its exit is not known")
            waiter = self._waiters.get(process)
            if waiter is None:
                waiter = self._waiters[process] = anyio.Event()
            try:
                await waiter.wait()
            finally:
                if not waiter.is_set() and not waiter.statistics().tasks_waiting:
                    self._waiters.pop(process, None)
        return process.exit

    def _ending(self, text: str) -> ContainerdError:
        """Return why there will be nothing more."""
        return Closed(text) if self._final is None else self._final.with_traceback(None)

    def tell(self, effects: Sequence[Effect]) -> None:
        """Carry out what followed from evidence that the client itself gave to the registry."""
        self._carry_out(effects)

    def attach(self, subscription: Subscription) -> None:
        """Begin to hand events to `subscription`."""
        self._subscribers.add(subscription)
        self._wanted.clear()

    def detach(self, subscription: Subscription) -> None:
        """Stop handing events to `subscription`."""
        self._subscribers.discard(subscription)
        self._wanted.clear()

    def observe(self, observer: Observer) -> None:
        """Tell `observer` everything that follows from evidence, in order, beginning now."""
        self._observers = (*self._observers, observer)
        self.registry.followed = self._is_followed
        for incarnation in list(self.registry.open_incarnations()):
            if observer.follows(incarnation.namespace):
                self._carry_out(self.registry.watch(incarnation, now=asyncio.get_running_loop().time()))

    def unobserve(self, observer: Observer) -> None:
        """Tell `observer` nothing more."""
        self._observers = tuple(o for o in self._observers if o is not observer)

    def _is_followed(self, namespace: str) -> bool:
        return any(observer.follows(namespace) for observer in self._observers)

    def statistics(self) -> Statistics:
        """Return the counters."""
        return Statistics(
            events=self._events,
            sessions=self._sessions,
            audits=self._audit.done if self._audit is not None else 0,
            resynced=self._resynced,
            stale_exits=self.registry.stale_exits,
            duplicate_exits=self.registry.duplicate_exits,
            malformed=self._malformed,
            subscribers=len(self._subscribers),
            open_tasks=len(self.registry.open_incarnations()),
        )


def _tell_unclear(process: ProcessRecord) -> None:
    _log.warning(
        "containerd can't tell whether a process has ended: its shim does not answer; a wait for it goes on until the shim "
        "answers, or is killed",
        namespace=process.incarnation.namespace,
        container_id=process.incarnation.container_id,
        exec_id=process.exec_id or None,
    )


def _is_permanent(error: ContainerdError) -> bool:
    """Return whether a session would end in the same way the next time."""
    # The last is what containerd says of a filter it can't read; its status is UNKNOWN, and it won't pass.
    return isinstance(error, Unimplemented | InvalidArgument | Closed) or (
        isinstance(error, Unknown) and "failed parsing subscription filters" in error.message
    )
