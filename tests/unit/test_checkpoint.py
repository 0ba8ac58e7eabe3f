"""Checkpoints on the fake: what is left when one fails, and the calls around the dump in their order."""

from __future__ import annotations

from contextlib import suppress

import anyio
import pytest

from containerd_aio import CheckpointOptions, NotFound, Unavailable, Unknown
from containerd_aio._transport.codec import encode
from containerd_aio.checkpoint import Parts, checkpoint_container
from containerd_aio.services.content import ContentStore
from containerd_aio.services.leases import Leases
from tests.unit.fake_support import World, world


async def nothing_left(w: World) -> bool:
    return not await Leases(w.client.services).list()


@pytest.mark.parametrize("release", ["1.6", "1.7", "2.1"])
async def test_a_dump_that_fails_leaves_the_task_running(release: str) -> None:
    async with world(release) as w:  # the machine of the fake has no CRIU
        task = await w.running()
        with pytest.raises(Unknown, match="criu"):
            await task.checkpoint()
        assert await task.status() == "running"
        await task.pause()
        with pytest.raises(Unknown, match="criu"):
            await task.checkpoint(options=CheckpointOptions(exit=True))
        assert await task.status() == "paused"
        assert await nothing_left(w)


@pytest.mark.parametrize("release", ["1.7", "2.1"])
async def test_a_spec_that_is_in_the_store_is_there_afterwards_with_its_labels(release: str) -> None:
    async with world(release) as w:
        task = await w.running()
        container = await w.client.container("c1")
        raw = (await container.info()).raw.spec
        assert raw is not None
        content = ContentStore(w.client.services)
        digest = await content.write("spec", encode(raw), labels={"containerd.io/gc.root": "x"})
        with pytest.raises(Unknown, match="criu"):
            await task.checkpoint()
        assert (await content.info(digest)).labels == {"containerd.io/gc.root": "x"}
        # 1.x could not write it again.
        put_aside = any(call.method.endswith("Content/Delete") for call in w.fake.calls)
        assert put_aside == (release == "1.7")


async def test_a_pause_that_fails_is_the_end_of_it() -> None:
    async with world() as w:
        task = await w.running()
        with w.fake.fail("Tasks/Pause", "UNAVAILABLE", "no"), pytest.raises(Unavailable):
            await task.checkpoint()
        assert await task.status() == "running"
        assert await nothing_left(w)


@pytest.mark.parametrize("method", ["Tasks/Pause", "Tasks/Checkpoint"])
async def test_one_that_is_given_up_half_way_resumes_the_task(method: str) -> None:
    async with world() as w:
        task = await w.running()
        with w.fake.hold(method) as held:
            async with anyio.create_task_group() as group:

                async def checkpoint() -> None:
                    with suppress(Unknown):
                        await task.checkpoint()

                group.start_soon(checkpoint)
                await held.reached()
                group.cancel_scope.cancel()
                held.release()
        assert await task.status() == "running"
        assert await nothing_left(w)


async def test_a_resume_that_fails_does_not_hide_what_came_before() -> None:
    async with world() as w:
        task = await w.running()
        with w.fake.fail("Tasks/Resume", "UNAVAILABLE", "no"), pytest.raises(Unknown, match="criu"):
            await task.checkpoint()
        assert await task.status() == "paused"


async def test_a_container_without_a_task_has_nothing_to_dump() -> None:
    async with world() as w:
        await w.created()
        container = await w.client.container("c1")
        await (await container.task()).delete(kill=True)
        parts = Parts(image=False, rw=False)
        with pytest.raises(NotFound):
            await checkpoint_container(container._scope, await container.info(), "x", parts, None)
        assert await nothing_left(w)


async def test_containers_are_listed_in_one_reply_where_they_cannot_be_streamed() -> None:
    async with world() as w:
        await w.created("one")
        await w.created("two")
        with w.fake.fail("Containers/ListStream", "UNIMPLEMENTED", times=None):
            assert [c.id for c in await w.client.containers()] == ["one", "two"]
            assert [c.id for c in await w.client.containers("id==two")] == ["two"]
