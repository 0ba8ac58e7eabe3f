"""The fake in a test's hands: fates, control, evidence, clean ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import (
    Client,
    Closed,
    ConnectError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    TaskExit,
    TaskPaused,
    stdio,
)
from containerd_aio.api.containerd.v1.types import Status
from containerd_aio.testing import FakeContainerd, FakeProcess, Fate, FaultProxy, build_image_archive
from tests.unit.fake_support import RUNS, SPEC, until, world

looptime = pytest.mark.looptime


# --- life ---------------------------------------------------------------------------------------------------------


async def test_a_place_of_its_own_or_a_given_one(tmp_path: Path) -> None:
    async with FakeContainerd() as one, FakeContainerd(tmp_path / "c.sock") as two:
        assert one.address != two.address == str(tmp_path / "c.sock")
        async with Client(one.address) as first, Client(two.address) as second:
            await first.new_container("c1", spec=SPEC)
            assert await second.containers() == []
        assert "2.1" in repr(one)
        with pytest.raises(Closed):
            await one.__aenter__()
    assert not Path(one.address).parent.exists()
    assert not Path(two.address).exists()
    assert "not started" in repr(FakeContainerd())


async def test_what_is_at_the_given_path_is_not_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    async with FakeContainerd(tmp_path / "c.sock") as fake:
        for path, words in ((precious, "no socket; remove it"), (fake.address, "somebody listens on")):
            for other in (FakeContainerd(path), FaultProxy("/no/such", path=path)):
                with pytest.raises(FailedPrecondition, match=words):
                    async with other:
                        pass
        assert precious.read_text() == "x"
        async with Client(fake.address) as client:
            assert await client.is_serving()


async def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"1\.6, 1\.7, 2\.1"):
        FakeContainerd(release="3.0")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="v1, v2"):
        FakeContainerd(cgroup="v3")  # type: ignore[arg-type]
    with pytest.raises(OSError, match="No such file"):
        async with FakeContainerd(tmp_path / "no" / "such" / "folder"):
            pass


async def test_leaving_ends_whatever_goes_on() -> None:
    async with anyio.create_task_group() as group:
        async with FakeContainerd() as fake:
            client = Client(fake.address)
            await client.__aenter__()
            fake.script("c1", Fate(exit_code=None, stdout=b"x"))
            container = await client.new_container("c1", spec=SPEC)
            task = await container.new_task(io=stdio.capture())
            await task.start()
            group.start_soon(_ignore, client, "c1")
            await fake.called("Tasks/Wait")
        await task.aclose()
        await client.__aexit__(None, None, None)


async def _ignore(client: Client, name: str) -> None:
    from containerd_aio.api.containerd.services.tasks.v1 import WaitRequest
    from containerd_aio.errors import ContainerdError

    with pytest.raises(ContainerdError):
        await client.services.tasks.wait(WaitRequest(container_id=name))


# --- fates --------------------------------------------------------------------------------------------------------


@looptime
async def test_a_fate_in_its_time() -> None:
    loop_time = anyio.current_time
    async with world() as w:
        began = loop_time()
        task = await w.running(fate=Fate(exit_code=3, after=3600))
        assert (await task.wait()).code == 3
        assert 3600 <= loop_time() - began < 3601
        status = task.exit_status
        assert status is not None
        assert status.exited_at_ns is not None
        started = next(event for event in w.fake.published if event.topic == "/tasks/start")
        assert 3_600e9 <= status.exited_at_ns - started.timestamp_ns < 3_601e9


async def test_a_program_of_ones_own() -> None:
    async def program(process: FakeProcess) -> int:
        await process.write(f"{process.args[1]} {process.env['GREETING']} ".encode())
        while data := await process.read():
            await process.write(data.upper())
        return 5

    spec: Any = {"process": {"args": ["greet", "hello"], "env": ["GREETING=dear"], "cwd": "/"}}
    async with world() as w:
        w.fake.program("greet", program)
        container = await w.client.new_container("c1", spec=spec)
        async with await container.new_task(io=stdio.pipes(stdin=True)) as task:
            await task.start()
            assert task.stdin is not None
            assert task.stdout is not None
            await task.stdin.send(b"reader")
            await task.stdin.aclose()
            assert (await task.wait(timeout=10)).code == 5
            assert b"".join([data async for data in task.stdout]) == b"hello dear READER"


async def test_a_program_that_fails_is_a_process_that_fails() -> None:
    async def program(process: FakeProcess) -> int:
        raise RuntimeError("broken")

    async with world() as w:
        w.fake.script("c1", program)
        container = await w.client.new_container("c1", spec=SPEC)
        async with await container.new_task(io=stdio.capture()) as task:
            await task.start()
            assert (await task.wait(timeout=10)).code == 1
            await task.delete()
            assert task.captured is not None
            assert b"RuntimeError: broken" in task.captured.stderr


async def test_a_program_that_is_killed() -> None:
    cleaned = anyio.Event()

    async def program(process: FakeProcess) -> int:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.set()
        return 0

    async with world() as w:
        task = await w.running(fate=program)
        await task.kill("KILL")
        assert (await task.wait(timeout=10)).code == 137
        await cleaned.wait()


async def test_who_decides_over_a_process() -> None:
    async with FakeContainerd(default=Fate(exit_code=9)) as fake, Client(fake.address) as client:
        seen: list[str] = []

        @fake.on_start
        def decide(process: FakeProcess) -> Fate | None:
            seen.append(f"{process.container_id}/{process.exec_id}")
            return Fate(exit_code=2) if process.container_id == "called" else None

        fake.script("scripted", Fate(exit_code=1))
        fake.program("tool", Fate(exit_code=3))

        async def code(name: str, *args: str) -> int:
            spec: Any = {"process": {"args": list(args), "cwd": "/"}}
            container = await client.new_container(name, spec=spec)
            task = await container.new_task()
            await task.start()
            return (await task.wait(timeout=10)).code

        assert await code("scripted", "true") == 1
        assert await code("called", "true") == 2
        assert await code("named", "/usr/bin/tool") == 3
        assert await code("known", "sh", "-c", "exit 4") == 4
        assert await code("unknown", "python", "job.py") == 9
        assert seen == ["called/", "named/", "known/", "unknown/"]


async def test_output_larger_than_a_pipe() -> None:
    async with world() as w:
        w.fake.script("c1", Fate(exit_code=0, stdout=b"x" * 300_000, stderr=b"y" * 200_000))
        container = await w.client.new_container("c1", spec=SPEC)
        async with await container.new_task(io=stdio.capture()) as task:
            await task.start()
            assert (await task.wait(timeout=10)).code == 0
            await task.delete()
            assert task.captured is not None
            assert (len(task.captured.stdout), len(task.captured.stderr)) == (300_000, 200_000)


async def test_output_into_files(tmp_path: Path) -> None:
    async with world() as w:
        w.fake.script("c1", Fate(exit_code=0, stdout=b"out", stderr=b"err"))
        container = await w.client.new_container("c1", spec=SPEC)
        task = await container.new_task(io=stdio.files(stdout=tmp_path / "o", stderr=tmp_path / "e"))
        await task.start()
        await task.wait(timeout=10)
        await task.delete()
    assert (tmp_path / "o").read_bytes() == b"out"
    assert (tmp_path / "e").read_bytes() == b"err"


async def test_no_process_has_a_pid_of_the_fake() -> None:
    async with world() as w:
        task = await w.running()
        assert task.pid is not None
        with pytest.raises((ProcessLookupError, OverflowError)):
            os.kill(task.pid, signal.SIGKILL)


# --- control and evidence -----------------------------------------------------------------------------------------


async def test_tasks_in_hand() -> None:
    async with world() as w:
        await w.running()
        await w.running("c2", namespace="other")
        task = w.fake.task("c1")
        assert (task.id, task.namespace, task.status, task.oom_kills) == ("c1", "default", Status.RUNNING, 0)
        assert {task.id for task in w.fake.tasks} == {"c1", "c2"}
        assert w.fake.task("c2").namespace == "other"
        with pytest.raises(NotFound, match="no task in namespace 'other'"):
            w.fake.task("c1", namespace="other")
        await w.running("c2")
        with pytest.raises(NotFound, match="name the namespace"):
            w.fake.task("c2")
        w.fake.exit("c2", 3, namespace="other")
        with pytest.raises(FailedPrecondition):
            w.fake.exit("c2", 3, namespace="other")


@looptime
async def test_time_stands_still_for_what_is_paused() -> None:
    async with world() as w, w.client.events('topic=="/tasks/paused"') as events:
        task = await w.running(fate=Fate(exit_code=3, after=10))
        w.fake.pause("c1")
        await until(events, lambda item: isinstance(item, TaskPaused))
        assert await task.status() == "paused"
        with anyio.move_on_after(100):
            await task.wait()
        assert task.exit_status is None
        w.fake.resume("c1")
        assert (await task.wait(timeout=1)).code == 3


async def test_what_was_published_and_called() -> None:
    async with world() as w:
        task = await w.running(fate=Fate(exit_code=1))
        await task.wait(timeout=10)
        topics = [event.topic for event in w.fake.published if event.topic.startswith("/tasks/")]
        assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit"]
        exit_ = w.fake.published[-1]
        assert isinstance(exit_, TaskExit)
        assert exit_.exit_status == 1
        (call,) = await w.fake.called("Tasks/Start")
        assert (call.method, call.namespace) == ("/containerd.services.tasks.v1.Tasks/Start", "default")
        assert [call.method for call in w.fake.calls].count(call.method) == 1
        assert len(await w.fake.called("Tasks/*", 2)) >= 2


async def test_without_root_images_may_be_imported(tmp_path: Path) -> None:
    archive = build_image_archive(
        tmp_path / "i.tar", "docker.io/library/x:1", layers=[{"bin/a": b"1"}, {"bin/.wh.a": b"", "b": b"2"}]
    )
    async with world() as w:
        (image,) = await w.client.import_archive(archive, unpack=True)
        await w.client.services.snapshots.prepare(_prepare("k", await image.chain_id()))
        snapshot = w.fake._world.store.namespaces["default"].snapshots["overlayfs"]["k"]
        assert sorted(str(path.relative_to(snapshot.path)) for path in snapshot.path.rglob("*")) == [
            "b",
            "bin",
        ]


def _prepare(key: str, parent: str) -> Any:
    from containerd_aio.api.containerd.services.snapshots.v1 import PrepareSnapshotRequest

    return PrepareSnapshotRequest(snapshotter="overlayfs", key=key, parent=parent)


# --- the daemon comes and goes ------------------------------------------------------------------------------------


async def test_stopped_by_a_signal_and_killed() -> None:
    async with world() as w:
        await w.fake.stop(graceful=True)
        with pytest.raises(ConnectError) as gone:
            async with Client(w.fake.address):
                pass
        assert gone.value.reason == "missing"
        await w.fake.start()
        assert await w.client.is_serving()
        await w.fake.stop()
        with pytest.raises(ConnectError) as dead:
            async with Client(w.fake.address):
                pass
        assert dead.value.reason == "refused"
        await w.fake.start()
        await w.client.new_container("c1", spec=SPEC)
        await w.fake.restart()
        assert [container.id for container in await w.client.containers()] == ["c1"]


@looptime
async def test_a_shim_tries_to_publish_again_and_gives_up_at_last() -> None:
    async with world("1.6") as w, w.client.events('topic=="/tasks/exit"') as events:
        for seconds, told in [(2, True), (14, True), (20, False)]:
            name = f"c{seconds}"
            await w.running(name, RUNS)
            await w.fake.stop()
            w.fake.exit(name, 7)
            await anyio.sleep(seconds)
            before = len([event for event in w.fake.published if event.topic == "/tasks/exit"])
            await w.fake.start()
            await anyio.sleep(30)
            after = len([event for event in w.fake.published if event.topic == "/tasks/exit"])
            assert (after > before) == told, seconds
        assert events.pending
