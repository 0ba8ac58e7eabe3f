"""Registry: tasks made from a checkpoint, which have no pid before their start, and execs that others made."""

from __future__ import annotations

import pytest

from containerd_aio import ExitStatus, TaskCreate, TaskDelete, TaskExit, TaskStart
from containerd_aio.events.effects import Decided, Started
from containerd_aio.events.records import Incarnation, Phase
from containerd_aio.events.registry import Registry
from containerd_aio.events.resync import TaskState

NAME = "restored"


def create() -> TaskCreate:
    return TaskCreate(topic="/tasks/create", namespace="n", container_id=NAME, pid=0)


def start(pid: int = 7) -> TaskStart:
    return TaskStart(topic="/tasks/start", namespace="n", container_id=NAME, pid=pid)


def exit_event(pid: int = 7, code: int = 3) -> TaskExit:
    return TaskExit(
        topic="/tasks/exit",
        namespace="n",
        container_id=NAME,
        id=NAME,
        pid=pid,
        exit_status=code,
        exited_at_ns=5,
    )


def state(
    pid: int, *, exec_id: str = "", phase: Phase | None = Phase.RUNNING, code: int | None = None
) -> TaskState:
    exited = None if code is None else ExitStatus(code=code, exited_at_ns=5, pid=pid, source="get")
    return TaskState("n", NAME, pid, None if exited else phase, exited, 1, exec_id)


class World:
    """A registry with a restored task."""

    def __init__(self, *, announced: bool = True) -> None:
        self.registry = Registry()
        self.effects: list[object] = []
        as_of = self.registry.moment
        if announced:
            self.event(create())
        self.incarnation, effects = self.registry.created("n", NAME, 0, as_of=as_of, now=0)
        self.effects += effects

    def event(self, event: TaskCreate | TaskStart | TaskExit) -> None:
        self.effects += self.registry.event(event, 0)[0]

    def replied(self, pid: int = 7) -> None:
        self.effects += self.registry.started(self.incarnation.init, pid, now=0)

    @property
    def decided(self) -> list[Incarnation]:
        return [e.process.incarnation for e in self.effects if isinstance(e, Decided)]


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(
    "order",
    ["start reply exit", "reply start exit", "start exit reply", "reply exit", "exit reply", "start exit"],
)
def test_the_exit_of_a_restored_task_is_its_own_in_any_order(order: str, announced: bool) -> None:
    world = World(announced=announced)
    for word in order.split():
        match word:
            case "start":
                world.event(start())
            case "reply":
                world.replied()
            case _:
                world.event(exit_event())
    assert world.incarnation.init.exit is not None
    assert (world.incarnation.init.exit.code, world.incarnation.init.pid) == (3, 7)
    assert world.decided == [world.incarnation]
    assert list(world.registry.open_incarnations()) == []


def test_it_is_told_once_that_it_was_started() -> None:
    world = World()
    world.event(start())
    world.replied()
    assert [e.process for e in world.effects if isinstance(e, Started)] == [world.incarnation.init]
    assert world.incarnation.phase is Phase.RUNNING


def test_an_answer_tells_the_pid_too_but_not_one_to_an_older_question() -> None:
    world = World()
    effects = world.registry.observed(state(7), as_of=world.registry.moment, now=0)
    assert world.incarnation.pid == 7
    assert [e for e in effects if isinstance(e, Started)]

    late = World()
    late.registry.observed(state(9), as_of=0, now=0)
    assert late.incarnation.pid == 0


def test_an_exit_of_an_earlier_life_is_not_taken_for_its_own() -> None:
    world = World()
    world.event(exit_event(pid=99, code=137))
    assert world.incarnation.init.accepted is None
    world.event(start())
    world.replied()
    world.event(exit_event())
    assert world.incarnation.init.exit is not None
    assert world.incarnation.init.exit.code == 3


def test_only_what_has_no_pid_gets_one() -> None:
    registry = Registry()
    incarnation, _ = registry.created("n", NAME, 5, as_of=0, now=0)
    registry.started(incarnation.init, 7, now=0)
    assert incarnation.pid == 5


def test_an_exec_of_somebody_else_is_adopted_in_the_state_it_has() -> None:
    registry = Registry()
    incarnation, _ = registry.created("n", NAME, 5, as_of=0, now=0)
    registry.started(incarnation.init, 5, now=0)

    created, _ = registry.adopt_exec(
        incarnation, state(0, exec_id="e", phase=Phase.CREATED), as_of=registry.moment, now=0
    )
    assert (created.pid, created.started) == (None, False)
    same, _ = registry.adopt_exec(incarnation, state(8, exec_id="e"), as_of=registry.moment, now=0)
    assert same is created
    assert (same.pid, same.started) == (8, True)

    _, effects = registry.adopt_exec(incarnation, state(8, exec_id="e", code=4), as_of=registry.moment, now=0)
    assert [e.process for e in effects if isinstance(e, Decided)] == [created]
    assert created.exit is not None
    assert created.exit.code == 4

    late, _ = registry.adopt_exec(incarnation, state(8, exec_id="e", code=4), as_of=registry.moment, now=0)
    assert late is created
    other, _ = registry.adopt_exec(
        incarnation, state(0, exec_id="e", phase=Phase.CREATED), as_of=registry.moment, now=0
    )
    assert other is not created
    assert other.exit is None
    running, _ = registry.adopt_exec(incarnation, state(11, exec_id="f"), as_of=registry.moment, now=0)
    assert (running.pid, running.started) == (11, True)


def test_the_end_of_a_life_nobody_knew_is_not_the_task_that_comes_next() -> None:
    """A deletion behind a dead shim tells no pid. Found by a schedule of `test_registry_schedules`."""
    registry = Registry()
    before, _ = registry.created("n", NAME, 7, as_of=registry.moment, now=0)
    registry.event(exit_event(), 0)
    deleted = TaskDelete(
        topic="/tasks/delete", namespace="n", container_id=NAME, id="", pid=0, exit_status=255, exited_at_ns=5
    )
    registry.event(deleted, 0)
    registry.listed([state(8, phase=Phase.CREATED)], as_of=registry.moment, now=1)
    registry.tick(100)
    assert [(i.pid, i.open) for i in registry.open_incarnations()] == [(8, True)]
    assert before.init.exit is not None
    assert before.init.exit.code == 3
