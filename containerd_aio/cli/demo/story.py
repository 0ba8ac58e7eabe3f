"""The story of the demo: in which order things happen."""

from __future__ import annotations

import secrets
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from containerd_aio.cli.demo import fates
from containerd_aio.cli.demo.fates import Row, Stage
from containerd_aio.cli.demo.requirements import check_snapshotter
from containerd_aio.cli.demo.truth import Notes, ended
from containerd_aio.client import Client
from containerd_aio.daemon import Daemon
from containerd_aio.services.introspection import SNAPSHOTTER_PLUGIN, Introspection
from containerd_aio.testing.images import busybox_image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    from containerd_aio.cli.demo.display import Display
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.image import Image
    from containerd_aio.task import Task

_IMAGE = "docker.io/library/busybox:latest"
_ORDER = ("ok", "fails", "killed", "hungry", "frozen", "host/second", "host", "survivor", "orphan")


async def tell(binary: str, display: Display) -> int:
    """Run the demo.

    Args:
        binary: The containerd to start.
        display: Where to print.

    Returns:
        0 if every wait told the truth, else 1.
    """
    with tempfile.TemporaryDirectory(prefix="containerd-aio-demo-") as folder:
        archive = busybox_image(Path(folder, "busybox.tar"), _IMAGE)
        daemon = Daemon(binary=binary)
        try:
            async with daemon:
                display.title(daemon.version, daemon.pid, daemon.address)
                rows = await _play(daemon, archive, Notes.make(folder), display)
        finally:
            if daemon.version:
                display.say("the private containerd and all its containers are gone")
    rows.sort(key=lambda row: _ORDER.index(row.process))
    display.table(rows, daemon.version)
    return 0 if all(row.good for row in rows) else 1


async def _play(daemon: Daemon, archive: Path, notes: Notes, display: Display) -> list[Row]:
    # A name of its own: runc and cgroups know containers by namespace and id, whichever containerd they belong to.
    namespace = f"demo-{secrets.token_hex(3)}"
    try:
        async with Client(daemon.address, namespace=namespace) as client:
            check_snapshotter(await Introspection(client.services).plugins(f"type=={SNAPSHOTTER_PLUGIN}"))
            [image] = await client.import_archive(archive, unpack=True)
            display.act(f"import {image.name} into namespace {namespace}: an OCI image, built here in Python")
            return await _watched(daemon, client, image, notes, display)
    except anyio.get_cancelled_exc_class():
        display.say("interrupted: clearing up")
        raise


async def _watched(daemon: Daemon, client: Client, image: Image, notes: Notes, display: Display) -> list[Row]:
    """Play everything while events are printed."""
    async with client.events('topic~="^/tasks/"') as events, anyio.create_task_group() as group:

        async def watch() -> None:
            async for event in events:
                display.event(event)

        group.start_soon(watch)
        rows = await _act(daemon, Stage(client, image, notes, display))
        await client.barrier()
        while events.pending:
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()
    return rows


async def _act(daemon: Daemon, stage: Stage) -> list[Row]:
    rows: list[Row] = []

    async def play(fate: Awaitable[list[Row]]) -> None:
        rows.extend(await fate)

    display = stage.display
    async with (
        _waiting(stage, "survivor", "restarted", 3) as survivor,
        _waiting(stage, "orphan", "daemon-down", 5) as orphan,
    ):
        async with anyio.create_task_group() as side_by_side:
            for fate in (
                fates.exits(stage, "ok", 0),
                fates.exits(stage, "fails", 7),
                fates.killed(stage, "killed"),
                fates.out_of_memory(stage, "hungry"),
                fates.paused(stage, "frozen"),
                fates.exec_into(stage, "host"),
            ):
                side_by_side.start_soon(play, fate)
        display.act(f"kill -9 {daemon.pid}: containerd is dead, survivor and orphan run on")
        await daemon.kill()
        stage.notes.write("daemon-down")
        await ended(orphan.pid)
        display.act("orphan has exited, with no containerd there to see it")
        await daemon.start()
        display.act(f"containerd is back (pid {daemon.pid})")
        orphan_status = await orphan.status()
        stage.notes.write("restarted")
        survivor_status = await survivor.status()
    return [
        *rows,
        fates.after_restart(stage, "survivor", "exit 3 after the restart", survivor_status),
        fates.after_restart(stage, "orphan", "exit 5 during the outage", orphan_status),
    ]


class _Waiter:
    """A `wait` that began before the crash and is still the same one after it.

    Attributes:
        pid: Host pid of the process.
    """

    def __init__(self, task: Task) -> None:
        assert task.pid is not None
        self.pid = task.pid
        self._task = task
        self._status: ExitStatus | None = None
        self._done = anyio.Event()

    async def run(self) -> None:
        self._status = await self._task.wait()
        self._done.set()

    async def status(self) -> ExitStatus:
        """Return what the wait returned, once it has."""
        await self._done.wait()
        assert self._status is not None
        return self._status


@asynccontextmanager
async def _waiting(stage: Stage, name: str, note: str, code: int) -> AsyncIterator[_Waiter]:
    async with fates.waits_for(stage, name, note, code) as task, anyio.create_task_group() as group:
        waiter = _Waiter(task)
        group.start_soon(waiter.run)
        yield waiter
        group.cancel_scope.cancel()
