"""One life of a container, on every release line: created, run, watched, awaited, deleted; and many of them."""

from __future__ import annotations

import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from containerd_aio import (
    AlreadyExists,
    Client,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Process,
    TaskExit,
    Unknown,
    oci,
    stdio,
)
from tests.integration.fifo_support import fifos

IMAGE = "docker.io/library/busybox:latest"


async def _run(client: Client, name: str, *args: str, io: stdio.IOCreator | None = None) -> Process:
    """Run a container to its end and return its deleted task."""
    async with await client.new_container(name, image=IMAGE, args=args) as container:
        async with await container.new_task(io=io) as task:
            await task.start()
            await task.wait(timeout=60)
            await task.delete()
            return task


async def test_a_whole_life(client: Client) -> None:
    before = datetime.now(UTC)
    async with client.events() as events:
        async with await client.new_container(
            "life", image=IMAGE, args=["sh", "-c", "echo out; echo err >&2; exit 7"]
        ) as container:
            assert (await container.info()).snapshot_key == "life"
            async with await container.new_task(io=stdio.capture()) as task:
                assert await task.status() == "created"
                await task.start()
                status = await task.wait()
                assert await task.status() == "stopped"
                assert (status.code, status.unknown, status.oom_killed) == (7, False, False)
                assert status.pid == task.pid
                assert status.exited_at is not None
                assert (
                    before - timedelta(seconds=1)
                    < status.exited_at
                    < datetime.now(UTC) + timedelta(seconds=1)
                )
                assert await task.delete() == status
                assert task.captured is not None
                assert (task.captured.stdout, task.captured.stderr) == (b"out\n", b"err\n")
        topics = []
        with anyio.fail_after(10):
            while "/containers/delete" not in topics:
                topics.append((await anext(events)).topic)  # type: ignore[union-attr]
    # "/tasks/delete" may come later still, or never: a shim of 2.1 now and then ends before it has sent it.
    of_the_task = [t for t in topics if t.startswith("/tasks/") and t != "/tasks/delete"]
    assert of_the_task == ["/tasks/create", "/tasks/start", "/tasks/exit"]
    assert await client.containers() == []
    with pytest.raises(NotFound):
        await client.container("life")


async def test_200_runs_of_true_all_return_0_at_a_sane_time(client: Client) -> None:
    limit = anyio.CapacityLimiter(6)
    began = datetime.now(UTC) - timedelta(seconds=1)

    async def one(n: int) -> None:
        async with limit:
            task = await _run(client, f"true-{n}", "/bin/true")
        status = task.exit_status
        assert status is not None
        assert (status.code, status.unknown, status.source) == (0, False, "event")
        assert status.exited_at is not None
        assert began < status.exited_at < datetime.now(UTC) + timedelta(seconds=1)

    async with anyio.create_task_group() as group:
        for n in range(200):
            group.start_soon(one, n)
    assert client.statistics().open_tasks == 0


async def test_200_events_published_right_after_subscribing_are_all_seen(client: Client) -> None:
    for n in range(200):
        async with client.events(f'topic=="/round/{n}"') as events:
            await client.publish(f"/round/{n}")
            with anyio.fail_after(5):
                event = await anext(events)
            assert event.topic == f"/round/{n}"  # type: ignore[union-attr]


async def test_a_fresh_client_misses_nothing_either(client: Client) -> None:
    for n in range(20):
        async with Client(client.address, namespace=client.namespace) as fresh, fresh.events() as events:
            await client.publish(f"/fresh/{n}")
            with anyio.fail_after(5):
                while (await anext(events)).topic != f"/fresh/{n}":  # type: ignore[union-attr]
                    pass


async def test_1_mb_of_a_short_life_arrives_whole_100_times(client: Client) -> None:
    limit = anyio.CapacityLimiter(4)

    async def one(n: int) -> None:
        async with limit:
            command = "head -c 1000000 /dev/zero | tr '\\0' x; echo end >&2"
            task = await _run(client, f"mb-{n}", "sh", "-c", command, io=stdio.capture())
        assert task.captured is not None
        assert task.captured.stdout == b"x" * 1_000_000
        assert task.captured.stderr == b"end\n"

    async with anyio.create_task_group() as group:
        for n in range(100):
            group.start_soon(one, n)


