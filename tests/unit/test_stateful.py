"""Any sequence of lives and faults against the fake daemon: at the end every wait was answered once, and rightly.

A hypothesis state machine plays user, runtime, network and daemon, in virtual time. It knows how each process really
ended, and when nobody can know it.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import anyio
import looptime
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from containerd_aio import Client, ExitStatus, Gap, Lagged, Process, Retry, StateChange, Task
from containerd_aio.testing import FakeContainerd
from tests.unit.fake_support import RUNS, SPEC

NAMES = ("a", "b", "c")
EXECS = ("e1", "e2", "a")  # the last is also the name of a container
CODES = st.sampled_from([0, 1, 5, 137, 143, 255])
WHICH = st.integers(0, 11)
AUDIT = 60


@dataclass(eq=False)
class Life:
    """A process of ours, and what is true of it."""

    name: str
    process: Process
    execs: dict[str, Life] = field(default_factory=dict)
    said: list[int] = field(default_factory=list)  # codes that the daemon may have told, the true one first
    ended: bool = False
    may_be_lost: bool = False  # nobody may know its code any more
    ooms: int = 0
    waits: list[asyncio.Task[ExitStatus]] = field(default_factory=list)

    def end(self, *codes: int) -> None:
        for life in self.execs.values():
            if not life.ended:
                life.end(137)
                life.may_be_lost = True  # its exit is published before init's, or never
        self.ended, self.said = True, [*codes, *self.said]

    def check(self, status: ExitStatus) -> None:
        assert self.ended, f"{self.process} runs, and {status} was told"
        if status.unknown:
            assert status.code == 255
            assert self.may_be_lost, f"{self.process} is unknown, though {self.said} was told"
        else:
            assert status.code in self.said, f"{self.process} ended with {self.said}, and {status} was told"
        if isinstance(self.process, Task) and not self.ooms:
            assert not status.oom_killed, f"{self.process} was not OOM killed"
        if isinstance(self.process, Task) and self.ooms and status.code == 137 and status.oom_known:
            assert status.oom_killed, f"{self.process} was OOM killed"


SEEN: Counter[str] = Counter()


class Machine(RuleBasedStateMachine):
    """Everything that happens between a client and a daemon."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop(start=0, idle_timeout=30)
        self.lives: dict[str, Life] = {}
        self.past: list[Life] = []
        self.changes: dict[tuple[str, int], list[StateChange]] = defaultdict(list)
        self.order: dict[str, list[int]] = defaultdict(list)
        self.slow: dict[str, float] = {}
        self.failing: dict[str, int] = {}
        self.up = True
        self.held: list[Any] = []
        self.cancelled = 0

    def run(self, work: Coroutine[Any, Any, Any], *, limit: float = 1000) -> Any:
        async def limited() -> Any:
            with anyio.fail_after(limit):
                return await work

        asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(limited())

    def do(self, function: Callable[..., object], *args: object, **options: object) -> None:
        async def call() -> None:
            function(*args, **options)

        self.run(call())

    # --- beginning and end --------------------------------------------------------------------------------------------

    @initialize(release=st.sampled_from(["1.6", "1.7", "2.1"]))
    def begin(self, release: Any) -> None:
        async def begin() -> None:
            self.before = len(asyncio.all_tasks())
            self.fake = await FakeContainerd(release=release).__aenter__()
            self.client = await Client(
                self.fake.address, heartbeat=5, timeout=3, connect_timeout=3, audit=AUDIT
            ).__aenter__()
            self.lazy = await self.client.events(buffer=10, all_namespaces=True).__aenter__()
            retry = Retry(initial=0.1, maximum=1)
            self.reporter = await self.client.state_changes(self.handle, retry=retry).__aenter__()
            for name in NAMES:
                await self.client.new_container(name, spec=SPEC)
                await self.begin_life(name)

        self.run(begin())

    def teardown(self) -> None:
        if not hasattr(self, "reporter"):
            self.loop.close()
            return
        try:
            self.run(self.finish())
        finally:
            self.run(self.close())
            self.loop.close()

    async def finish(self) -> None:
        """Heal everything, let the rest end, and compare."""
        if not self.up:
            await self.fake.start()
        for fault in self.held:
            fault.release()
        self.fake.clear_faults()
        self.slow.clear()
        await self.connected()
        SEEN["exits nobody told"] += sum(
            life.ended and life.process.exit_status is None for life in self.all_lives()
        )
        # Two audits, and time for their questions: what went unheard must be known now.
        await anyio.sleep(2 * AUDIT * 1.25 + 20)
        for life in self.all_lives():
            if life.ended:
                assert life.process.exit_status is not None, f"{life.process} ended, and nobody noticed"
            else:
                assert life.process.exit_status is None
        for name, life in self.lives.items():
            if not life.ended:
                if self.fake.task(name).paused:
                    self.fake.resume(name)
                self.fake.exit(name, 7)
                life.end(7)
        for life in self.all_lives():
            life.check(await life.process.wait(timeout=60))
            for wait in life.waits:
                assert await wait is not None
                life.check(wait.result())
                assert wait.result().code == life.process.exit_status.code  # type: ignore[union-attr]
        await self.reporter.drain()
        self.check_changes()
        hub = self.client._scope.core.hub
        assert not hub._waiters
        assert hub.registry.next_deadline() is None
        assert self.client.statistics().open_tasks == 0
        seen = [await anext(self.lazy) for _ in range(min(self.lazy.pending + self.lazy.dropped, 1))]
        assert self.lazy.pending <= 10
        self.count()
        assert not self.lazy.dropped or isinstance(seen[0], Lagged | Gap)

    def count(self) -> None:
        statistics = self.client.statistics()
        exits = [life.process.exit_status for life in self.all_lives()]
        SEEN.update(
            {
                "sequences": 1,
                "exits": len(exits),
                "exits unknown": sum(status is not None and status.unknown for status in exits),
                "exits by an event": sum(status is not None and status.source == "event" for status in exits),
                "OOM kills": sum(status is not None and status.oom_killed for status in exits),
                "reconnects": statistics.sessions - 1,
                "events worked out": statistics.resynced,
                "audits": statistics.audits,
                "changes told": sum(map(len, self.changes.values())),
                "waits cancelled": self.cancelled,
            }
        )

    async def close(self) -> None:
        await self.reporter.__aexit__(None, None, None)
        await self.client.__aexit__(None, None, None)
        await self.fake.__aexit__(None, None, None)
        await anyio.sleep(1)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, left

    def check_changes(self) -> None:
        """Hold the callbacks against the order they promise."""
        for (name, incarnation), changes in self.changes.items():
            states = [change.state for change in changes]
            assert states[0] in {"start-container", "restore"}, states
            assert states.count("exit") == 1, (name, incarnation, states)
            after = states[states.index("exit") + 1 :]
            assert set(after) <= {"oom"}, states
            assert states.count("start-container") + states.count("restore") == 1, states
            phases = [state for state in states if state in {"pause", "resume"}]
            assert phases == ["pause", "resume"] * (len(phases) // 2) + ["pause"] * (len(phases) % 2), states
            execs = [c.process_id for c in changes if c.state == "exit-process"]
            assert len(execs) == len([c for c in changes if c.state == "start-process"]), states
        for name, order in self.order.items():
            assert len(order) == len(set(order)), f"the lives of {name} were told interleaved: {order}"
        assert len(self.changes) == len(self.past) + len(self.lives)

    # --- support ------------------------------------------------------------------------------------------------------

    def all_lives(self) -> list[Life]:
        inits = [*self.past, *self.lives.values()]
        return [life for init in inits for life in (init, *init.execs.values())]

    async def connected(self) -> None:
        async for status in self.client.status():
            if status.state == "connected":
                break
        await self.client.wait_ready()
        await self.client.barrier()

    async def handle(self, change: StateChange) -> None:
        if self.failing.get(change.container_id):
            self.failing[change.container_id] -= 1
            raise OSError("the database is away")
        await anyio.sleep(self.slow.get(change.container_id, 0))
        key = change.container_id, change.incarnation
        self.changes[key].append(change)
        order = self.order[change.container_id]
        late = change.state == "oom" and change.incarnation in order  # of an earlier life
        if order[-1:] != [change.incarnation] and not late:
            order.append(change.incarnation)

    def watch(self, life: Life) -> None:
        life.waits += [self.loop.create_task(life.process.wait()) for _ in range(2)]

    @invariant()
    def nothing_is_told_that_is_not_so(self) -> None:
        for life in self.all_lives():
            if life.process.exit_status is not None:
                life.check(life.process.exit_status)
        assert all(change.pid for changes in self.changes.values() for change in changes[:1])

    # --- the user -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.up)
    @rule(which=WHICH)
    def run_again(self, which: int) -> None:
        names = [name for name in NAMES if name not in self.lives or self.lives[name].ended]
        if names:
            self.run(self.begin_life(names[which % len(names)]))

    async def begin_life(self, name: str) -> None:
        await self.connected()
        former = self.lives.get(name)
        if former is not None:
            former.check(await former.process.delete())
            self.past.append(self.lives.pop(name))
        container = await self.client.container(name)
        self.fake.script(name, RUNS)
        task = await container.new_task()
        self.lives[name] = Life(name, task)
        self.watch(self.lives[name])
        await task.start()

    @precondition(lambda self: self.up)
    @rule(which=WHICH, exec_id=st.sampled_from(EXECS))
    def add_exec(self, which: int, exec_id: str) -> None:
        life = self.pick(which, lambda life: exec_id not in life.execs)

        async def work() -> None:
            assert life is not None
            assert isinstance(life.process, Task)
            await self.connected()
            self.fake.script(life.name, RUNS, exec_id=exec_id)
            process = await life.process.exec(exec_id, ["program"])
            life.execs[exec_id] = Life(exec_id, process)
            self.watch(life.execs[exec_id])
            await process.start()

        if life is not None:
            self.run(work())

    @rule(which=WHICH)
    def cancel_a_wait(self, which: int) -> None:
        waits = [(life, wait) for life in self.all_lives() for wait in life.waits if not wait.done()]
        if waits:
            life, wait = waits[which % len(waits)]
            self.cancelled += 1
            life.waits.remove(wait)
            wait.cancel()
            self.run(asyncio.wait([wait]))
            assert wait.cancelled()

    # --- the runtime --------------------------------------------------------------------------------------------------

    def pick(self, which: int, wanted: Callable[[Life], bool] = lambda _: True) -> Life | None:
        """Return one of the tasks that run and are not paused."""
        lives = [
            life
            for life in self.lives.values()
            if not life.ended and not self.fake.task(life.name).paused and wanted(life)
        ]
        return lives[which % len(lives)] if lives else None

    @rule(which=WHICH, code=CODES, told=st.integers(0, 2))
    def exit(self, which: int, code: int, told: int = 1) -> None:
        life = self.pick(which)
        if life is not None:
            if not told:
                self.fake.swallow_events(f'topic=="/tasks/exit",event.container_id=={life.name}', times=1)
            self.do(self.fake.exit, life.name, code)
            life.end(code)
            life.may_be_lost = not self.up

    @rule(which=WHICH, code=CODES, told=st.integers(0, 2))
    def exec_exit(self, which: int, code: int, told: int) -> None:
        life = self.pick(which, lambda life: any(not e.ended for e in life.execs.values()))
        if life is not None:
            process = next(e for e in life.execs.values() if not e.ended)
            if not told:
                self.fake.swallow_events(f'topic=="/tasks/exit",event.id=={process.name}', times=1)
            self.do(self.fake.exit, life.name, code, exec_id=process.name)
            process.end(code)
            process.may_be_lost = True  # init may end before it is asked about

    @rule(which=WHICH, event=st.booleans(), kills=st.booleans())
    def oom(self, which: int, event: bool, kills: bool) -> None:
        life = self.pick(which)
        if life is not None:
            self.do(self.fake.oom, life.name, event=event)
            life.ooms += 1
            if kills:
                self.do(self.fake.exit, life.name, 137)
                life.end(137)
                life.may_be_lost = not self.up

    @precondition(lambda self: self.up)
    @rule(which=WHICH)
    def kill_shim(self, which: int) -> None:
        life = self.pick(which)
        if life is not None:
            self.do(self.fake.kill_shim, life.name)
            life.end(137)
            life.may_be_lost = True
            self.run(anyio.sleep(0.5))

    @rule(which=WHICH, code=CODES)
    def duplicate_exit(self, which: int, code: int) -> None:
        there = {task.id for task in self.fake.tasks}
        lives = [life for life in self.lives.values() if life.ended and life.name in there]
        if lives:
            life = lives[which % len(lives)]
            if life.process.exit_status is None:
                life.said.append(code)
            self.do(self.fake.duplicate_exit, life.name, code)

    @rule(which=WHICH)
    def pause_or_resume(self, which: int) -> None:
        lives = [life for life in self.lives.values() if not life.ended]
        if lives:
            name = lives[which % len(lives)].name
            self.do(self.fake.resume if self.fake.task(name).paused else self.fake.pause, name)

    # --- the stream ---------------------------------------------------------------------------------------------------

    @rule(topic=st.sampled_from(["start", "delete", "oom", "paused", "exec-started", "create"]))
    def lose(self, topic: str) -> None:
        self.do(self.fake.swallow_events, f'topic=="/tasks/{topic}"', times=1)

    @rule(topic=st.sampled_from(["exit", "start", "delete", "oom"]))
    def repeat(self, topic: str) -> None:
        self.do(self.fake.repeat_events, f'topic=="/tasks/{topic}"', times=1)

    @rule(seconds=st.sampled_from([0.01, 0.3]))
    def delay(self, seconds: float) -> None:
        self.do(self.fake.delay_events, seconds, "topic~=|^/tasks/|", times=2)

    @rule()
    def hold_or_release_in_reverse(self) -> None:
        if self.held:
            fault = self.held.pop()
            self.do(fault.release, reverse=True)
            fault.remove()
        else:
            self.held.append(self.fake.hold_events("topic~=|^/tasks/(exit,oom,start)|", times=4))

    @rule(name=st.sampled_from(NAMES), seconds=st.sampled_from([0, 0.5, 20]), failures=st.integers(0, 2))
    def slow_or_failing_handler(self, name: str, seconds: float, failures: int) -> None:
        self.slow[name], self.failing[name] = seconds, failures

    @rule(seconds=st.sampled_from([0.001, 0.1, 1, 10, 100]))
    def time_passes(self, seconds: float) -> None:
        self.run(anyio.sleep(seconds))

    # --- the way to the daemon ----------------------------------------------------------------------------------------

    @precondition(lambda self: self.up)
    @rule()
    def drop_connections(self) -> None:
        self.run(self.fake.drop_connections())

    @precondition(lambda self: self.up)
    @rule(code=st.sampled_from([None, "UNAVAILABLE", "UNKNOWN", "INTERNAL"]))
    def end_subscription(self, code: str | None) -> None:
        self.do(self.fake.end_subscriptions, code, "odd")

    @precondition(lambda self: self.up)
    @rule(seconds=st.sampled_from([0.1, 3, 15, 60]), which=WHICH, code=CODES)
    def freeze(self, seconds: float, which: int, code: int) -> None:
        self.do(self.fake.freeze)
        self.exit(which, code)
        self.run(anyio.sleep(seconds))
        self.do(self.fake.thaw)

    @precondition(lambda self: self.up)
    @rule(graceful=st.booleans())
    def stop(self, graceful: bool) -> None:
        for life in self.all_lives():
            if life.process.exit_status is None and life.ended:
                life.may_be_lost = True
        self.up = False
        self.run(self.fake.stop(graceful=graceful))

    @precondition(lambda self: not self.up)
    @rule()
    def start(self) -> None:
        self.run(self.fake.start())
        self.up = True


EXAMPLES = 60 if os.environ.get("CI") else 25


@pytest.mark.timeout(300)
def test_E10_E11_E12_E14_E24_E25_E26_E35_whatever_happens(capsys: pytest.CaptureFixture[str]) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("LIVES", EXAMPLES)),
            stateful_step_count=50,
            derandomize="LIVES" not in os.environ,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    with capsys.disabled():
        print("\n  " + ", ".join(f"{number} {what}" for what, number in SEEN.items()))
    # A world in which nothing happens proves nothing.
    assert all(SEEN.values()), SEEN
    assert SEEN["exits by an event"] > SEEN["sequences"]
