"""State changes: each once, a container's in order, whatever the order of the evidence."""

from __future__ import annotations

from collections import defaultdict
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from containerd_aio.events.effects import CheckOOM, Confirm, Decided, Effect, OOMKilled
from containerd_aio.events.exits import ExitStatus
from containerd_aio.events.model import (
    Event,
    TaskCreate,
    TaskDelete,
    TaskExecStarted,
    TaskExit,
    TaskOOM,
    TaskPaused,
    TaskResumed,
    TaskStart,
)
from containerd_aio.events.records import Incarnation, Phase, ProcessRecord
from containerd_aio.events.registry import Registry
from containerd_aio.events.resync import TaskState
from containerd_aio.events.states import REMEMBER_UNSTARTED, StateChange, StateReporter
from tests.unit.registry_world import World

EXITED_NS = 1_700_000_000_000_000_000


def created(container_id: str = "c", pid: int = 10) -> Event:
    return TaskCreate(container_id, topic="/tasks/create", namespace="ns", pid=pid)


def started(container_id: str = "c", pid: int = 10) -> Event:
    return TaskStart(container_id, pid, topic="/tasks/start", namespace="ns")


def exited(
    code: int = 0, *, container_id: str = "c", pid: int = 10, name: str = "", at: int | None = EXITED_NS
) -> Event:
    return TaskExit(container_id, name or container_id, pid, code, at, topic="/tasks/exit", namespace="ns")


def oom(container_id: str = "c") -> Event:
    return TaskOOM(container_id, topic="/tasks/oom", namespace="ns")


def paused(container_id: str = "c") -> Event:
    return TaskPaused(container_id, topic="/tasks/paused", namespace="ns")


def resumed(container_id: str = "c") -> Event:
    return TaskResumed(container_id, topic="/tasks/resumed", namespace="ns")


def deleted(code: int = 0, *, pid: int = 10, at: int | None = EXITED_NS) -> Event:
    return TaskDelete("c", pid, code, at, topic="/tasks/delete", namespace="ns")


def exec_started(exec_id: str = "e", pid: int = 20) -> Event:
    return TaskExecStarted("c", exec_id, pid, topic="/tasks/exec-started", namespace="ns")


class Told:
    """A registry that follows every namespace, and what is told of it.

    Questions go to a daemon that remembers nothing.
    """

    def __init__(self, *, metrics: bool | None = False) -> None:
        self.registry = Registry()
        self.registry.followed = lambda _: True
        self.reporter = StateReporter()
        self.changes: list[StateChange] = []
        self.decided: list[ProcessRecord] = []
        self.now = 100.0
        self.metrics = metrics

    def take(self, *events: Event) -> Told:
        for event in events:
            effects, _ = self.registry.event(event, self.now)
            self.carry_out(effects)
            self.changes += self.reporter.event(event)
        return self

    def carry_out(self, effects: list[Effect]) -> None:
        self.changes += self.reporter.effects(effects)
        for effect in effects:
            as_of = self.registry.moment
            match effect:
                case Confirm(process):
                    self.carry_out(self.registry.answered(process, "missing", as_of=as_of, now=self.now))
                case CheckOOM(incarnation) if self.metrics is not None:
                    self.carry_out(
                        self.registry.oom_checked(incarnation, self.metrics, as_of=as_of, now=self.now)
                    )
                case Decided(process):
                    self.decided.append(process)

    def rest(self) -> Told:
        """Let all graces end."""
        while (deadline := self.registry.next_deadline()) is not None:
            self.now = max(self.now, deadline)
            self.carry_out(self.registry.tick(self.now))
        return self

    def hold(self, pid: int = 10) -> Incarnation:
        """Take a handle, as the reply to a Create does."""
        incarnation, effects = self.registry.created("ns", "c", pid, as_of=self.registry.moment, now=self.now)
        self.carry_out(effects)
        return incarnation

    def exec(self, incarnation: Incarnation, exec_id: str = "e") -> ProcessRecord:
        process, effects = self.registry.exec_added(incarnation, exec_id, now=self.now)
        self.carry_out(effects)
        return process

    @property
    def states(self) -> list[str]:
        return [change.state for change in self.changes]


