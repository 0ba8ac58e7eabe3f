"""Fifty containers with random lives while containerd and the way to it are tormented; every exit must be told truly.

    python tests/integration/chaos.py --rounds 20                      each release, a minute a round
    python tests/integration/chaos.py --release 1.6 --seconds 10 --seed 7

Each process writes what it is about to exit with to a file of the host: its own truth, against which `wait()`, the
reply to the deletion and the state changes are held. Who kills a process behind containerd's back writes its truth for it.
A code may be unknown only if containerd was away when the process ended: then nobody knows it but the process. The same
goes for a process that ended while the way to containerd was broken, and whose shim was killed or whose task containerd
forgot before it could be asked.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from containerd_aio import (
    Client,
    ContainerdError,
    Daemon,
    ExitStatus,
    InvalidArgument,
    StateChange,
    Task,
    oci,
)
from containerd_aio.oci.types import Mount
from containerd_aio.testing import FaultProxy
from containerd_aio.testing.images import busybox_image

IMAGE = "docker.io/library/busybox:latest"
LIVES = 50
#: A shim has lost its daemon some time before and after: what it tells meanwhile may be lost in containerd.
SLACK = 3.0
#: Seconds that may pass until the last exit is told, with the daemon up and the way to it free.
PATIENCE = 60.0
DAEMON_TORMENTS = ("kill", "freeze", "restart")
PROXY_TORMENTS = ("cut", "cut one", "freeze proxy", "half-close", "half-close back", "refuse", "throttle")
PROCESS_TORMENTS = ("kill a process", "kill a shim")


@dataclass
class Report:
    """What came of a round.

    Attributes:
        seed: What repeats its torments.
        torments: How often what was done.
        exits: Answers of `wait()`, those of execs included.
        unknown: How many of them say that the code is lost.
        doubtful: Containers whose start failed for us, and which ran all the same.
        sessions: How often the event stream was opened.
        wrong: What is not as it should be, in words.
    """

    seed: int
    torments: Counter[str] = field(default_factory=Counter)
    exits: int = 0
    unknown: int = 0
    doubtful: int = 0
    sessions: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        done = ", ".join(f"{count} x {name}" for name, count in sorted(self.torments.items()))
        verdict = "all true" if not self.wrong else f"{len(self.wrong)} WRONG: " + "; ".join(self.wrong[:5])
        return (
            f"seed {self.seed}: {self.exits} exits, {self.unknown} lost by containerd, {self.doubtful} of failed starts, "
            f"{self.sessions} sessions ({done}): {verdict}"
        )


class Chaos:
    """One round: lives that go on until the time is up, and what is done to them meanwhile."""

    def __init__(
        self, daemon: Daemon, proxy: FaultProxy, client: Client, truth: Path, *, seconds: float, seed: int
    ) -> None:
        self.daemon, self.proxy, self.client, self.truth = daemon, proxy, client, truth
        self.seconds = seconds
        self.rng = random.Random(seed)
        self.report = Report(seed)
        self.statuses: dict[str, ExitStatus] = {}
        self.doubtful: dict[str, Task] = {}
        self.told: dict[str, list[StateChange]] = {}
        #: When the daemon was away: from, until.
        self.absences: list[tuple[float, float]] = []
        #: The same for the way to it.
        self.breaks: list[tuple[float, float]] = []
        #: Whose shims were killed: their exits are told once, and remembered by nobody.
        self.shimless: set[str] = set()
        #: What each worker's container is called while it runs; empty between two.
        self.alive: dict[int, str] = {}
        self.longest = max(2.0, seconds / 6)
        self.over, self.fewer = anyio.Event(), anyio.Event()

    async def run(self) -> Report:
        """Let everybody live until the time is up, then let the last ones end in peace, and compare."""
        async with self.client.state_changes(self.tell) as changes:
            async with anyio.create_task_group() as lives:
                for n in range(LIVES):
                    lives.start_soon(self.live, n, self.rng.random())
                async with anyio.create_task_group() as torments:
                    torments.start_soon(self.torment_daemon, random.Random(self.rng.random()))
                    torments.start_soon(self.torment_proxy, random.Random(self.rng.random()))
                    await self.pause(self.seconds)
                    self.over.set()
                with anyio.move_on_after(PATIENCE):
                    while self.alive:
                        await self.fewer.wait()
                self.report.wrong += [f"{name or 'a creation'}: never told" for name in self.alive.values()]
                lives.cancel_scope.cancel()
            await self.client.wait_ready(timeout=PATIENCE)
            await self.ask_for_the_doubtful()
            await self.client.barrier()
            with anyio.move_on_after(PATIENCE):
                await changes.drain()
        self.report.sessions = self.client.statistics().sessions
        self.compare()
        return self.report

    async def ask_for_the_doubtful(self) -> None:
        """Wait for those whose start failed for us, perhaps only because its reply was lost."""

        async def ask(name: str, task: Task) -> None:
            with anyio.move_on_after(self.longest + 5):
                self.statuses[name] = await task.wait()

        async with anyio.create_task_group() as group:
            for name, task in self.doubtful.items():
                group.start_soon(ask, name, task)
        ran = [name for name in self.doubtful if (self.truth / name).exists()]
        self.report.doubtful = len(ran)
        self.report.wrong += [f"{name}: ran and was never told" for name in ran if name not in self.statuses]

    def compare(self) -> None:
        """Hold what was told against the truth."""
        for name, status in self.statuses.items():
            self.report.exits += 1
            self.report.unknown += status.unknown
            path = self.truth / name
            truth = int(path.read_text()) if path.exists() else None
            away = self.absences + (self.breaks if self.told_once(name.removesuffix(".exec")) else [])
            at = path.stat().st_mtime if truth is not None else 0
            lost = any(since - SLACK <= at <= until + SLACK for since, until in away)
            if wrong := judge(status, truth, lost, broken_off=name in self.doubtful):
                self.report.wrong.append(f"{name}: {wrong} (truth: {truth}, told: {status!r})")
            told = [c.exit_status for c in self.told.get(name, ()) if c.state == "exit"]
            if not name.endswith(".exec") and name not in self.doubtful and told != [status]:
                self.report.wrong.append(f"{name}: told {status}, by state changes {told}")

    def told_once(self, container: str) -> bool:
        """Tell whether nobody could be asked any more how a container and its exec ended."""
        status = self.statuses.get(container)
        return container in self.shimless or (status is not None and status.unknown)

    async def tell(self, change: StateChange) -> None:
        """Note a state change."""
        self.told.setdefault(change.container_id, []).append(change)

    # -- lives ----------------------------------------------------------------------------------------------------

    async def live(self, n: int, seed: float) -> None:
        """One container after the other, at least one, each under a name of its own."""
        rng = random.Random(seed)
        self.alive[n] = ""
        lived = False
        for attempt in itertools.count():
            if lived and self.over.is_set():
                break
            try:
                await self.one_life(f"life-{n}-{attempt}", n, rng)
                lived = True
            except InvalidArgument:
                raise
            except ContainerdError:
                lived |= f"life-{n}-{attempt}" in self.statuses
                with anyio.move_on_after(
                    rng.uniform(0.05, 0.3)
                ):  # the daemon is away: another name, another try
                    await self.fewer.wait()
        del self.alive[n]
        self.fewer.set()
        self.fewer = anyio.Event()

    async def one_life(self, name: str, n: int, rng: random.Random) -> None:
        """Create, start, perhaps exec, wait, delete."""
        code = rng.choice([0, 1, 7, 42, 137, 255])
        seconds = rng.choice([0.0, rng.uniform(0.1, 1), rng.uniform(1, self.longest)])
        mount: Mount = {
            "destination": "/truth",
            "type": "bind",
            "source": str(self.truth),
            "options": ["rbind", "rw"],
        }
        container = await self.client.new_container(
            name,
            image=IMAGE,
            args=["sh", "-c", f"sleep {seconds:.2f}; echo {code} > /truth/{name}; exit {code}"],
            spec_opts=[oci.with_mounts([mount])],
        )
        task = await container.new_task()
        try:
            await task.start()
        except ContainerdError:
            self.doubtful[name] = task
            raise
        self.alive[n] = name
        async with anyio.create_task_group() as group:
            if seconds > 1 and rng.random() < 0.3:
                group.start_soon(self.exec_in, task, name, seconds / 2)
            self.statuses[name] = await task.wait()
        self.alive[n] = ""
        deleted = await task.delete()
        if deleted.code != self.statuses[name].code:
            self.report.wrong.append(
                f"{name}: deleted with {deleted.code}, waited {self.statuses[name].code}"
            )
        await container.delete()

    async def exec_in(self, task: Task, name: str, seconds: float) -> None:
        """Run a second process, which ends before the first."""
        command = f"sleep {seconds:.2f}; echo 9 > /truth/{name}.exec; exit 9"
        with suppress(ContainerdError):
            process = await task.exec("exec", ["sh", "-c", command])
            await process.start()
            self.statuses[f"{name}.exec"] = await process.wait()

    @property
    def bundles(self) -> Path:
        """Where the daemon keeps the bundles of its tasks."""
        return Path(self.daemon.state, "io.containerd.runtime.v2.task", self.client.namespace)

    async def pause(self, seconds: float) -> None:
        """Let time pass, but not after the end of the round."""
        with anyio.move_on_after(seconds):
            await self.over.wait()

    # -- torments -------------------------------------------------------------------------------------------------

    async def torment_daemon(self, rng: random.Random) -> None:
        """Kill, freeze and restart the daemon, and kill processes and shims behind its back."""
        while not self.over.is_set():
            await self.pause(rng.uniform(0.5, 4))
            torment = rng.choice([*DAEMON_TORMENTS, *PROCESS_TORMENTS])
            self.report.torments[torment] += 1
            since = time.time()
            match torment:
                case "kill":
                    await self.daemon.kill(signal.SIGKILL)
                    await self.pause(rng.choice([0, rng.uniform(0.1, 2)]))
                    await self.daemon.restart()
                    self.absences.append((since, time.time()))
                case "restart":
                    await self.daemon.restart()
                    self.absences.append((since, time.time()))
                case "freeze":
                    await self.daemon.kill(signal.SIGSTOP)
                    await self.pause(rng.uniform(0.2, 3))
                    await self.daemon.kill(signal.SIGCONT)
                case _:
                    self.kill_one(rng, shim=torment == "kill a shim")

    def kill_one(self, rng: random.Random, *, shim: bool) -> None:
        """Kill a process or its shim; it is stopped before, so that it can't tell another truth meanwhile."""
        running = sorted(name for name in self.alive.values() if name)
        for name in rng.sample(running, min(3, len(running))):
            with suppress(OSError, ValueError):
                pid = int((self.bundles / name / "init.pid").read_text())
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                os.kill(pid, signal.SIGSTOP)
                if (self.truth / name).exists():
                    os.kill(pid, signal.SIGCONT)
                    continue
                (self.truth / name).write_text("137\n")
                if shim:
                    self.shimless.add(name)
                os.kill(parent if shim else pid, signal.SIGKILL)
                return

    async def torment_proxy(self, rng: random.Random) -> None:
        """Break the way to the daemon in all the ways there are."""
        while not self.over.is_set():
            await self.pause(rng.uniform(0.3, 3))
            torment = rng.choice(PROXY_TORMENTS)
            self.report.torments[torment] += 1
            since = time.time()
            match torment:
                case "cut":
                    await self.proxy.cut()
                case "cut one" if self.proxy.connections:
                    await rng.choice(self.proxy.connections).cut()
                case "freeze proxy":
                    self.proxy.freeze()
                    await self.pause(rng.uniform(0.1, 4))
                case "half-close" | "half-close back":
                    await self.proxy.half_close(server=torment == "half-close")
                case "refuse":
                    self.proxy.refuse()
                    await self.proxy.cut()
                    await self.pause(rng.uniform(0.1, 2))
                case "throttle":
                    self.proxy.throttle(64 << 10)
                    await self.pause(rng.uniform(0.1, 2))
            self.calm()
            self.breaks.append((since, time.time()))

    def calm(self) -> None:
        """End what may last."""
        self.proxy.thaw()
        self.proxy.refuse(False)
        self.proxy.throttle(None)


