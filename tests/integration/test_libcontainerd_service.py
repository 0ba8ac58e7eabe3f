"""The example ``container_service.py``, killed again and again, and its containerd too: it tells what the processes did."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from containerd_aio.daemon import Daemon
from tests.conftest import REPOSITORY, RUN
from tests.integration.daemon_view import assert_nothing_left
from tests.unit.libcontainerd_support import make_rootfs, seen

if TYPE_CHECKING:
    from anyio.abc import Process

# Seconds after which something hangs, and is not just slow: on a machine with other work a start alone takes twenty.
LIMIT = 90
#: What each container does: it writes down its starts and ends, as far as it gets to it.
SCRIPTS = {
    "steady": ("always", "echo start >>/log/steady; sleep 1000"),
    "worker": ("always", "echo start >>/log/worker; sleep 0.3; echo exit 3 >>/log/worker; exit 3"),
    "retry": ("on-failure:3", "echo start >>/log/retry; sleep 0.1; echo exit 1 >>/log/retry; exit 1"),
    "once": (
        "no",
        "echo start >>/log/once; until test -e /log/go; do sleep 0.05; done; echo exit 7 >>/log/once; exit 7",
    ),
}


class Service:
    """The example, as a process that is started and killed.

    Attributes:
        folder: Its folder.
        namespace: Its namespace.
        log: Where the containers write.
    """

    def __init__(self, folder: Path, rootfs: str, binary: str) -> None:
        self.folder = folder
        self.log = Path(rootfs, "log")
        self.log.mkdir()
        config = {
            name: {"args": ["sh", "-c", script], "rootfs": rootfs, "restart": policy}
            for name, (policy, script) in SCRIPTS.items()
        }
        (folder / "containers.json").write_text(json.dumps(config))
        script = str(REPOSITORY / "examples" / "container_service.py")
        self.namespace = f"{RUN}-{secrets.token_hex(2)}"
        places = [str(folder), str(folder / "containers.json")]
        self._argv = [sys.executable, script, *places, "--containerd", binary, "--namespace", self.namespace]
        self.daemon = Daemon(folder / "libcontainerd" / "containerd", binary=binary)
        self.process: Process

    async def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self.process = await anyio.open_process(self._argv, env=environment, stderr=None)
        assert self.process.stdout is not None
        text = ""
        with anyio.fail_after(LIMIT):
            async for part in TextReceiveStream(self.process.stdout):
                text += part
                if "ready\n" in text:
                    return
        raise AssertionError(f"it ended: {text}")

    async def kill(self, signum: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(signum)
        with anyio.fail_after(LIMIT):
            code = await self.process.wait()
        await self.process.aclose()
        return code

    def kill_containerd(self) -> None:
        os.kill(int(Path(self.daemon.state, "containerd.pid").read_text()), signal.SIGKILL)

    def told(self, name: str) -> list[str]:
        """What the journal says of a container."""
        if not (self.folder / "journal.jsonl").exists():
            return []
        entries: list[dict[str, Any]] = [
            json.loads(line) for line in (self.folder / "journal.jsonl").read_text().splitlines()
        ]
        return [
            entry["state"] + (f" {entry['code']}" if entry["state"] == "exit" else "")
            for entry in entries
            if entry["container"] == name
        ]

    def did(self, name: str) -> list[str]:
        """What a container wrote down."""
        path = self.log / name
        return path.read_text().splitlines() if path.exists() else []

    def note(self, name: str) -> str:
        """How things stand with a container, by the service's own note."""
        path = self.folder / "containers" / name
        return path.read_text() if path.exists() else ""

    async def in_the_middle(self) -> None:
        """Wait until those that are restarted run, or wait: it is not known what happens to one that is being made."""

        def known(name: str) -> bool:
            told = self.told(name)[-1:]
            return told == ["start-container"] or self.note(name).startswith(("waiting", "done"))

        await seen(lambda: known("worker") and known("retry"), LIMIT)

    async def until(self, name: str, entry: str, count: int = 1) -> None:
        await seen(lambda: self.told(name).count(entry) >= count, LIMIT)