def check_order(changes: list[StateChange]) -> None:
    """Check E24, and that pauses, execs and lives make sense."""
    lives: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    of_life: defaultdict[tuple[str, str, int], list[StateChange]] = defaultdict(list)
    running: dict[tuple[str, str], int] = {}
    for change in changes:
        key = change.namespace, change.container_id
        before = of_life[*key, change.incarnation]
        states = [c.state for c in before]
        if not before:
            assert change.state in {"start-container", "restore"}, f"{change} came first"
            assert key not in running, f"{change} though the life before has not ended"
            running[key] = change.incarnation
            assert change.incarnation not in lives[key]
            lives[key].append(change.incarnation)
        else:
            assert change.state not in {"start-container", "restore"}, f"{change} came twice"
        if "exit" in states:
            assert change.state == "oom", f"{change} came after the exit"
        if change.state == "exit":
            assert change.exit_status is not None
            del running[key]
        frozen = [s for s in states if s in {"pause", "resume"}]
        if change.state == "pause":
            assert frozen[-1:] in ([], ["resume"])
        if change.state == "resume":
            assert frozen[-1:] == ["pause"]
        if change.state == "exit-process":
            starts = [c for c in before if c.process_id == change.process_id]
            assert [c.state for c in starts][-1:] == ["start-process"] or before[0].state == "restore"
            assert change.exit_status is not None
        before.append(change)


# -- one life ----------------------------------------------------------------------------------------------------------


def test_a_plain_life() -> None:
    told = Told().take(created(), started(), exited(3), deleted(3)).rest()
    start, exit_ = told.changes
    assert (start.state, start.namespace, start.container_id, start.pid) == ("start-container", "ns", "c", 10)
    assert (exit_.state, exit_.pid, exit_.incarnation) == ("exit", 10, start.incarnation)
    assert exit_.exit_status is not None
    assert (exit_.exit_status.code, exit_.exit_status.source, exit_.oom_killed) == (3, "event", False)
    assert len(told.reporter) == 0


def test_E24_S03_any_permutation_of_a_life_is_told_in_the_same_order() -> None:
    events = [created(), started(), exited(0)]
    for order in permutations(events):
        told = Told().take(*order).rest()
        unheard = order[0] is events[1]  # a start of nothing known
        assert told.states == ([] if unheard else ["start-container", "exit"]), order
        assert len(told.reporter) == 0


def test_E24_any_permutation_with_pauses_and_ooms_is_in_order() -> None:
    events = [started(), paused(), resumed(), oom(), exited(137)]
    for order in permutations(events):
        told = Told(metrics=None).take(created(), *order).rest()
        check_order(told.changes)
        assert told.states.count("exit") == 1, order
        assert told.states.count("oom") == 1, order
        assert len(told.reporter) == 0


def test_E24_any_permutation_of_our_exec_ends_with_the_exit_of_the_container() -> None:
    events = [exec_started(), exited(1, name="e", pid=20), exited(0)]
    for order in permutations(events):
        told = Told()
        incarnation = told.hold()
        told.take(created(), started())
        told.exec(incarnation)
        told.take(*order).rest()
        check_order(told.changes)
        assert told.states[-1] == "exit", order
        assert told.states.count("exit-process") == 1, order
        (exec_exit,) = [c for c in told.changes if c.state == "exit-process"]
        assert exec_exit.exit_status is not None
        assert (exec_exit.process_id, exec_exit.pid) == ("e", 20)
        assert exec_exit.exit_status.code == 1, order


def test_E24_an_exit_waits_for_execs_that_are_still_to_be_heard_of_but_not_for_ever() -> None:
    told = Told()
    process = told.exec(told.hold())
    told.take(created(), started(), exec_started(), exited(0))
    assert told.states == ["start-container", "start-process"]
    assert process.incarnation.init.exit is not None  # who waits is not kept waiting (E27)
    told.rest()
    assert told.states == ["start-container", "start-process", "exit-process", "exit"]
    orphan = told.changes[2].exit_status
    assert orphan is not None
    assert (orphan.code, orphan.unknown, orphan.source) == (255, True, "exec-orphaned")


def test_E12_S04_a_second_exit_with_another_code_is_not_told() -> None:
    told = Told().take(created(), started(), exited(5), exited(137), deleted(137)).rest()
    assert told.states == ["start-container", "exit"]
    assert told.changes[-1].exit_status is not None
    assert told.changes[-1].exit_status.code == 5


def test_a_start_told_by_reply_and_event_is_told_once() -> None:
    told = Told()
    incarnation = told.hold()
    told.carry_out(told.registry.started(incarnation.init, 10, now=told.now))
    told.take(created(), started())
    assert told.states == ["start-container"]


