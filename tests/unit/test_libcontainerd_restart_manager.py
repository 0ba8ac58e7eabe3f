"""E40: Docker's restart manager, in virtual time; and the flows around it, of docker 1.11-1.12 and of later ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import FailedPrecondition, InvalidArgument
from containerd_aio.libcontainerd import (
    RestartCanceled,
    RestartManager,
    RestartPolicy,
    StateInfo,
    with_restart_manager,
)
from containerd_aio.testing import FakeContainerd, Fate
from tests.unit.libcontainerd_support import Book, Place

pytestmark = pytest.mark.looptime


async def _decide(manager: RestartManager, code: int = 1, **options: Any) -> float | None:
    """Have it decide, wait as long as it says, and return how long that was."""
    wait = manager.should_restart(code, **options)
    if wait is None:
        return None
    began = anyio.current_time()
    await wait.wait()
    assert anyio.current_time() - began == pytest.approx(wait.delay, abs=0.01)
    return wait.delay


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "count"),
    [
        ("", "no", 0),
        ("no", "no", 0),
        ("always", "always", 0),
        ("unless-stopped", "unless-stopped", 0),
        ("on-failure", "on-failure", 0),
        ("on-failure:3", "on-failure", 3),
    ],
)
async def test_E40_policies_are_read(text: str, name: str, count: int) -> None:
    policy = RestartPolicy.parse(text)
    assert (policy.name, policy.maximum_retry_count) == (name, count)
    assert RestartPolicy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sometimes", "no restart policy 'sometimes'"),
        ("always:3", "cannot be used with restart policy 'always'"),
        ("on-failure:-1", "cannot be negative"),
        ("on-failure:", "must be a whole number"),
        ("on-failure:many", "must be a whole number"),
    ],
)
async def test_E40_what_is_no_policy_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        RestartPolicy.parse(text)


@pytest.mark.parametrize(
    ("policy", "code", "stopped", "restarts"),
    [
        ("no", 1, False, False),
        ("always", 0, False, True),
        ("always", 0, True, True),
        ("unless-stopped", 0, False, True),
        ("unless-stopped", 0, True, False),
        ("on-failure", 0, False, False),
        ("on-failure", 1, False, True),
        ("on-failure", 1, True, True),
    ],
)
async def test_E40_what_each_policy_says(policy: str, code: int, stopped: bool, restarts: bool) -> None:
    wait = RestartManager(policy).should_restart(code, manually_stopped=stopped)
    assert (wait is not None) is restarts


async def test_E40_on_failure_counts_also_what_was_before() -> None:
    manager = RestartManager("on-failure:3")
    assert [await _decide(manager) is not None for _ in range(5)] == [True, True, True, False, False]
    manager = RestartManager("on-failure:3", restart_count=2)
    assert [await _decide(manager) is not None for _ in range(2)] == [True, False]
    assert manager.restart_count == 3


# --- delays -----------------------------------------------------------------------------------------------------------


async def test_E40_delays_double_from_a_tenth_of_a_second_to_a_minute() -> None:
    manager = RestartManager("always")
    delays = [await _decide(manager) for _ in range(12)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60, 60])


async def test_E40_a_run_of_ten_seconds_begins_anew() -> None:
    manager = RestartManager("always")
    assert [await _decide(manager, run_duration=9.99) for _ in range(3)] == pytest.approx([0.1, 0.2, 0.4])
    assert await _decide(manager, run_duration=10) == pytest.approx(0.1)
    assert await _decide(manager) == pytest.approx(0.2)


async def test_E40_a_no_takes_a_step_too() -> None:
    manager = RestartManager("on-failure")
    assert await _decide(manager, 0) is None
    assert await _decide(manager, 1) == pytest.approx(0.2)


# --- cancelling, asking twice, other policies -------------------------------------------------------------------------


async def test_E40_cancel_wakes_whoever_waits_for_good() -> None:
    manager = RestartManager("always", restart_count=20)
    for _ in range(9):
        await _decide(manager)
    wait = manager.should_restart(1)
    assert wait is not None
    woken: list[float] = []

    async def waiter() -> None:
        with pytest.raises(RestartCanceled, match="restart canceled"):
            await wait.wait()
        woken.append(anyio.current_time())

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(waiter)
        group.start_soon(waiter)
        await anyio.sleep(1)
        manager.cancel()
        manager.cancel()
    assert [at - began for at in woken] == pytest.approx([1, 1], abs=0.01)
    with pytest.raises(RestartCanceled):
        manager.should_restart(1)
    with pytest.raises(RestartCanceled):
        await wait.wait()
    manager.set_policy("on-failure")
    with pytest.raises(RestartCanceled):  # a policy does not undo it
        manager.should_restart(1)


async def test_E40_the_policy_no_does_not_look_at_anything() -> None:
    manager = RestartManager("no")
    manager.cancel()
    assert manager.should_restart(1) is None
    manager = RestartManager("no")
    manager.should_restart(1)
    manager.set_policy("always")
    assert await _decide(manager) == pytest.approx(0.1)  # nor does it take a step


async def test_E40_a_second_question_while_the_wait_goes_on_is_an_error() -> None:
    manager = RestartManager("always")
    wait = manager.should_restart(1)
    assert wait is not None
    with pytest.raises(FailedPrecondition, match="invalid call on an active restart manager"):
        manager.should_restart(1)
    await wait.wait()
    assert manager.should_restart(1) is not None


async def test_E40_a_wait_that_nobody_waits_for_ends_as_well() -> None:
    manager = RestartManager("always")
    manager.should_restart(1)
    await anyio.sleep(0.2)
    assert manager.should_restart(1) is not None


async def test_E40_a_new_policy_holds_for_the_next_exit() -> None:
    manager = RestartManager("always")
    await _decide(manager)
    manager.set_policy(RestartPolicy("on-failure", 1))
    assert manager.should_restart(1) is None  # it was restarted once


# --- the flows --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def place(tmp_path: Path) -> Any:
    async with FakeContainerd() as fake:
        yield Place(fake.address, "ns", tmp_path / "state", "/rootfs", fake)


async def test_E40_in_libcontainerd_the_delays_lie_between_restart_and_start(place: Place) -> None:
    """docker 1.11 and 1.12: Start, (Restart, Start)*, Exit."""
    times: list[tuple[str, float]] = []

    class Clock(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            times.append((state.state, anyio.current_time()))
            await super().state_changed(container_id, state)

    book = Clock()
    place.script("c", Fate(exit_code=1))
    async with place.open(book) as client:
        await client.create("c", place.spec("c"), with_restart_manager(RestartManager("on-failure:5")))
        await book.until("c", "exit")
    assert book.of("c") == [*["start-container", "restart 1"] * 5, "start-container", "exit 1"]
    waits = [
        round(later - earlier, 1)
        for (state, earlier), (_, later) in itertools.pairwise(times)
        if state == "restart"
    ]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6]


async def test_E40_a_long_run_is_restarted_quickly(place: Place) -> None:
    place.script("c", Fate(exit_code=1, after=11))
    async with place.open() as client:
        manager = RestartManager("always")
        await client.create("c", place.spec("c"), with_restart_manager(manager))
        began = anyio.current_time()
        await place.book.until("c", "start-container", 4, limit=100)
        assert anyio.current_time() - began == pytest.approx(3 * 11.1, abs=0.3)
        manager.cancel()
        await client.signal("c", 9)
        await place.book.until("c", "exit")
    assert place.book.of("c")[-2:] == ["start-container", "exit 137"]


async def test_E40_create_in_the_middle_of_a_wait_supersedes_it(place: Place) -> None:
    place.script("c", Fate(exit_code=1))
    async with place.open() as client:
        manager = RestartManager("always")
        await client.create("c", place.spec("c"), with_restart_manager(manager))
        await place.book.until("c", "restart", 3)
        place.script("c", Fate(exit_code=4))
        await client.create("c", place.spec("c"))
        await place.book.until("c", "exit", 2)
        assert manager.canceled
    assert place.book.of("c") == [
        *["start-container", "restart 1"] * 3,
        "exit 1",
        "start-container",
        "exit 4",
    ]


async def test_E40_create_from_inside_the_callback_of_a_restart(place: Place) -> None:
    class Impatient(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            if state.state == "restart":
                place.script("c", Fate(exit_code=4))
                await client.create("c", place.spec("c"))

    book = Impatient()
    place.script("c", Fate(exit_code=1))
    async with place.open(book) as client:
        await client.create("c", place.spec("c"), with_restart_manager(RestartManager("always")))
        await book.until("c", "exit", 2)
    assert book.of("c") == ["start-container", "restart 1", "exit 1", "start-container", "exit 4"]


async def test_E40_a_restart_that_fails_is_told_as_the_exit_it_followed(place: Place) -> None:
    place.script("c", Fate(exit_code=9))
    async with place.open() as client:
        await client.create("c", place.spec("c"), with_restart_manager(RestartManager("always")))
        place.script("c", Fate(create_error="no such binary"))
        await place.book.until("c", "exit")
        assert client.containers == []
    assert place.book.of("c") == ["start-container", "restart 9", "exit 9"]


async def test_E40_a_containerd_that_is_away_when_the_time_has_come_is_waited_for(place: Place) -> None:
    assert place.fake is not None
    place.script("c", Fate(exit_code=9))
    async with place.open() as client:
        manager = RestartManager("on-failure:2")
        await client.create("c", place.spec("c"), with_restart_manager(manager))
        await place.book.until("c", "restart")
        await place.fake.stop()
        await anyio.sleep(30)
        await place.fake.start()
        await place.book.until("c", "exit")
    assert place.book.of("c") == [*["start-container", "restart 9"] * 2, "start-container", "exit 9"]


async def test_E40_later_dockers_ask_the_manager_themselves(place: Place) -> None:
    """docker 1.13 and later: the exit always comes, and the daemon creates the container again."""

    class Docker(Book):
        def __init__(self) -> None:
            super().__init__()
            self.manager = RestartManager("on-failure:2")

        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            wait = self.manager.should_restart(state.exit_code) if state.state == "exit" else None
            if wait is not None:
                group.start_soon(self._again, container_id, wait)

        async def _again(self, container_id: str, wait: Any) -> None:
            await wait.wait()
            await client.create(container_id, place.spec(container_id))

    book = Docker()
    place.script("c", Fate(exit_code=1))
    async with anyio.create_task_group() as group, place.open(book) as client:
        await client.create("c", place.spec("c"))
        await book.until("c", "exit", 3)
    assert book.of("c") == ["start-container", "exit 1"] * 3
