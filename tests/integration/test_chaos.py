"""Forty containers with random lives, while containerd is killed, frozen and restarted: every exit is accounted for.

Each container writes what it is about to exit with to a file of the host: its own truth, against which `wait()` is held.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import anyio

from containerd_aio import Client, ContainerdError, Daemon, ExitStatus, InvalidArgument, oci

IMAGE = "docker.io/library/busybox:latest"
LIVES = 40
SECONDS = 6.0
TORMENTS = 12


class Chaos:
    """Runs the lives and torments the daemon until the last one has ended."""

    def __init__(self, daemon: Daemon, client: Client, truth: Path, rng: random.Random) -> None:
        self.daemon, self.client, self.truth, self.rng = daemon, client, truth, rng
        self.statuses: dict[str, ExitStatus] = {}
        self.events: list[str] = []
        self.left = LIVES
        self.done = anyio.Event()

    async def live(self, n: int) -> None:
        """One container, from a create that is tried until it succeeds to the answer of `wait()`."""
        rng = random.Random(self.rng.random())
        code, seconds = rng.choice([0, 1, 7, 42]), rng.uniform(0.2, SECONDS)
        command = f"sleep {seconds:.2f}; echo {code} > /truth/$HOSTNAME; exit {code}"
        for attempt in itertools.count():
            name = f"life-{n}-{attempt}"
            try:
                container = await self.client.new_container(
                    name,
                    image=IMAGE,
                    args=["sh", "-c", command.replace("$HOSTNAME", name)],
                    spec_opts=[
                        oci.with_mounts(
                            [
                                {
                                    "destination": "/truth",
                                    "type": "bind",
                                    "source": str(self.truth),
                                    "options": ["rbind", "rw"],
                                }
                            ]
                        )
                    ],
                )
                task = await container.new_task()
                await task.start()
            except InvalidArgument:
                raise
            except ContainerdError:
                # The daemon was away: another name, another try.
                with anyio.move_on_after(0.1):
                    await self.done.wait()
                continue
            self.statuses[name] = await task.wait()
            break
        self.left -= 1
        if not self.left:
            self.done.set()

    async def torment(self) -> None:
        """Kill, freeze, restart, at random; then let the rest end in peace."""
        for _ in range(TORMENTS):
            if self.done.is_set():
                return
            with anyio.move_on_after(self.rng.uniform(0.3, 1.5)):
                await self.done.wait()
            match self.rng.choice(["kill", "freeze", "restart", "kill one"]):
                case "kill":
                    await self.daemon.kill(signal.SIGKILL)
                    await self.daemon.restart()
                case "restart":
                    await self.daemon.restart()
                case "freeze":
                    await self.daemon.kill(signal.SIGSTOP)
                    with anyio.move_on_after(0.3):
                        await self.done.wait()
                    await self.daemon.kill(signal.SIGCONT)
                case "kill one":
                    await self._kill_one()

    async def _kill_one(self) -> None:
        """SIGKILL a process behind containerd's back; its truth is that it was killed."""
        for bundle in self.bundles.iterdir() if self.bundles.is_dir() else ():
            pid_file, truth = bundle / "init.pid", self.truth / bundle.name
            if bundle.name not in self.statuses and pid_file.exists() and not truth.exists():
                truth.write_text("137\n")
                try:
                    os.kill(int(pid_file.read_text()), signal.SIGKILL)
                except (OSError, ValueError):
                    truth.unlink()
                return

    @property
    def bundles(self) -> Path:
        """Where the daemon keeps the bundles of the running tasks."""
        return Path(self.daemon.state, "io.containerd.runtime.v2.task", self.client.namespace)


async def test_every_exit_is_accounted_for(
    private_daemon: Callable[..., Daemon], busybox_archive: Path, containerd_version: str, tmp_path: Path
) -> None:
    seed = int(os.environ.get("CONTAINERD_AIO_CHAOS_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}: repeat with CONTAINERD_AIO_CHAOS_SEED={seed}")
    truth = tmp_path / "truth"
    truth.mkdir()
    async with private_daemon(log_level="fatal") as daemon:
        async with Client(daemon.address, namespace=Path(daemon.root).name, heartbeat=2, timeout=5) as client:
            await client.import_archive(busybox_archive, unpack=True)
            chaos = Chaos(daemon, client, truth, random.Random(seed))
            with anyio.fail_after(110):
                async with anyio.create_task_group() as group:
                    group.start_soon(chaos.torment)
                    for n in range(LIVES):
                        group.start_soon(chaos.live, n)
            statistics = client.statistics()
    really = {path.name: int(path.read_text()) for path in truth.iterdir()}
    unknown = [name for name, status in chaos.statuses.items() if status.unknown]
    wrong = {
        n: (s.code, really.get(n))
        for n, s in chaos.statuses.items()
        if not s.unknown and s.code != really.get(n)
    }
    print(
        f"{len(chaos.statuses)} exits, {statistics.sessions} sessions, {len(unknown)} whose code containerd {containerd_version} lost"
    )
    assert len(chaos.statuses) == LIVES
    assert wrong == {}
    assert {chaos.statuses[name].code for name in unknown} <= {255}