@asynccontextmanager
async def _service(tmp: Path, binary: str) -> AsyncIterator[Service]:
    folder = Path(f"/var/lib/{RUN}-{secrets.token_hex(3)}")
    folder.mkdir()
    service = Service(folder, make_rootfs(tmp / "rootfs"), binary)
    try:
        yield service
    finally:
        with anyio.CancelScope(shield=True):
            if service.process.returncode is None:
                await service.kill()
            async with service.daemon:  # adopts what is left, and clears it away
                pass
            shutil.rmtree(folder)
            shutil.rmtree(service.daemon.state, ignore_errors=True)
    assert_nothing_left(service.daemon)


def lives(told: list[str]) -> list[tuple[bool, str]]:
    """Divide what was told into lives: whether the begin was told, and the exit, empty for one that goes on.

    Told again, as it must be when a kill comes between an exit and the memory of its having been told, it is one exit.
    """
    found: list[tuple[bool, str]] = []
    begun = False
    for entry in told:
        if entry == "start-container":
            assert not begun, told
            begun = True
        elif entry == "restore":
            begun = True
        elif begun or not (found and entry in {found[-1][1], "exit 255"}):
            found.append((begun, entry))
            begun = False
    return [*found, (True, "")] if begun else found


def _runs(did: list[str]) -> list[str]:
    """Divide what a container wrote down: the exit of each run, empty if it did not come to it."""
    found: list[str] = []
    for entry in did:
        if entry == "start":
            found.append("")
        else:
            assert found[-1] == ""
            found[-1] = entry
    return found


@pytest.mark.timeout(600)
async def test_E37_E39_a_service_that_is_killed_again_and_again_tells_what_the_processes_did(
    tmp_path: Path, containerd_binary: str, containerd_version: str
) -> None:
    async with _service(tmp_path, containerd_binary) as service:
        await service.start()
        await service.until("worker", "exit 3", 2)
        await service.until("retry", "exit 1")
        assert service.told("steady") == ["start-container"]

        # The service alone, while a container ends and others are restarted.
        await service.in_the_middle()
        await service.kill()
        (service.log / "go").touch()
        await seen(lambda: "exit 7" in service.did("once"), LIMIT)
        await service.start()
        assert service.told("once") == ["start-container", "exit 7"]
        assert service.told("steady") == ["start-container", "restore"]

        # containerd alone.
        await service.in_the_middle()
        count = service.told("worker").count("start-container")
        service.kill_containerd()
        await service.until("worker", "start-container", count + 1)
        assert service.told("steady") == ["start-container", "restore"]
        await seen(lambda: service.note("retry") == "done 3", LIMIT)

        # Both, two times; in the second time a container dies meanwhile.
        for dies in (False, True):
            await service.in_the_middle()
            await service.kill()
            service.kill_containerd()
            if dies:
                os.kill(_host_pid(f"{service.namespace}/steady"), signal.SIGKILL)
            await service.start()
        lost = "exit 137" if containerd_version == "1.6" else "exit 255"
        await service.until("steady", "start-container", 2)
        assert service.told("steady") == ["start-container", "restore", "restore", lost, "start-container"]
        count = service.told("worker").count("start-container")
        await service.until("worker", "start-container", count + 1)
        assert await service.kill(signal.SIGTERM) == 0

        _compare(service)
        runs = _runs(service.did("retry"))
        assert runs == ["exit 1"] * 4  # three restarts, however often we were killed


def _compare(service: Service) -> None:
    """What was told is what the processes did."""
    for name in SCRIPTS:
        told, did = lives(service.told(name)), _runs(service.did(name))
        assert len(told) == len(did), (name, service.told(name), service.did(name))
        for (_, exit_told), exit_done in zip(told, did, strict=True):
            if exit_done and exit_told:
                # 1.7 and 2.1 forget a task that ended while they were away.
                assert exit_told in {exit_done, "exit 255"}, (name, service.told(name), service.did(name))
            elif exit_told:
                assert exit_told in {"exit 137", "exit 255"}, (name, service.told(name), service.did(name))


def _host_pid(cgroup: str) -> int:
    """The process that is first in a container, by the name of its cgroup."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if f"/{cgroup}\n" in entry.joinpath("cgroup").read_text():
                    found.append(int(entry.name))
    return min(found)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["start-container"], [(True, "")]),
        (["start-container", "exit 3", "exit 3", "start-container"], [(True, "exit 3"), (True, "")]),
        (["start-container", "restore", "exit 3"], [(True, "exit 3")]),
        (["exit 255"], [(False, "exit 255")]),
    ],
)
async def test_lives(told: list[str], expected: list[tuple[bool, str]]) -> None:
    assert lives(told) == expected