def test_pause_and_resume_are_told_on_change_only() -> None:
    told = Told().take(created(), started(), paused(), paused(), resumed(), resumed(), paused(), exited())
    told.rest()
    assert told.states == ["start-container", "pause", "resume", "pause", "exit"]


def test_E33_S45_a_pause_whose_event_is_lost_is_told_by_an_answer() -> None:
    """`Task.pause` asks when its call has succeeded and the event has not come."""
    told = Told().take(created(), started())
    as_of = told.registry.moment
    state = TaskState("ns", "c", 10, Phase.PAUSED, None, 0)
    told.carry_out(told.registry.observed(state, as_of=as_of, now=told.now))
    assert told.states == ["start-container", "pause"]
    told.take(paused())
    assert told.states == ["start-container", "pause"]


def test_E33_an_answer_that_is_overtaken_by_the_next_event_changes_nothing() -> None:
    told = Told().take(created(), started())
    as_of = told.registry.moment
    told.take(paused(), resumed())  # somebody else's resume came before the answer
    state = TaskState("ns", "c", 10, Phase.PAUSED, None, 0)
    told.carry_out(told.registry.observed(state, as_of=as_of, now=told.now))
    assert told.states == ["start-container", "pause", "resume"]


# -- what never ran ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [None, EXITED_NS])
@pytest.mark.parametrize("exit_first", [False, True])
def test_S32_a_task_deleted_before_its_start_is_not_told(killed: int | None, exit_first: bool) -> None:
    events = [deleted(137 if killed else 0, at=killed), exited(137, at=killed)]
    told = Told().take(created(), *(reversed(events) if exit_first else events)).rest()
    assert told.states == []
    assert len(told.reporter) == 0


def test_E17_S46_an_exit_without_a_task_is_not_told() -> None:
    told = Told().take(exited(137), deleted(137)).rest()
    assert told.states == []
    assert len(told.reporter) == 0


def test_E17_a_start_that_failed_is_not_told() -> None:
    told = Told()
    incarnation = told.hold()
    told.carry_out(told.registry.start_failed(incarnation.init, now=told.now))
    told.take(exited(137)).rest()
    assert told.states == []
    assert len(told.reporter) == 0


@pytest.mark.parametrize("with_exit", [False, True])
def test_E17_S25_an_exec_whose_start_failed_is_not_told(with_exit: bool) -> None:
    told = Told()
    incarnation = told.hold()
    told.take(created(), started())
    process = told.exec(incarnation)
    told.carry_out(told.registry.start_failed(process, now=told.now))
    if with_exit:
        told.take(exited(1, name="e", pid=20))
    told.take(exited(0)).rest()
    assert told.states == ["start-container", "exit"]


def test_what_is_kept_of_tasks_that_were_not_started_is_bounded() -> None:
    told = Told()
    for pid in range(1000, 2000):
        told.take(created(pid=pid), exited(137, pid=pid), deleted(137, pid=pid)).rest()
    assert told.states == []
    assert len(told.reporter._unstarted) == REMEMBER_UNSTARTED


def test_a_created_task_that_vanishes_is_not_told() -> None:
    told = Told().take(created())
    told.carry_out(told.registry.listed([], as_of=told.registry.moment, now=told.now, tell=True))
    told.rest()
    assert told.states == []
    assert len(told.reporter) == 0


# -- OOM ---------------------------------------------------------------------------------------------------------------


def test_E23_S31_every_oom_event_is_told_and_none_ends_anything() -> None:
    told = Told().take(created(), started(), oom(), oom(), oom())
    assert told.states == ["start-container", "oom", "oom", "oom"]
    told.take(exited(0)).rest()  # S29: it was another process of the container that was killed
    assert told.states[3:] == ["oom", "exit"]
    assert told.changes[-1].oom_killed


def test_E22_S26_an_oom_after_the_exit_is_told_and_makes_no_second_exit() -> None:
    told = Told(metrics=None).take(created(), started(), exited(137)).rest()
    assert told.states == ["start-container", "exit"]
    assert not told.changes[-1].oom_killed
    told.take(oom())
    assert told.states == ["start-container", "exit", "oom"]
    assert told.changes[2].incarnation == told.changes[0].incarnation
    assert told.decided[0].exit is not None
    assert told.decided[0].exit.oom_killed  # the record says it now


