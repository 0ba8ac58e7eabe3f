"""Every program of examples/ does what it says, on a real daemon."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

from containerd_aio import Client, Daemon
from tests.docs.conftest import BUSYBOX, on_one_release_line
from tests.docs.markdown import REPOSITORY

EXAMPLES = REPOSITORY / "examples"
LIMIT = 60

pytestmark = on_one_release_line


def _command(example: str, *args: str) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / example), *args]


def _place(daemon: Daemon) -> dict[str, str]:
    """Where the examples shall work: a namespace that no other daemon of this machine has, for runc keeps one state."""
    return {"CONTAINERD_ADDRESS": daemon.address, "CONTAINERD_NAMESPACE": f"docs-{secrets.token_hex(4)}"}


def _environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY)} | more


async def _run(example: str, *args: str) -> tuple[int, str]:
    """Run an example to its end; return its exit code and what it printed."""
    with anyio.fail_after(LIMIT):
        done = await anyio.run_process(_command(example, *args), env=_environment(), check=False, stderr=None)
    return done.returncode, done.stdout.decode()


class Running:
    """An example that runs, read line by line."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self.process = process
        self._stream = TextReceiveStream(process.stdout)
        self._text = ""

    async def line(self, *parts: str) -> str:
        """Return the next line that contains every one of `parts`."""
        with anyio.fail_after(LIMIT):
            while True:
                while "\n" not in self._text:
                    self._text += await self._stream.receive()
                line, _, self._text = self._text.partition("\n")
                if all(part in line for part in parts):
                    return line

    async def end(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(signum)
        with anyio.fail_after(LIMIT):
            return await self.process.wait()


@asynccontextmanager
async def _running(example: str, *args: str, **environment: str) -> AsyncIterator[Running]:
    command = _command(example, *args)
    async with await anyio.open_process(command, env=_environment(**environment), stderr=None) as process:
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()


async def test_run_job(folder: Path, client: Client) -> None:
    code, printed = await _run("run_job.py", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 3")
    report: dict[str, Any] = json.loads(printed)
    assert code == 1
    assert (report["exit_code"], report["stdout"], report["stderr"]) == (3, "out\n", "err\n")
    assert (report["timed_out"], report["oom_killed"], report["truncated"]) == (False, False, False)
    assert report["exited_at"]

    code, printed = await _run("run_job.py", BUSYBOX, "true")
    assert (code, json.loads(printed)["exit_code"]) == (0, 0)

    trap = "trap 'exit 9' TERM; while :; do sleep 0.1; done"
    code, printed = await _run("run_job.py", "--limit", "1", BUSYBOX, "sh", "-c", trap)
    report = json.loads(printed)
    assert (code, report["timed_out"], report["exit_code"]) == (1, True, 9)
    assert await client.containers() == []


async def test_watch_events(private_daemon: Callable[..., Daemon], folder: Path) -> None:
    async with private_daemon() as daemon:
        place = _place(daemon)
        async with (
            Client(daemon.address, namespace=place["CONTAINERD_NAMESPACE"]) as client,
            _running("watch_events.py", "topic~=|^/watched/|", **place) as example,
        ):
            await example.line('"watching"')
            await client.publish("/not/watched")
            await client.publish("/watched/1")
            assert json.loads(await example.line('"topic"'))["topic"] == "/watched/1"
            await daemon.kill(signal.SIGKILL)
            await example.line('"status": "disconnected"')
            await daemon.start()
            assert json.loads(await example.line('"gap"'))["gap"]["reason"]
            await client.publish("/watched/2")
            assert json.loads(await example.line('"topic"'))["topic"] == "/watched/2"
            assert await example.end(signal.SIGINT) == 0


async def test_supervisor(private_daemon: Callable[..., Daemon], folder: Path, busybox_archive: Path) -> None:
    arguments = ("web", BUSYBOX, "sh", "-c", "echo begun; exec sleep 1000")
    async with AsyncExitStack() as stack:
        daemon = await stack.enter_async_context(private_daemon())
        place = _place(daemon)
        client = await stack.enter_async_context(
            Client(daemon.address, namespace=place["CONTAINERD_NAMESPACE"])
        )
        await client.import_archive(busybox_archive, unpack=True)
        async with _running("supervisor.py", *arguments, **place) as example:
            await example.line("started, pid")
            task = await (await client.container("web")).task()
            # It ends, and is started again.
            await task.kill("KILL")
            await example.line("ended, exit 137")
            pid = (await example.line("started, pid")).split()[-1]
            # containerd is killed and comes back: nothing to be done.
            await daemon.kill(signal.SIGKILL)
            await daemon.start()
            await client.wait_ready(timeout=LIMIT)
            task = await (await client.container("web")).task()
            assert str(task.pid) == pid
            # The supervisor goes and comes back: it finds the container.
            assert await example.end() == 0
        async with _running("supervisor.py", *arguments, **place) as example:
            assert await example.line("pid") == f"found, pid {pid}"
            await task.kill("KILL")
            await example.line("started, pid")
            assert await example.end() == 0
    assert Path("web.log").read_text() == "begun\n" * 3


async def test_health_check(folder: Path, client: Client) -> None:
    script = "touch /alive; while test ! -e /stop; do sleep 0.05; done; exit 4"
    arguments = ("--every", "0.1", "--limit", "5", "--failures", "2", "web", "test", "-e", "/alive")

    async def act(exec_id: str, *command: str) -> None:
        async with await task.exec(exec_id, command) as process:
            await process.start()
            await process.wait()

    async with await client.new_container("web", image=BUSYBOX, args=["sh", "-c", script]) as container:
        async with await container.new_task() as task:
            await task.start()
            async with _running("health_check.py", *arguments) as example:
                await example.line("healthy")
                await act("become-ill", "rm", "/alive")
                await example.line("exit 1")
                await example.line("exit 1")
                assert await example.line("web:") == "web: exit 137, killed as unhealthy"
                assert await example.process.wait() == 1
        async with await container.new_task() as task:
            await task.start()
            async with _running("health_check.py", *arguments) as example:
                await example.line("healthy")
                await act("end", "touch", "/stop")
                assert await example.line("web:") == "web: exit 4"
                assert await example.process.wait() == 0


async def test_health_check_gives_up_a_command_that_hangs(folder: Path, client: Client) -> None:
    async with await client.new_container("web", image=BUSYBOX, args=["sleep", "1000"]) as container:
        async with await container.new_task() as task:
            await task.start()
            code, printed = await _run(
                "health_check.py",
                "--every",
                "0.1",
                "--limit",
                "0.3",
                "--failures",
                "1",
                "web",
                "sleep",
                "1000",
            )
            assert (code, printed) == (1, "1: no answer within 0.3 s\nweb: exit 137, killed as unhealthy\n")


async def test_embedded_daemon(folder: Path, containerd_binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTAINERD_NAMESPACE", f"docs-{secrets.token_hex(4)}")
    monkeypatch.setenv("PATH", f"{Path(containerd_binary).parent}:{os.environ['PATH']}")
    code, printed = await _run("embedded_daemon.py", "--jobs", "5")
    first, *lines = printed.splitlines()
    assert code == 0
    assert first.startswith("containerd 1.6")
    assert [(line.split()[:3], line.split()[3:5]) for line in lines] == [
        ([str(n), "exit", str(n % 3)], ["job", str(n)]) for n in range(5)
    ]
