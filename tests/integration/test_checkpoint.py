"""Checkpoint and restore by the real CRIU: what runs goes on where it was, in the same container or in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest

from containerd_aio import (
    AlreadyExists,
    CheckpointOptions,
    Client,
    Container,
    FailedPrecondition,
    Image,
    InvalidArgument,
    NotFound,
    Task,
    oci,
    stdio,
)
from containerd_aio.checkpoint import CRIU_ARCHIVE, find_entry, read_index
from tests.conftest import left_out, testbed

if TYPE_CHECKING:
    from containerd_aio import Daemon
    from tests.integration.daemon_view import Ctr

IMAGE = "docker.io/library/busybox:latest"

# Counts in memory; what it has come to is in a file of the root filesystem.
COUNTER = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.02; done"


@pytest.fixture(autouse=True)
def _criu() -> None:
    """CRIU, which the shared daemons have in their PATH."""
    if testbed.criu_dir() is None:
        left_out("no CRIU in the test bed: run `make testbed`")


@asynccontextmanager
async def counting(client: Client, name: str, *, at_least: int = 10) -> AsyncIterator[tuple[Container, Task]]:
    """Run a container that counts, and has come to `at_least`."""
    async with await client.new_container(name, image=IMAGE, args=["sh", "-c", COUNTER]) as container:
        async with await container.new_task(io=stdio.pipes()) as task:
            await task.start()
            await reads(task, lambda n: n >= at_least)
            yield container, task


async def rest_of(task: Task) -> int:
    """Return the last number that a container said which has ended."""
    assert task.stdout is not None
    said = b"".join([chunk async for chunk in task.stdout]).split()
    return int(said[-1]) if said else 0


async def numbers(task: Task) -> AsyncIterator[int]:
    """Yield what a container that counts says."""
    assert task.stdout is not None
    rest = b""
    async for chunk in task.stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield int(line)


async def reads(task: Task, wanted: Callable[[int], bool] = lambda _: True) -> int:
    """Read numbers up to one that is wanted."""
    with anyio.fail_after(30):
        async for number in numbers(task):
            if wanted(number):
                return number
    raise AssertionError("the counter ended")


@pytest.mark.shows(
    "go:TestCheckpointRestore",
    "seed:containerd.Task.Checkpoint",
    "seed:containerd.WithTaskCheckpoint",
    "seed:containerd.WithExit",
    "seed:containerd.CheckpointTaskInfo",
    "seed:containerd.CheckpointTaskOpts",
)
async def test_a_task_goes_on_in_its_container(client: Client) -> None:
    async with counting(client, "goes-on") as (container, task):
        image = await task.checkpoint(options=CheckpointOptions(exit=True))
        assert image is not None
        assert image.name.startswith("containerd.io/checkpoint/goes-on:")
        assert image.labels == {"containerd.io/checkpoint": "true"}
        assert not (await task.wait(timeout=20)).unknown
        await task.delete()
        last = await rest_of(task)
        async with await container.new_task(io=stdio.pipes(), checkpoint=image) as again:
            assert again.pid is None
            async with anyio.create_task_group() as group:
                codes: list[int] = []

                async def wait() -> None:
                    codes.append((await again.wait()).code)

                group.start_soon(wait)
                await again.start()
                assert await again.status() == "running"
                assert again.pid in await again.pids()
                assert await reads(again) > last
                await again.kill("KILL")
            assert codes == [137]
    await image.delete(sync=True)


@pytest.mark.shows("go:TestCheckpointLeaveRunning")
async def test_a_dump_leaves_the_task_running_and_a_copy_starts_beside_it(client: Client) -> None:
    async with counting(client, "first") as (_, task):
        image = await task.checkpoint("snap:1")
        assert image is not None
        assert image.name == "snap:1"
        at_dump = int(await in_rootfs(client, "first"))
        assert await task.status() == "running"
        async with await client.restore("second", image) as copy:
            assert (await copy.info()).image == IMAGE
            assert (await copy.spec())["linux"]["cgroupsPath"] == f"/{client.namespace}/second"
            async with await copy.new_task(io=stdio.pipes(), checkpoint=image) as other:
                await other.start()
                assert other.pid != task.pid
                assert 10 < await reads(other) <= at_dump + 1
                assert other.pid in await other.pids()
                assert task.pid not in await other.pids()
            assert task.exit_status is None
        await reads(task, lambda n: n > at_dump)
        # A dump of the same name takes the place of the first; of another name, it does not harm the first.
        other_image = await task.checkpoint("snap:2", options=CheckpointOptions())
        again = await task.checkpoint("snap:1")
        assert other_image is not None
        assert again is not None
        assert len({image.target.digest, other_image.target.digest, again.target.digest}) == 3
        async with await client.restore("third", other_image) as copy:
            assert (await copy.spec())["process"] == (await task.spec())["process"]


async def in_rootfs(client: Client, container_id: str) -> str:
    """Read /count in a container."""
    task = await (await client.container(container_id)).task()
    script = 'until n=$(cat /count); test "$n"; do :; done; echo $n'  # it is empty while it is written
    async with await task.exec("count", ["sh", "-c", script], io=stdio.capture()) as process:
        await process.start()
        await process.wait()
        await process.delete()
        assert process.captured is not None
        return process.captured.stdout.decode()


@pytest.mark.shows("go:TestCheckpointRestoreNewContainer", "seed:containerd.WithCheckpoint")
async def test_a_whole_container_comes_back_from_its_checkpoint(client: Client) -> None:
    options = oci.RuncOptions(no_new_keyring=True)
    container = await client.new_container(
        "whole", image=IMAGE, args=["sh", "-c", COUNTER], runtime_options=options, labels={"a": "b"}
    )
    async with container, await container.new_task(io=stdio.pipes()) as task:
        await task.start()
        await reads(task, lambda n: n >= 10)
        image = await container.checkpoint("whole:1", options=CheckpointOptions(exit=True))
        with pytest.raises(AlreadyExists):
            await container.checkpoint("whole:1")
        await task.wait(timeout=20)
        await task.delete()
        last = await rest_of(task)
    assert await client.containers() == []

    restored = await client.restore("whole", "whole:1", labels={"c": "d"})
    info = await restored.info()
    assert (info.image, info.snapshot_key, info.labels) == (IMAGE, "whole", {"c": "d"})
    assert info.runtime_options == options
    async with restored, await restored.new_task(io=stdio.pipes(), checkpoint=image) as task:
        await task.start()
        assert await reads(task) > last
        assert int(await in_rootfs(client, "whole")) > last

    # The changes of the root filesystem are a layer of their own, that may be left out.
    spec = oci.from_json(oci.to_json(info.spec or {}))
    spec["process"]["args"] = ["cat", "/count"]
    for rw, code in ((True, 0), (False, 1)):
        async with await client.restore(f"cat-{rw}".lower(), image, rw=rw, spec=spec) as cat:
            async with await cat.new_task() as task:
                await task.start()
                assert (await task.wait(timeout=20)).code == code


@pytest.mark.shows("go:TestCheckpointRestoreWithImagePath")
async def test_a_dump_in_a_directory(client: Client, tmp_path: Path) -> None:
    async with counting(client, "path") as (container, task):
        options = CheckpointOptions(exit=True, image_path=str(tmp_path / "dump"), work_path=str(tmp_path))
        assert await task.checkpoint(options=options) is None
        assert (tmp_path / "dump" / "inventory.img").exists()
        await task.wait(timeout=20)
        await task.delete()
        last = await rest_of(task)
        where = oci.RuncOptions(criu_image_path=str(tmp_path / "dump"))
        async with await container.new_task(io=stdio.pipes(), options=where) as again:
            await again.start()
            assert await reads(again) > last


@pytest.mark.shows("go:TestCheckpointRestorePTY")
async def test_a_container_with_a_terminal(client: Client) -> None:
    container = await client.new_container(
        "tty", image=IMAGE, args=["sh", "-c", COUNTER], spec_opts=[oci.with_tty()]
    )
    async with container:
        async with await container.new_task(io=stdio.pipes(terminal=True)) as task:
            await task.start()
            await reads(task, lambda n: n >= 10)
            image = await task.checkpoint("tty:1", options=CheckpointOptions(exit=True, terminal=True))
            await task.wait(timeout=20)
            await task.delete()
            last = await rest_of(task)
        async with await container.new_task(io=stdio.pipes(terminal=True), checkpoint=image) as again:
            await again.start()
            assert await reads(again) > last
            await again.resize(100, 40)


@pytest.mark.shows("go:TestCheckpointOnPauseStatus")
async def test_a_paused_task_stays_paused(client: Client) -> None:
    async with counting(client, "paused") as (_, task):
        await task.pause()
        await task.checkpoint("paused:1")
        assert await task.status() == "paused"
        await task.resume()
        await reads(task)


async def test_parts_that_are_left_out(client: Client) -> None:
    async with await client.new_container("parts", image=IMAGE, args=["touch", "/made"]) as container:
        async with await container.new_task() as task:
            await task.start()
            await task.wait(timeout=20)
        with pytest.raises(NotFound):
            await container.checkpoint("parts:1")
        image = await container.checkpoint("parts:1", task=False)
        with pytest.raises(NotFound, match="no state of processes"):
            await container.new_task(checkpoint=image)
        with pytest.raises(NotFound, match="no spec"):
            await client.restore("other", image)
        spec = await container.spec()
        spec["process"]["args"] = ["stat", "/made"]
        async with await client.restore("other", image, spec=spec) as other, await other.new_task() as task:
            await task.start()
            assert (await task.wait(timeout=20)).code == 0
        with pytest.raises(InvalidArgument, match="no checkpoint"):
            await client.restore("third", IMAGE)
        # The image's content is held by the checkpoint, whatever becomes of its name.
        await (await client.image(IMAGE)).delete(sync=True)
        async with await client.restore("fourth", image, spec=spec) as other:
            assert (await other.info()).image == IMAGE
    bare = await client.new_container("bare", spec=spec)
    async with bare:
        with pytest.raises(FailedPrecondition, match="image=False"):
            await bare.checkpoint("bare:1", task=False)
        with pytest.raises(FailedPrecondition, match="rw=False"):
            await bare.checkpoint("bare:1", task=False, image=False)
    assert await leftovers(client) == {"leases": [], "ingests": [], "active": []}


async def leftovers(client: Client) -> dict[str, list[object]]:
    from tests.integration.image_support import leftovers

    return await leftovers(client.services)


async def test_a_cancelled_checkpoint_leaves_the_task_running_and_nothing_behind(client: Client) -> None:
    async with counting(client, "cancelled") as (_, task):
        for n in range(4):
            with anyio.move_on_after(0.03 * n):
                await task.checkpoint("cancelled:1")
            assert await task.status() == "running"
            await reads(task)
        found = await leftovers(client)
        assert (found["leases"], found["ingests"]) == ([], [])
        assert [info.name for info in found["active"]] == ["cancelled"]  # type: ignore[attr-defined]


async def test_checkpoints_at_once_are_made_one_after_the_other(client: Client) -> None:
    async with counting(client, "busy") as (_, task):
        async with anyio.create_task_group() as tasks:
            for n in range(3):
                tasks.start_soon(task.checkpoint, f"busy:{n}")
        for n in range(3):
            checkpoint = await Image.get(client.services, f"busy:{n}")
            index = await read_index(client.services, checkpoint.target)
            assert find_entry(index, CRIU_ARCHIVE) is not None
        assert await task.status() == "running"
        await reads(task)


async def test_a_restored_container_that_cannot_be_made_leaves_no_snapshot(client: Client) -> None:
    async with counting(client, "twice") as (_, task):
        image = await task.checkpoint("twice:1")
        assert image is not None
        with pytest.raises(AlreadyExists):
            await client.restore("twice", image)  # its snapshot is there
        with pytest.raises(AlreadyExists):
            await client.restore("twice", image, snapshot="another")
        found = await leftovers(client)
        assert [info.name for info in found["active"]] == ["twice"]  # type: ignore[attr-defined]


async def test_checkpoints_of_ctr_and_for_ctr(daemon: Daemon, client: Client, ctr: Ctr) -> None:
    spaced = ("--namespace", client.namespace, "containers")
    async with counting(client, "ours") as (container, task):
        await container.checkpoint("ours:1", options=CheckpointOptions(exit=True))
        await task.wait(timeout=20)
        await task.delete()
        last = await rest_of(task)
    await ctr(daemon, *spaced, "restore", "--rw", "--live", "theirs", "ours:1")
    async with await client.container("theirs") as container:
        assert await (await container.task()).status() == "running"
        assert int(await in_rootfs(client, "theirs")) >= last
        # ctr of 1.x leaves the task out without a word if the same spec is there already.
        await (await client.image("ours:1")).delete(sync=True)
        await ctr(daemon, *spaced, "checkpoint", "--image", "--rw", "--task", "theirs", "theirs:1")
        at_dump = int(await in_rootfs(client, "theirs"))
        image = await client.image("theirs:1")
        async with await client.restore("again", image) as again:
            async with await again.new_task(io=stdio.pipes(), checkpoint=image) as task:
                await task.start()
                assert last < await reads(task) <= at_dump + 1