def judge(status: ExitStatus, truth: int | None, away: bool, *, broken_off: bool) -> str:
    """Return what is wrong with an answer, if anything.

    Args:
        status: The answer.
        truth: What the process wrote; None if it never came to that.
        away: Whether containerd was away when it ended.
        broken_off: Whether its start failed for us.
    """
    if truth is None:
        # Killed with its container, by a containerd that found it half made, or never run: runc's init exits with 1 if
        # "runc start" dies with the call that was broken off (test_a_start_that_dies_ends_the_init_with_1).
        nobodys = {137, 1} if broken_off else {137}
        return "" if status.unknown or status.code in nobodys else "a code that nobody wrote"
    if not status.unknown:
        return "" if status.code == truth else "another code"
    if not away:
        return "unknown, and containerd was there"
    return "" if status.code == 255 else "unknown, but not 255"


async def play(binary: str, folder: Path, *, seconds: float, seed: int, run: str) -> Report:
    """Play one round on a daemon of its own."""
    archive, truth = busybox_image(folder / "busybox.tar", name=IMAGE), folder / "truth"
    truth.mkdir()
    name = f"{run}-chaos-{seed:x}"
    options: dict[str, Any] = {"binary": binary, "log_level": "fatal"}
    async with Daemon(f"/var/lib/{name}", f"/run/{name}", **options) as daemon:
        async with Client(daemon.address, namespace=name) as direct:
            await direct.import_archive(archive, unpack=True)
        async with FaultProxy(daemon.address) as proxy:
            # runc keeps its state by namespace and id, whatever the daemon: a name of our own keeps rounds apart.
            async with Client(proxy.address, namespace=name, heartbeat=2, timeout=5) as client:
                return await Chaos(daemon, proxy, client, truth, seconds=seconds, seed=seed).run()


