"""containerd's own command line finds no difference."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from tests.contract.backend import IMAGE, Backend


class Ctr:
    """The ctr of the backend's release, on the backend."""

    def __init__(self, backend: Backend, binary: str) -> None:
        self.backend = backend
        self.command = [binary, "-a", backend.client.address, "-n", backend.client.namespace]

    async def __call__(self, *args: str) -> tuple[int, str]:
        """Run it; returns exit code and output."""
        with anyio.fail_after(30):
            done = await anyio.run_process([*self.command, *args], check=False, stderr=subprocess.STDOUT)
        return done.returncode, done.stdout.decode()


@pytest.fixture
def ctr(backend: Backend) -> Ctr:
    """The command."""
    testbed = sys.modules["testbed"]
    found = testbed.listing().get(backend.release)
    if found is None or not Path(found["ctr"]).exists():
        reason = f"no ctr {backend.release} in the test bed: run `make testbed`"
        pytest.fail(reason, pytrace=False) if testbed.in_ci() else pytest.skip(reason)
    return Ctr(backend, found["ctr"])


def _rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()[1:] if line]


async def test_looking(backend: Backend, ctr: Ctr) -> None:
    code, output = await ctr("version")
    assert code == 0
    assert re.search(rf"Server:\n +Version: +{re.escape(backend.release)}\.", output)
    async with backend.running() as (name, task):
        assert _rows((await ctr("containers", "ls"))[1]) == [[name, IMAGE, "io.containerd.runc.v2"]]
        assert _rows((await ctr("tasks", "ls"))[1]) == [[name, str(task.pid), "RUNNING"]]
        assert _rows((await ctr("tasks", "ps", name))[1]) == [[str(task.pid), "-"]]
        assert [row[0] for row in _rows((await ctr("images", "ls"))[1])] == [IMAGE]
        assert (await ctr("tasks", "metrics", name))[0] == 0
        for command in (
            ["namespaces", "ls"],
            ["leases", "ls"],
            ["plugins", "ls"],
            ["snapshots", "ls"],
            ["content", "ls"],
        ):
            assert (await ctr(*command))[0] == 0, command
    refusal = f'ctr: container "nobody" in namespace "{backend.client.namespace}": not found\n'
    assert await ctr("tasks", "kill", "nobody") == (1, refusal)


async def test_running(backend: Backend, ctr: Ctr) -> None:
    await backend.ensure_image()
    script = ["sh", "-c", "echo out; exit 7"]
    assert await ctr("run", "--rm", IMAGE, backend.id(), *script) == (7, "out\n")
    async with backend.running() as (name, _):
        assert await ctr("tasks", "exec", "--exec-id", "e1", name, "sh", "-c", "echo in it; exit 4") == (
            4,
            "in it\n",
        )
        assert await ctr("tasks", "pause", name) == (0, "")
        assert _rows((await ctr("tasks", "ls"))[1])[0][2] == "PAUSED"
        assert await ctr("tasks", "resume", name) == (0, "")
        assert await ctr("tasks", "kill", "-s", "SIGKILL", name) == (0, "")
        assert await backend.wait(name) == 137
        code, output = await ctr("tasks", "rm", name)
        assert code == 0
        assert f"task {name} exit with non-zero exit code 137" in output


async def test_watching(backend: Backend, ctr: Ctr) -> None:
    async with await anyio.open_process([*ctr.command, "events"], stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        seen = ""
        topic = f"/contract/{backend.id()}"
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:

                async def publish() -> None:  # nobody tells when it has subscribed
                    while True:
                        await backend.client.publish(topic)

                group.start_soon(publish)
                while topic not in seen:
                    seen += (await process.stdout.receive()).decode()
                group.cancel_scope.cancel()
            async with backend.running("sh", "-c", "exit 3") as (name, _):
                while not re.search(rf'/tasks/exit {{"container_id":"{name}",.*"exit_status":3', seen):
                    seen += (await process.stdout.receive()).decode()
        process.kill()
    namespace = backend.client.namespace
    assert re.search(rf" UTC {namespace} {topic} ", seen)
    for event in ("create", "start"):
        assert re.search(rf' UTC {namespace} /tasks/{event} {{"container_id":"{name}"', seen)