def test_E21_S27_an_oom_that_only_metrics_know_is_told_before_the_exit() -> None:
    told = Told(metrics=True).take(created(), started(), exited(137)).rest()
    assert told.states == ["start-container", "oom", "exit"]
    assert told.changes[-1].oom_killed


def test_S28_an_oom_before_the_start_is_told_after_it() -> None:
    told = Told().take(created(), oom(), started(), exited(137)).rest()
    assert told.states == ["start-container", "oom", "exit"]
    assert told.changes[-1].oom_killed


def test_S30_a_late_oom_goes_to_the_life_it_belongs_to() -> None:
    told = Told().take(created(pid=10), started(pid=10), exited(1, pid=10), created(pid=11), started(pid=11))
    told.take(oom())
    first, late = told.changes[0], told.changes[-1]
    assert told.states == ["start-container", "exit", "start-container", "oom"]
    assert late.incarnation == first.incarnation


# -- lives under one name ----------------------------------------------------------------------------------------------


def test_E24_the_next_life_is_told_after_the_one_before_has_ended() -> None:
    """The second starts while it is still being asked whether the first was OOM killed."""
    told = Told(metrics=None)
    told.take(created(pid=10), started(pid=10), exited(137, pid=10), created(pid=11), started(pid=11))
    assert told.states == ["start-container"]
    told.rest()
    assert told.states == ["start-container", "exit", "start-container"]
    assert [c.pid for c in told.changes] == [10, 10, 11]


def test_E24_two_lives_in_any_order_of_their_events() -> None:
    events = [started(pid=10), exited(1, pid=10), created(pid=11), started(pid=11), exited(2, pid=11)]
    for order in permutations(events):
        told = Told().take(created(pid=10), *order).rest()
        check_order(told.changes)
        codes = {c.pid: c.exit_status.code for c in told.changes if c.exit_status}
        if order.index(events[2]) < order.index(events[3]):
            assert codes.get(11) == 2, order
        assert len(told.reporter) == 0, order


# -- execs of others ---------------------------------------------------------------------------------------------------


def test_execs_of_others_are_told_from_their_events() -> None:
    told = Told().take(created(), started(), exec_started(), exited(4, name="e", pid=20), exited(0)).rest()
    assert told.states == ["start-container", "start-process", "exit-process", "exit"]
    _, begin, end, _ = told.changes
    assert (begin.process_id, begin.pid) == (end.process_id, end.pid) == ("e", 20)
    assert end.exit_status == ExitStatus(4, EXITED_NS, 20)


def test_S23_an_exec_of_others_that_bears_the_containers_name_is_not_the_container() -> None:
    told = Told().take(created(), started(), exec_started("c", 20), exited(4, name="c", pid=20))
    assert told.states == ["start-container", "start-process", "exit-process"]
    told.take(exited(0)).rest()
    assert told.states[3:] == ["exit"]


def test_S24_an_exec_of_others_without_an_exit_ends_with_the_container() -> None:
    told = Told().take(created(), started(), exec_started(), exited(0), exited(4, name="e", pid=20)).rest()
    assert told.states == ["start-container", "start-process", "exit-process", "exit"]
    assert told.changes[2].exit_status is not None
    assert told.changes[2].exit_status.unknown


def test_an_exec_of_others_whose_start_was_missed() -> None:
    told = Told().take(created(), started(), exited(4, name="e", pid=20), exec_started())
    assert told.states == ["start-container", "start-process", "exit-process"]


def test_an_exec_of_others_that_ran_before_we_looked() -> None:
    told = Told()
    told.registry.listed([state("c", 10, Phase.RUNNING)], as_of=0, now=told.now)
    told.changes += told.reporter.restore(told.registry.incarnations("ns", "c")[0])
    told.take(exited(4, name="e", pid=20))
    assert told.states == ["restore", "exit-process"]


def test_an_exit_of_an_exec_of_others_that_is_sent_twice_is_told_once() -> None:
    exit_ = exited(4, name="e", pid=20)
    told = Told().take(created(), started(), exec_started(), exit_, exec_started(), exit_)
    assert told.states == ["start-container", "start-process", "exit-process"]
    told.take(exec_started(pid=21), exited(5, name="e", pid=21))  # the id again
    assert told.states[3:] == ["start-process", "exit-process"]


# -- what was there before ---------------------------------------------------------------------------------------------