async def test_pipes_keep_the_tail_after_the_delete(client: Client) -> None:
    async with await client.new_container(
        "tail", image=IMAGE, args=["sh", "-c", "head -c 50000 /dev/zero"]
    ) as container:
        async with await container.new_task(io=stdio.pipes()) as task:
            await task.start()
            await task.wait()
            await task.delete()
            assert task.stdout is not None
            received = b"".join([chunk async for chunk in task.stdout])
    assert received == bytes(50000)


async def test_stdin_reaches_the_process_and_ends(client: Client) -> None:
    async with await client.new_container("cat", image=IMAGE, args=["cat"]) as container:
        async with await container.new_task(io=stdio.pipes(stdin=True)) as task:
            await task.start()
            assert task.stdin is not None
            assert task.stdout is not None
            await task.stdin.send(b"hello")
            await task.stdin.aclose()
            assert b"".join([chunk async for chunk in task.stdout]) == b"hello"
            assert (await task.wait(timeout=20)).code == 0


async def test_kill_wait_and_what_comes_after(client: Client) -> None:
    async with await client.new_container("sleep", image=IMAGE, args=["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            with pytest.raises(DeadlineExceeded):
                await task.wait(timeout=0.05)
            with pytest.raises(FailedPrecondition, match="kill it first"):
                await task.delete()
            with pytest.raises(FailedPrecondition, match="has a task"):
                await container.delete()
            with pytest.raises(AlreadyExists):
                await container.new_task()
            await task.kill("KILL")
            status = await task.wait(timeout=20)
            assert (status.code, status.oom_killed, status.oom_known) == (137, False, True)
            with pytest.raises(NotFound):
                await task.kill(signal.SIGTERM)
            assert await task.wait() == status


async def test_many_waiters_share_one_exit_and_cancelling_one_harms_none(client: Client) -> None:
    async with await client.new_container("many", image=IMAGE, args=["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            seen: list[int] = []

            async def wait(cancelled: bool) -> None:
                with anyio.move_on_after(0.05 if cancelled else None):
                    seen.append((await task.wait()).code)

            async with anyio.create_task_group() as group:
                for n in range(20):
                    group.start_soon(wait, n % 2 == 0)
                await task.start()
                with anyio.move_on_after(0.2):
                    await task.wait()
                await task.kill(signal.SIGKILL)
            assert seen == [137] * 10


async def test_exec_in_a_running_container(client: Client) -> None:
    async with await client.new_container("host", image=IMAGE, args=["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            async with await task.exec(
                "e1", ["sh", "-c", "echo from exec; exit 6"], io=stdio.capture()
            ) as process:
                await process.start()
                assert (await process.wait(timeout=20)).code == 6
                assert process.pid != task.pid
                await process.delete()
                assert process.captured is not None
                assert process.captured.stdout == b"from exec\n"
            assert task.exit_status is None
            # The id is free again; an exec may even be named like its container.
            for exec_id in ("e1", "host"):
                async with await task.exec(exec_id, ["true"]) as again:
                    await again.start()
                    assert (await again.wait(timeout=20)).code == 0
            assert task.exit_status is None
            with pytest.raises(Unknown):
                broken = await task.exec("nope", ["/no/such/binary"])
                await broken.start()
            async with await task.exec("nope", ["true"]) as fixed:
                await fixed.start()
                assert (await fixed.wait(timeout=20)).code == 0


async def test_pause_freezes_and_resume_thaws(client: Client, tmp_path: Path) -> None:
    counter = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"
    async with await client.new_container("paused", image=IMAGE, args=["sh", "-c", counter]) as container:
        async with await container.new_task(io=stdio.pipes()) as task:
            await task.start()
            assert task.stdout is not None
            await task.stdout.receive()
            await task.pause()
            assert await task.status() == "paused"
            await task.resume()
            assert await task.status() == "running"
            assert task.pid in await task.pids()
            await task.stdout.receive()


async def test_oom_kill_is_told_from_a_kill(client: Client) -> None:
    eat = "a=x; while :; do a=$a$a; done"
    container = await client.new_container(
        "oom", image=IMAGE, args=["sh", "-c", eat], spec_opts=[oci.with_memory_limit(20 << 20)]
    )
    async with container, await container.new_task() as task:
        await task.start()
        status = await task.wait(timeout=60)
    assert (status.code, status.oom_killed, status.oom_known) == (137, True, True)


async def test_a_missing_binary_leaves_nothing(client: Client) -> None:
    async with await client.new_container("nobin", image=IMAGE, args=["/no/such/binary"]) as container:
        with pytest.raises(Unknown, match="no such file"):
            await container.new_task(io=stdio.pipes())
        with pytest.raises(NotFound):
            await container.task()
    assert client.statistics().open_tasks == 0


async def test_a_task_is_found_again_by_another_client(client: Client) -> None:
    async with await client.new_container("found", image=IMAGE, args=["sh", "-c", "sleep 1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            async with Client(client.address, namespace=client.namespace) as other:
                again = await (await other.container("found")).task()
                assert again.pid == task.pid
                async with anyio.create_task_group() as group:
                    group.start_soon(again.wait)
                    await task.kill("KILL", all=True)
                assert again.exit_status is not None
                assert again.exit_status.code == 137
            # A client that comes after the exit learns it too.
            async with Client(client.address, namespace=client.namespace) as late:
                status = await (await (await late.container("found")).task()).wait(timeout=5)
                assert status.code == 137
                assert status.source in {"get", "list"}


async def test_bad_input_is_refused_before_anything_is_made(client: Client) -> None:
    for bad in ("", "a b", "x" * 77, "-a"):
        with pytest.raises(InvalidArgument):
            await client.new_container(bad, image=IMAGE)
    with pytest.raises(InvalidArgument, match="list of strings"):
        await client.new_container("c", image=IMAGE, args="echo hi")
    with pytest.raises(InvalidArgument, match="nothing to run"):
        await client.new_container("c")
    with pytest.raises(NotFound):
        await client.new_container("c", image="no/such:image")
    assert await client.containers() == []


async def test_cancelling_a_creation_leaves_neither_task_nor_snapshot_nor_fifo(client: Client) -> None:
    from containerd_aio.services.leases import Leases
    from containerd_aio.services.snapshots import Snapshotter

    snapshots = Snapshotter(client.services, "overlayfs")
    committed = {info.name for info in await snapshots.list()}
    for n in range(12):
        began = time.monotonic()
        with anyio.move_on_after(0.004 * n) as scope:
            container = await client.new_container(f"cancel-{n}", image=IMAGE, args=["sleep", "1000"])
            async with container, await container.new_task(io=stdio.pipes()) as task:
                await task.start()
                await anyio.sleep_forever()
        assert scope.cancelled_caught, time.monotonic() - began
    assert await client.containers() == []
    # What the daemon still did behind a cancelled call lost its lease: a collection that is waited for takes it.
    leases = Leases(client.services)
    await leases.delete(await leases.create(), sync=True)
    assert {info.name for info in await snapshots.list()} == committed
    assert fifos("cancel-") == []


async def test_cancelling_an_exec_leaves_neither_process_nor_fifo_nor_id(client: Client) -> None:
    async with await client.new_container("execs", image=IMAGE, args=["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            for n in range(15):
                with anyio.move_on_after(0.005 * n):
                    async with await task.exec("cut", ["sleep", "1000"], io=stdio.capture()) as process:
                        await process.start()
                        await anyio.sleep_forever()
            assert [process.exec_id for process in await task.processes()] == [None]
    assert fifos("cut-") == []


async def test_exits_of_an_exec_and_its_container_are_told_apart_as_events(client: Client) -> None:
    async with client.events('topic=="/tasks/exit"') as events:
        async with await client.new_container("two", image=IMAGE, args=["sleep", "1000"]) as container:
            async with await container.new_task() as task:
                await task.start()
                async with await task.exec("e", ["sh", "-c", "exit 3"]) as process:
                    await process.start()
                    await process.wait()
                await task.kill("KILL")
                await task.wait()
        await client.barrier()
        exits = [await anext(events) for _ in range(events.pending)]
    assert [(e.id, e.exit_status) for e in exits if isinstance(e, TaskExit)] == [("e", 3), ("two", 137)]
