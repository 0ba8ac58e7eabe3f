"""The daemon's restart monitor, told what to do by our labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio import (
    Client,
    Container,
    NotFound,
    RestartPolicy,
    RestartState,
    Subscription,
    Task,
    TaskStart,
    Unavailable,
    oci,
    restart,
)

if TYPE_CHECKING:
    from containerd_aio import Daemon

# As the plugin is called in 1.x, and in 2.x.
_MONITORS = ("io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart")


async def task_of(container: Container) -> Task:
    """Return the task of a container, which the monitor may be about to replace."""
    with anyio.fail_after(30):
        while True:
            with suppress(NotFound, Unavailable):
                return await container.task()
            await anyio.sleep(0.02)


class World:
    """A daemon whose monitor looks often, and containers in its care."""

    def __init__(self, client: Client, rootfs: str, events: Subscription) -> None:
        self.client = client
        self.rootfs = rootfs
        self.events = events

    async def run(self, name: str, script: str, labels: dict[str, str]) -> Container:
        """Run a shell script in a container, and put that into the care of the monitor once it runs."""
        opts = [oci.with_rootfs_path(self.rootfs), oci.with_process_args("/bin/busybox", "sh", "-c", script)]
        container = await self.client.new_container(name, spec_opts=opts)
        await (await container.new_task()).start()
        await container.set_labels(labels)
        return container

    async def started_again(self, name: str) -> None:
        """Wait for the next start of a container."""
        with anyio.fail_after(30):
            async for event in self.events:
                if isinstance(event, TaskStart) and event.container_id == name:
                    return

    async def looks_pass(self) -> None:
        """Wait until the monitor has looked three times: a container that it is to keep running says so."""
        clock = await self.client.container("clock")
        for _ in range(3):
            await (await task_of(clock)).kill("KILL")
            await self.started_again("clock")


@pytest.mark.shows("go:TestRestartMonitor")
async def test_the_monitor_does_what_the_labels_say(
    private_daemon: Callable[..., Daemon], containerd_version: str, rootfs: str, tmp_path: Path
) -> None:
    config: dict[str, Any] = {"plugins": {monitor: {"interval": "200ms"} for monitor in _MONITORS}}
    log = tmp_path / "log"
    async with private_daemon(config=config) as daemon, Client(daemon.address) as client:
        async with client.events('topic=="/tasks/start"') as events:
            world = World(client, rootfs, events)
            always = restart.labels("running", policy="always", log_uri=f"file://{log}")
            clock = await world.run("clock", "echo here; sleep 1000", always)
            await world.started_again("clock")  # our own start
            paused = await world.run("paused", "sleep 1000", restart.labels("running"))
            await (await task_of(paused)).pause()
            left_alone = await world.run("left-alone", "exit 1", {})
            limited = stopped = None
            if containerd_version != "1.6":  # which knows no policies
                policy = RestartPolicy.on_failure(2)
                limited = await world.run("limited", "exit 3", restart.labels("running", policy=policy))
                well = await world.run("well", "exit 0", restart.labels("running", policy="on-failure"))
                stopped = await world.run(
                    "stopped", "sleep 1000", restart.labels("running", policy="unless-stopped")
                )
                await stopped.set_labels(restart.explicitly_stopped())
                await (await task_of(stopped)).kill("KILL")

            await world.looks_pass()
            assert "here\n" in log.read_text()
            # 1.x takes one that is paused for one that does not run.
            expected = "paused" if containerd_version == "2.1" else "running"
            assert await (await task_of(paused)).status() == expected
            assert await (await task_of(left_alone)).status() == "stopped"
            if limited is not None and stopped is not None:
                await _settles(limited, count=2)
                await world.looks_pass()
                assert RestartState.from_labels((await limited.info()).labels).count == 2
                assert await (await task_of(limited)).status() == "stopped"
                assert await (await task_of(well)).status() == "stopped"
                assert await (await task_of(stopped)).status() == "stopped"
                state = RestartState.from_labels((await stopped.info()).labels)
                assert (state.desired, state.explicitly_stopped, state.count) == ("running", True, 0)
                status = await (await task_of(stopped)).wait()
                assert not state.restarts(status)

            # To be stopped is a wish, too; and what is out of its care stays as it is.
            await paused.set_labels(restart.no_restarts())
            if expected == "paused":
                await (await task_of(paused)).resume()
            await (await task_of(paused)).kill("KILL")
            await (await task_of(paused)).wait(timeout=20)
            await world.looks_pass()
            assert await (await task_of(paused)).status() == "stopped"
            assert not [name for name in (await paused.info()).labels if "restart" in name]
            await clock.set_labels(restart.labels("stopped"))
            await (await task_of(clock)).wait(timeout=20)
            for container in await client.containers():
                await container.set_labels(restart.no_restarts())
                async with container:
                    pass


async def _settles(container: Container, *, count: int) -> None:
    """Wait until the monitor has counted so many restarts."""
    with anyio.fail_after(30):
        while RestartState.from_labels((await container.info()).labels).count < count:  # noqa: ASYNC110
            await anyio.sleep(0.05)