def state(container_id: str, pid: int, phase: Phase, exit_: ExitStatus | None = None) -> TaskState:
    return TaskState("ns", container_id, pid, phase, exit_, 0)


def test_tasks_that_run_already_are_restored() -> None:
    told = Told()
    listing = [
        state("runs", 1, Phase.RUNNING),
        state("rests", 2, Phase.PAUSED),
        state("waits", 3, Phase.CREATED),
        state("c", 4, Phase.RUNNING, ExitStatus(0)),
    ]
    told.registry.listed(listing, as_of=0, now=told.now)
    for incarnation in list(told.registry.open_incarnations()):
        told.carry_out(told.registry.watch(incarnation, now=told.now))
        told.changes += told.reporter.restore(incarnation)
    assert [(c.container_id, c.state) for c in told.changes] == [
        ("runs", "restore"),
        ("rests", "restore"),
        ("rests", "pause"),
    ]
    told.changes.clear()
    told.take(started("waits", 3), resumed("rests"), exited(1, container_id="runs", pid=1)).rest()
    assert [(c.container_id, c.state) for c in told.changes] == [
        ("waits", "start-container"),
        ("rests", "resume"),
        ("runs", "exit"),
    ]


def test_E32_what_a_resync_finds_is_told() -> None:
    told = Told().take(created(), started())
    listing = [state("new", 1, Phase.RUNNING), state("short", 2, Phase.RUNNING, ExitStatus(3, EXITED_NS, 2))]
    told.changes.clear()
    told.carry_out(told.registry.listed(listing, as_of=told.registry.moment, now=told.now, tell=True))
    told.rest()
    assert [(c.container_id, c.state) for c in told.changes] == [
        ("new", "start-container"),
        ("short", "start-container"),
        ("short", "exit"),
        ("c", "exit"),  # gone
    ]
    assert told.changes[-1].exit_status is not None
    assert told.changes[-1].exit_status.unknown


def test_without_a_follower_only_tasks_with_handles_are_told() -> None:
    told = Told()
    told.registry.followed = lambda namespace: namespace == "other"
    told.take(created(), started(), exited(0)).rest()
    assert told.states == []
    told.hold(pid=11)
    told.take(created(pid=11), started(pid=11), exited(0, pid=11)).rest()
    assert told.states == ["start-container", "exit"]


# -- any history -------------------------------------------------------------------------------------------------------


class StateWorld(World):
    """A world whose state changes are told as well."""

    def __init__(self, tape: bytes, **options: Any) -> None:
        super().__init__(tape, **options)
        self.registry.followed = lambda _: True
        self.reporter = StateReporter()
        self.changes: list[StateChange] = []
        self.ooms = 0

    def carry_out(self, effects: list[Effect]) -> None:
        told = self.reporter.effects(effects)
        self.note("CHANGES", *told)
        self.changes += told
        self.ooms += sum(isinstance(effect, OOMKilled) for effect in effects)
        super().carry_out(effects)

    def _take(self, published: Event, about: Any) -> None:
        super()._take(published, about)
        self.changes += self.reporter.event(published)

    def check(self) -> None:
        check_order(self.changes)
        lives = defaultdict(list)
        for change in self.changes:
            lives[change.container_id, change.incarnation].append(change)
        told = {(c, changes[0].pid): [d.state for d in changes] for (c, _), changes in lives.items()}
        alive = {
            (t.container_id, t.init.pid) for t in self.daemon.tasks.values() if t.init.status == "running"
        }
        for key in alive:
            assert key in told, f"nobody was told that {key} runs"
            assert "exit" not in told[key]
        unended = {c for (c, _), changes in lives.items() if all(d.state != "exit" for d in changes)}
        assert unended == {c for c, _ in alive}
        assert len(self.reporter) == len(alive)
        for handle in self.handles:
            record = handle.record
            if record.started and record.exit is not None and not record.exec_id:
                key = record.incarnation.container_id, record.incarnation.opened
                (exit_,) = [c for c in lives[key] if c.state == "exit"]
                assert exit_.exit_status is not None
                assert exit_.exit_status.code == record.exit.code
        assert sum(c.state == "oom" for c in self.changes) <= self.ooms


@settings(max_examples=1500, deadline=None)
@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_E24_any_history_is_told_in_order(tape: bytes, reuse: bool, drops: bool) -> None:
    StateWorld(tape, reuse=reuse, drops=drops).run()
