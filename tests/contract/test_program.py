"""A user's whole program, through the public names only, runs on both without a change."""

from __future__ import annotations

import anyio
import pytest

from containerd_aio import ExitStatus, FailedPrecondition, NotFound, TaskExit, Unknown, stdio
from tests.contract.backend import IMAGE, Backend


async def test_a_program(backend: Backend) -> None:
    client, name = backend.client, backend.id()
    await backend.ensure_image()
    assert (await client.image(IMAGE)).name == IMAGE
    async with client.events("topic~=|^/tasks/|") as events:
        script = "echo one; sleep 0.05; echo two >&2; cat; exit 3"
        async with await client.new_container(name, image=IMAGE, args=["sh", "-c", script]) as container:
            async with await container.new_task(io=stdio.pipes(stdin=True)) as task:
                await task.start()
                assert task.stdin is not None
                assert task.stdout is not None
                assert task.stderr is not None
                await task.stdin.send(b"three\n")
                await task.stdin.aclose()
                status = await task.wait(timeout=20)
                assert (status.code, status.unknown, status.oom_killed) == (3, False, False)
                assert await _all(task.stdout) == b"one\nthree\n"
                assert await _all(task.stderr) == b"two\n"
        async for event in events:
            if isinstance(event, TaskExit):
                assert (event.container_id, event.exit_status) == (name, 3)
                break
    with pytest.raises(NotFound):
        await client.container(name)


async def _all(stream: object) -> bytes:
    return b"".join([data async for data in stream])  # type: ignore[attr-defined]


async def test_captured_output(backend: Backend) -> None:
    async with backend.container("sh", "-c", "echo out; echo err >&2; exit 4") as container:
        async with await container.new_task(io=stdio.capture()) as task:
            await task.start()
            assert (await task.wait(timeout=20)).code == 4
            await task.delete()
            assert task.captured is not None
            assert (task.captured.stdout, task.captured.stderr) == (b"out\n", b"err\n")


async def test_an_exec(backend: Backend) -> None:
    async with backend.running() as (_, task):
        async with await task.exec("e1", ["sh", "-c", "cat; exit 5"], io=stdio.pipes(stdin=True)) as process:
            await process.start()
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send(b"through a pipe")
            await process.stdin.aclose()
            assert await _all(process.stdout) == b"through a pipe"
            assert (await process.wait(timeout=20)).code == 5
        with pytest.raises(Unknown):
            await (await task.exec("e2", ["/no/such/program"])).start()
        assert await task.status() == "running"
        with pytest.raises(FailedPrecondition):
            await task.delete()


async def test_many_at_once(backend: Backend) -> None:
    statuses: dict[int, ExitStatus] = {}

    await backend.ensure_image()

    async def run(code: int) -> None:
        async with backend.running("sh", "-c", f"exit {code}") as (_, task):
            statuses[code] = await task.wait(timeout=30)

    async with anyio.create_task_group() as group:
        for code in range(5):
            group.start_soon(run, code)
    assert {code: status.code for code, status in statuses.items()} == {code: code for code in range(5)}


async def test_another_client_takes_over(backend: Backend) -> None:
    async with backend.running() as (name, _):
        container = await backend.client.container(name)
        task = await container.task()
        await task.kill("KILL")
        assert (await task.wait(timeout=20)).code == 137
        assert (await task.delete()).code == 137