def containerds() -> dict[str, str]:
    """Return the containerd of each release of the test bed."""
    path = Path(__file__).resolve().parents[2] / "scripts" / "testbed.py"
    spec = importlib.util.spec_from_file_location("testbed", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["testbed"] = testbed = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(testbed)
    return {release: found["containerd"] for release, found in testbed.listing().items()}


def main() -> int:
    """Play the rounds, print each and a summary; fail if anything was wrong."""
    found = containerds()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1, help="of each release (default: 1)")
    parser.add_argument("--seconds", type=float, default=60, help="of torment in a round (default: 60)")
    parser.add_argument("--release", action="append", choices=sorted(found), help="default: every one")
    parser.add_argument("--seed", type=int, help="of the first round; the next ones count on")
    given = parser.parse_args()
    logging.getLogger("containerd_aio").setLevel(logging.CRITICAL)  # it would tell of each break
    # anyio tells of a socket of the proxy that became readable in the moment when it was cut.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    first = random.SystemRandom().randrange(1 << 31) if given.seed is None else given.seed
    summary = []
    for release in given.release or sorted(found):
        reports: list[Report] = []
        for seed in range(first, first + given.rounds):
            with tempfile.TemporaryDirectory(prefix="containerd-aio-chaos-") as folder:
                report = anyio.run(_play, found[release], Path(folder), given.seconds, seed)
            print(f"containerd {release}, round {len(reports) + 1}: {report}", flush=True)
            reports.append(report)
        wrong = sum(bool(report.wrong) for report in reports)
        exits, unknown = sum(r.exits for r in reports), sum(r.unknown for r in reports)
        summary.append((release, len(reports), wrong, exits, unknown))
    for release, rounds, wrong, exits, unknown in summary:
        print(
            f"containerd {release}: {rounds - wrong} of {rounds} rounds passed; {exits} exits, {unknown} lost by containerd"
        )
    return int(any(wrong for _, _, wrong, _, _ in summary))


async def _play(binary: str, folder: Path, seconds: float, seed: int) -> Report:
    return await play(binary, folder, seconds=seconds, seed=seed, run=f"caio-{os.getpid():x}")


if __name__ == "__main__":
    sys.exit(main())
