"""libcontainerd on the fake: backends that misbehave, remotes left in the middle of something, refusals, remains."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from containerd_aio import AlreadyExists, Closed, InvalidArgument, Retry, Unavailable, Unknown
from containerd_aio.libcontainerd import (
    Client,
    IOPipe,
    Process,
    RestartManager,
    StateInfo,
    with_restart_manager,
)
from containerd_aio.testing import FakeContainerd, Fate
from tests.unit.libcontainerd_support import Book, Place, StreamBook, line, nothing_left

pytestmark = pytest.mark.looptime


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with FakeContainerd(default=Fate(exit_code=None)) as fake:
        yield Place(fake.address, "ns", tmp_path / "state", "/rootfs", fake)


@pytest.fixture
def fake(place: Place) -> FakeContainerd:
    assert place.fake is not None
    return place.fake


class Awkward(Book):
    """A backend that does something else in one state.

    Args:
        state: The state.
        do: What it does then, after it has written it down.
    """

    def __init__(self, state: str, do: Callable[[], Awaitable[object]]) -> None:
        super().__init__()
        self._state, self._do = state, do

    async def state_changed(self, container_id: str, state: StateInfo) -> None:
        await super().state_changed(container_id, state)
        if state.state == self._state:
            await self._do()


async def _cancel_oneself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await anyio.sleep(1)


# --- backends that misbehave ------------------------------------------------------------------------------------------


async def test_E28_a_backend_that_cancels_itself_in_a_start_fails_the_create_alone(place: Place) -> None:
    async with place.open(Awkward("start-container", _cancel_oneself), on_error=lambda _: None) as client:
        for _ in range(2):  # it does not take the delivery with it
            with (
                anyio.fail_after(60),
                pytest.raises(RuntimeError, match=r"'start-container'.* cancelled itself"),
            ):
                await client.create("a", place.spec("a"))
        assert client.containers == []
        await nothing_left(place)


async def test_E25_a_backend_that_cancels_itself_has_raised_and_all_else_is_told(
    place: Place, fake: FakeContainerd
) -> None:
    book = Awkward("exit", _cancel_oneself)
    failures: list[Any] = []
    async with place.open(book, on_error=failures.append) as client:
        for name in ("a", "b"):
            await client.create(name, place.spec(name))
        fake.exit("a", 3, namespace="ns")
        await book.until("a", "exit")
        await client.pause("b")
        with anyio.fail_after(60):
            await client.create("a", place.spec("a"))
        assert book.of("a") == ["start-container", "exit 3", "start-container"]
        assert book.of("b") == ["start-container", "pause"]
    assert [(failure.key, line(failure.item.state)) for failure in failures] == [("a", "exit 3")]


async def test_a_backend_that_is_not_async_is_named_as_the_fault(place: Place) -> None:
    class Plain(Book):
        def state_changed(self, container_id: str, state: StateInfo) -> Any:
            return None

        def attach_streams(self, process_name: str, io: IOPipe) -> Any:
            return None

    with capture_logs():
        async with place.open(Plain()) as client:
            with pytest.raises(
                TypeError, match="streams of a process must be an async function; it returned None"
            ):
                await client.create("a", place.spec("a"))
            with pytest.raises(TypeError, match="state_changed must be an async function; it returned None"):
                await client.create("a", place.spec("a"), attach_stdio=lambda pipe: pipe.aclose())
            await nothing_left(place)


async def test_E26_a_create_that_is_cancelled_between_two_attempts_is_not_waited_for(place: Place) -> None:
    refusals = 1

    async def refuse() -> None:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            raise OSError("away")

    book = Awkward("start-container", refuse)
    retry = Retry(initial=1000, maximum=1000)
    async with place.open(book, retry=retry, on_error=lambda _: None) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.create, "a", place.spec("a"))
            await book.until("a", "start-container")
            group.cancel_scope.cancel()
        began = anyio.current_time()
        await client.create("a", place.spec("a"))
        assert anyio.current_time() == pytest.approx(began, abs=1)
        assert book.of("a") == ["start-container"] * 2


# --- remotes that are left in the middle ------------------------------------------------------------------------------


async def _left_behind(
    place: Place, call: Callable[[Client], Awaitable[object]], state: str
) -> list[Exception]:
    """Leave a remote while a backend hangs in a call of a task that goes on; return what the call raised."""
    raised: list[Exception] = []
    book = Awkward(state, anyio.sleep_forever)

    async def run(client: Client) -> None:
        try:
            await call(client)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is looked at
            raised.append(exc)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            async with place.open(book) as client:
                group.start_soon(run, client)
                await book.until("a", state)
    return raised


async def test_E28_a_remote_that_is_left_ends_a_create_and_leaves_nothing_of_it(place: Place) -> None:
    [error] = await _left_behind(place, lambda c: c.create("a", place.spec("a")), "start-container")
    assert isinstance(error, Closed)
    assert "closed before the backend took it" in str(error)
    await nothing_left(place)


async def test_E37_a_remote_that_is_left_ends_a_restore(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
    fake.exit("a", 3, namespace="ns")
    [error] = await _left_behind(place, lambda c: c.restore("a"), "exit")
    assert isinstance(error, Closed)
    async with place.open() as client:
        await client.restore("a")
    assert place.book.of("a") == ["start-container", "exit 3"]


# --- containerd that refuses ------------------------------------------------------------------------------------------


async def test_E40_a_restart_waits_until_the_task_of_the_last_life_could_be_deleted(
    place: Place, fake: FakeContainerd
) -> None:
    manager = RestartManager("always")
    async with place.open() as client:
        await client.create("a", place.spec("a"), with_restart_manager(manager))
        with capture_logs(), fake.fail("Tasks/Delete", "UNAVAILABLE", "away", times=3):
            fake.exit("a", 3, namespace="ns")
            await place.book.until("a", "start-container", 2)
        assert place.book.of("a") == ["start-container", "restart 3", "start-container"]


@pytest.mark.parametrize("method", ["Tasks/Create", "Tasks/Start"])
async def test_E40_a_restart_that_is_lost_with_containerd_is_made_again(
    place: Place, fake: FakeContainerd, method: str
) -> None:
    manager = RestartManager("always")
    async with place.open() as client:
        await client.create("a", place.spec("a"), with_restart_manager(manager))
        away = "UNAVAILABLE"  # what was asked for is done all the same, and can't be undone
        with capture_logs(), fake.fail(method, away, after=True), fake.fail("Tasks/Kill", away):
            fake.exit("a", 3, namespace="ns")
            await place.book.until("a", "start-container", 2)
        assert place.book.of("a") == ["start-container", "restart 3", "start-container"]


async def test_a_process_that_is_refused_keeps_no_streams_open(place: Place, fake: FakeContainerd) -> None:
    async with place.open(StreamBook()) as client:
        await client.create("a", place.spec("a"))
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with fake.fail("Tasks/Exec", "UNAVAILABLE", "away"), pytest.raises(Unavailable):
            await client.add_process("a", "e", Process(args=["x"]))
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        for pipe in client._backend.pipes["a"]:  # type: ignore[attr-defined]
            await pipe.aclose()


async def test_an_id_that_is_none_is_refused_here(place: Place) -> None:
    async with place.open() as client:
        for call in (client.stats, client.get_pids_for_container):
            with pytest.raises(InvalidArgument, match="container id 'a,b' is not valid"):
                await call("a,b")


# --- remains ----------------------------------------------------------------------------------------------------------


async def test_remains_of_a_checkpoint_that_was_never_complete_are_in_nobodys_way(place: Place) -> None:
    directory = place.state_dir / "checkpoints"
    (directory / "cp" / "image").mkdir(parents=True)
    async with place.open() as client:
        await client.create("a", place.spec("a"))
        with pytest.raises(Unknown, match="criu"):  # it came as far as the runtime; the fake has no CRIU
            await client.create_checkpoint("a", "cp", directory)
        assert not (directory / "cp").exists()
        (directory / "cp").mkdir()
        (directory / "cp" / "config.json").touch()
        with pytest.raises(AlreadyExists):
            await client.create_checkpoint("a", "cp", directory)
