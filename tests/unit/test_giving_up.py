"""Callers that give up in the middle of a creation: what they made is removed, and nothing that is another's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from containerd_aio import AlreadyExists, Client, DeadlineExceeded, NotFound, Process
from containerd_aio.testing import Fate
from tests.unit.fake_support import RUNS, SPEC, World, world

pytestmark = pytest.mark.looptime


async def given_up(w: World, method: str, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Cancel `work` while the reply to its call of `method` is on its way."""
    with w.fake.hold(method) as held:
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await held.reached()
            group.cancel_scope.cancel()
            held.release()


async def test_a_task_that_was_there_before_is_left_alone() -> None:
    async with world() as w, Client(w.fake.address) as other:
        task = await w.running()
        container = await other.container("c1")
        await given_up(w, "Tasks/Create", container.new_task)
        assert await task.status() == "running"
        assert await w.still_runs(task)


async def test_a_container_that_was_there_before_is_left_alone() -> None:
    async with world() as w, Client(w.fake.address) as other:
        await w.created()
        await given_up(w, "Containers/Create", lambda: other.new_container("c1", spec=SPEC))
        assert (await w.client.container("c1")).id == "c1"


async def test_a_task_that_was_there_before_is_left_alone_after_a_deadline() -> None:
    async with world() as w, Client(w.fake.address) as other:
        task = await w.running()
        await other.barrier()
        container = await other.container("c1")
        with w.fake.hold("Tasks/Create"), pytest.raises(DeadlineExceeded):
            await container.new_task()
        assert await task.status() == "running"


async def test_a_task_of_ours_is_removed() -> None:
    async with world() as w:
        container = await w.client.new_container("c1", spec=SPEC)
        await given_up(w, "Tasks/Create", container.new_task)
        with pytest.raises(NotFound):
            await container.task()


async def test_an_exec_of_ours_is_removed() -> None:
    async with world() as w:
        task = await w.running()
        await given_up(w, "Tasks/Exec", lambda: task.exec("e1", ["true"]))
        with pytest.raises(NotFound):
            await task.load_process("e1")


async def test_an_exec_that_was_there_before_is_left_alone() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.script("c1", RUNS, exec_id="e1")
        process: Process = await task.exec("e1", ["sleep"])
        await process.start()
        await given_up(w, "Tasks/Exec", lambda: task.exec("e1", ["true"]))
        assert await process.status() == "running"
        with pytest.raises(AlreadyExists):
            await task.exec("e1", ["true"])


async def test_an_exec_whose_request_is_not_answered_is_removed() -> None:
    async with world() as w:
        task = await w.running()
        with w.fake.hold("Tasks/Exec", times=1), pytest.raises(DeadlineExceeded):
            await task.exec("e1", ["true"])
        w.fake.script("c1", Fate(exit_code=3), exec_id="e1")
        async with await task.exec("e1", ["true"]) as process:
            await process.start()
            assert (await process.wait(timeout=10)).code == 3


async def test_a_clean_up_that_takes_too_long_says_so() -> None:
    async with world() as w:
        task = await w.running()
        container = await w.client.container("c1")
        with w.fake.hold("Tasks/Delete", before=True):
            with pytest.raises(
                DeadlineExceeded, match=r"the task of container 'c1' was not removed within 30 s"
            ):
                async with task:
                    pass
            with pytest.raises(DeadlineExceeded, match=r"container 'c1' was not removed within 40 s"):
                async with container:
                    pass


async def test_an_exec_whose_start_was_given_up_is_ended() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.script("c1", RUNS, exec_id="e1")

        async def run() -> None:
            async with await task.exec("e1", ["sleep"]) as process:
                await process.start()

        await given_up(w, "Tasks/Start", run)
        with pytest.raises(NotFound):
            await task.load_process("e1")
        assert task.exit_status is None


async def test_an_exec_whose_start_is_not_answered_is_ended() -> None:
    async with world() as w:
        task = await w.running()
        w.fake.script("c1", RUNS, exec_id="e1")
        process = await task.exec("e1", ["sleep"])
        with w.fake.hold("Tasks/Start", times=1), pytest.raises(DeadlineExceeded):
            await process.start()
        with pytest.raises(NotFound):
            await task.load_process("e1")
        assert task.exit_status is None


async def test_what_is_removed_while_the_daemon_is_away_is_removed_when_it_is_back() -> None:
    async with world() as w:
        container = await w.client.new_container("c1", spec=SPEC)
        w.fake.script("c1", RUNS)
        async with anyio.create_task_group() as group:
            async with w.client.lease(), container, await container.new_task() as task:
                await task.start()
                await w.fake.stop()

                async def come_back() -> None:
                    await anyio.sleep(1)
                    await w.fake.start()

                group.start_soon(come_back)
        assert task.exit_status is not None
        assert await w.client.containers() == []
        assert await w.client.leases.list() == []
