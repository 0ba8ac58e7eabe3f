"""What processes refuse before anything is sent, and that nothing comes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from containerd_aio import Closed, FailedPrecondition, InvalidArgument, NotFound, Task, Unknown, stdio
from containerd_aio.testing import Fate
from tests.unit.fake_support import RUNS, world

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda task: task.kill(None), "there is no signal None"),
        (lambda task: task.kill(9.5), "there is no signal 9.5"),
        (lambda task: task.exec(3, ["true"]), "exec id is 3, which is no text"),
        (lambda task: task.exec("", ["true"]), "exec id is empty"),
        (lambda task: task.exec("e", None), "a command is a list of strings, not None"),
        (lambda task: task.exec("e", {"true"}), "a command is a list of strings, not {'true'}"),
        (lambda task: task.exec("e", ["echo", 1]), "a command is a list of strings"),
        (lambda task: task.resize(-1, 24), "a terminal of -1 by 24 cells"),
        (lambda task: task.resize(80, 1 << 16), "a terminal of 80 by 65536 cells"),
    ],
)
async def test_mistakes(call: Callable[[Any], Any], words: str) -> None:
    async with world() as w:
        task = await w.running()
        before = len(w.fake.calls)
        with pytest.raises(InvalidArgument, match=words):
            await call(task)
        assert len(w.fake.calls) == before


async def test_a_second_start_is_refused_and_does_no_harm() -> None:
    async with world() as w:
        task: Task = await w.running()
        w.fake.script("c1", RUNS, exec_id="e1")
        process = await task.exec("e1", ["cat"], io=stdio.pipes(stdin=True))
        async with anyio.create_task_group() as group:
            with w.fake.hold("Tasks/Start") as held:
                group.start_soon(process.start)
                await held.reached()
                with pytest.raises(FailedPrecondition, match="e1 was started before"):
                    await process.start()
                held.release()
        for twice in (process, task):
            with pytest.raises(FailedPrecondition, match="was started before"):
                await twice.start()
        assert process.stdin is not None
        await process.stdin.send(b"still open")
        assert await process.status() == "running"
        await process.delete(kill=True)
        with pytest.raises(NotFound):
            await process.start()


async def test_a_start_that_another_client_was_faster_with_is_refused_alike() -> None:
    async with world() as w:
        task = await w.created()
        with w.fake.hold_events("topic~=|^/tasks/|"):
            await w.start_behind_our_back()
            with pytest.raises(FailedPrecondition, match="cannot start a running process"):
                await task.start()


async def test_a_process_object_may_be_any_mapping() -> None:
    from types import MappingProxyType

    async with world() as w:
        task = await w.running()
        w.fake.script("c1", Fate(exit_code=3), exec_id="e1")
        async with await task.exec("e1", MappingProxyType({"args": ["true"], "cwd": "/"})) as process:
            await process.start()
            assert (await process.wait(timeout=10)).code == 3


async def test_a_delete_over_which_the_shim_ends_is_requested_again() -> None:
    async with world() as w:
        task = await w.running()
        with w.fake.fail("Tasks/Delete", "UNKNOWN", "failed to delete task: ttrpc: closed", times=2):
            assert (await task.delete(kill=True)).code == 137
        await w.again()
        task = await (await w.client.container("c1")).task()
        fault = w.fake.fail("Tasks/Delete", "UNKNOWN", "ttrpc: closed", times=10)
        with pytest.raises(Unknown, match="ttrpc: closed"):
            await task.delete(kill=True)
        assert fault.hits == 6


async def test_a_subscription_is_entered_once() -> None:
    async with world() as w:
        events = w.client.events()
        async with events:
            pass
        with pytest.raises(Closed, match=r"client\.events\(\) makes another"):
            await events.__aenter__()
