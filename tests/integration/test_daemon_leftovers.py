"""Nothing is left of a `Daemon`, whichever way it ends, and nothing of anybody else's is touched."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

from containerd_aio._daemon import cleanup
from tests.conftest import REPOSITORY
from tests.integration.daemon_view import NAMESPACE, assert_nothing_left, ended, processes_of


async def test_shims_containers_and_mounts_go(private_daemon, ctr):
    """Running with children of its own, paused, ended, and one whose shim was killed: all are undone."""
    async with private_daemon() as daemon:
        await ctr.run(daemon, "running", "trap '' TERM; sleep 1000 & sleep 1000 & wait")
        await ctr.run(daemon, "paused")
        await ctr(daemon, "tasks", "pause", "paused")
        await ctr.run(daemon, "exited", "true")
        await ctr.run(daemon, "orphaned")
        await daemon.kill()  # so that it can't undo the next one
        handles = processes_of(daemon)
        assert len(handles) == 4 + 3 + 1 + 1  # shims, then the processes of three containers
        shims = {argv[argv.index("-id") + 1]: h for h in handles[:4] if (argv := cleanup.command_line(h.pid))}
        shims["orphaned"].send(signal.SIGKILL)
        mount = ["mount", "-t", "tmpfs", "none"]
        for folder in (f"{daemon.root}/a b", f"{daemon.state}/inner"):
            Path(folder).mkdir()
            await anyio.run_process([*mount, folder])
            await anyio.run_process([*mount, folder])
    assert_nothing_left(daemon)
    await ended(handles, 0)
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        assert not (hierarchy / "t" / "running").exists()
    assert not Path("/run/containerd/runc", NAMESPACE, "running").exists()


async def test_what_is_still_mounted_is_not_deleted(private_daemon, tmp_path, monkeypatch):
    """The one thing worse than a leftover: deleting through a mount."""
    (tmp_path / "precious").touch()
    daemon = private_daemon()
    with capture_logs() as logs:
        async with daemon:
            folder = Path(daemon.root, "bound")
            folder.mkdir()
            await anyio.run_process(["mount", "--bind", str(tmp_path), str(folder)])
            monkeypatch.setattr(cleanup, "_unmount", lambda *_: None)
    monkeypatch.undo()
    assert (tmp_path / "precious").exists()
    assert any("still mounted" in entry.get("problem", "") for entry in logs)
    assert await anyio.to_thread.run_sync(cleanup.clean, daemon._layout) == []
    assert (tmp_path / "precious").exists()
    assert_nothing_left(daemon)


CHILD = """
import json, subprocess, sys
import anyio
from containerd_aio.daemon import Daemon

async def main():
    options, command = json.loads(sys.argv[1])
    async with Daemon(**options) as daemon:
        subprocess.run([command[0], "--address", daemon.address, *command[1:]], check=True)
        print("READY", daemon._guardian.pid if daemon._guardian else 0, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture
def child(private_daemon, containerd_binary, ctr):
    """Run a Python process that keeps a daemon with a container: (its Popen, a view of the daemon, the guardian)."""

    def make(**options):
        view = private_daemon(**options)
        given = {"root": view.root, "state": view.state, "binary": containerd_binary, **options}
        command = [ctr.binary, "--namespace", NAMESPACE, *ctr.run_args("one")]
        process, guardian = _start(CHILD, [given, command])
        return process, view, guardian

    return make


def _start(script, given):
    """Run a script that says when it is ready; return its process and the pid of its guardian."""
    argv = [sys.executable, "-c", script, json.dumps(given)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=REPOSITORY)
    with process.stdout as lines:
        ready = next((line for line in lines if line.startswith(b"READY")), None)
    if ready is None:
        raise AssertionError(f"it ended before it was ready, with {process.wait()}")
    return process, int(ready.split()[1])


async def test_when_our_process_is_killed_the_guardian_clears_up(child):
    process, view, guardian = await anyio.to_thread.run_sync(child)
    handles = [*processes_of(view), cleanup.Handle(guardian)]
    assert len(handles) == 1 + 1 + 1 + 1  # daemon, shim, container, guardian
    Path(view.state, "mounted").mkdir()
    await anyio.run_process(["mount", "-t", "tmpfs", "none", f"{view.state}/mounted"])
    process.kill()
    await anyio.to_thread.run_sync(process.wait)
    await ended(handles)
    assert_nothing_left(view)


async def test_a_successor_waits_for_the_guardian_to_be_done(child, private_daemon):
    process, view, guardian = await anyio.to_thread.run_sync(child)
    handles = [*processes_of(view), cleanup.Handle(guardian)]
    process.kill()
    await anyio.to_thread.run_sync(process.wait)
    async with private_daemon(root=view.root, state=view.state) as successor:
        assert successor.running
    await ended(handles)
    assert_nothing_left(view)


async def test_a_detached_daemon_outlives_our_process(child, private_daemon, ctr):
    process, view, guardian = await anyio.to_thread.run_sync(partial(child, detach=True))
    assert guardian == 0
    process.kill()
    await anyio.to_thread.run_sync(process.wait)
    async with private_daemon(root=view.root, state=view.state) as adopted:
        assert "RUNNING" in await ctr(adopted, "tasks", "list")
        os.kill(adopted.pid, signal.SIGTERM)
        with anyio.fail_after(10):
            assert await adopted.wait() is None  # not our child: its exit code is not for us
    assert_nothing_left(view)


async def test_ctrl_c_clears_up(child):
    process, view, guardian = await anyio.to_thread.run_sync(child)
    handles = [*processes_of(view), cleanup.Handle(guardian)]
    process.send_signal(signal.SIGINT)
    await anyio.to_thread.run_sync(process.wait)
    await ended(handles)
    assert_nothing_left(view)


MOUNTING = """
import json, sys
import anyio
from containerd_aio import Client
from containerd_aio.daemon import Daemon
from containerd_aio.mounts import temporary_mount

async def main():
    async with Daemon(**json.loads(sys.argv[1])) as daemon, Client(daemon.address) as client, client.lease():
        snapshots = await client.snapshotter()
        below = await snapshots.prepare("below")
        async with temporary_mount(below) as bound:
            (bound / "file").touch()
            await snapshots.commit("layer", "below")
            async with temporary_mount(await snapshots.prepare("above", "layer")) as overlaid:
                assert (overlaid / "file").exists()
                print("READY", daemon._guardian.pid, flush=True)
                await anyio.sleep_forever()

anyio.run(main)
"""


async def test_temporary_mounts_of_its_snapshots_go_and_others_stay(
    private_daemon, containerd_binary, tmp_path, monkeypatch
):
    view = private_daemon()
    options = {"root": view.root, "state": view.state, "binary": containerd_binary}
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    other = tmp_path / "containerd-aio-other"  # as one of another daemon
    other.mkdir()
    await anyio.run_process(["mount", "-t", "tmpfs", "none", str(other)])
    process, guardian = await anyio.to_thread.run_sync(_start, MOUNTING, options)
    try:
        handles = [*processes_of(view), cleanup.Handle(guardian)]
        mounted = [Path(point) for point in cleanup.temporary_mounts(view.root)]
    finally:
        process.kill()
        await anyio.to_thread.run_sync(process.wait)
    await ended(handles)
    left = cleanup.mounts_below(str(tmp_path))
    await anyio.run_process(["umount", str(other)])
    assert left == [str(other)]
    assert [point.parent for point in mounted] == [tmp_path] * 2
    assert list(tmp_path.iterdir()) == [other]
    assert_nothing_left(view)


async def test_of_a_detached_daemon_that_was_stopped_no_namespace_is_left(private_daemon, ctr):
    daemon = private_daemon(detach=True)
    namespace = Path(daemon.root).name
    places = [Path("/run/containerd/runc", namespace), *(path / namespace for path in cgroups())]
    call = [ctr.binary, "--address", daemon.address, "--namespace", namespace]
    async with daemon:
        await anyio.run_process([*call, *ctr.run_args("one")])
        assert sum(path.exists() for path in places) > 1
        await anyio.run_process([*call, "tasks", "delete", "--force", "one"])
        await daemon.stop()
    assert [path for path in places if path.exists()] == []
    shutil.rmtree(daemon.root)
    assert_nothing_left(daemon)


def cgroups():
    root = Path("/sys/fs/cgroup")
    return (path for path in (root, *root.glob("*/")) if (path / "cgroup.procs").exists())
