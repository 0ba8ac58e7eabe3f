"""`Daemon` with real daemons: one that starts, and every way in which things end."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from structlog.testing import capture_logs

from containerd_aio._daemon import cleanup
from containerd_aio.daemon import Daemon
from containerd_aio.errors import Closed, DeadlineExceeded, FailedPrecondition, Unavailable


class Ctr:
    """containerd's own command line client, as somebody else's view of a daemon."""

    def __init__(self, binary, rootfs):
        self.binary = binary
        self.rootfs = rootfs

    async def __call__(self, daemon, *args):
        argv = [self.binary, "--address", daemon.address, "--namespace", "t", *args]
        with anyio.fail_after(20):
            done = await anyio.run_process(argv, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def run_args(self, name, script="sleep 1000"):
        shell = ("/bin/busybox", "sh", "-c", script)
        return ("run", "--detach", "--rootfs", "--null-io", self.rootfs, name, *shell)

    async def run(self, daemon, name, script="sleep 1000"):
        await self(daemon, *self.run_args(name, script))


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory):
    path = tmp_path_factory.mktemp("rootfs")
    (path / "bin").mkdir()
    (path / "bin" / "busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (path / "bin" / "busybox").chmod(0o755)
    (path / "bin" / "sleep").symlink_to("busybox")
    return str(path)


@pytest.fixture
def ctr(ctr_binary, rootfs):
    return Ctr(ctr_binary, rootfs)


@pytest.fixture
def stub(tmp_path):
    """Write an executable that stands in for containerd."""

    def make(script):
        path = tmp_path / "containerd"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


def processes_of(daemon):
    """The daemon, its shims, and all processes of its containers."""
    daemons, shims = cleanup.find_daemon(daemon._layout), cleanup.find_shims(daemon._layout)
    return [*daemons, *shims, *cleanup._descendants(handle.pid for handle in shims)]


async def ended(handles, timeout=20):
    """Wait until processes have ended, and let go of them."""
    remaining = await anyio.to_thread.run_sync(cleanup._wait_all, handles, timeout)
    assert not remaining, [cleanup.command_line(handle.pid) for handle in remaining]
    for handle in handles:
        handle.close()


def assert_nothing_left(daemon):
    assert [handle.pid for handle in processes_of(daemon)] == []
    assert cleanup.mounts_below(daemon.root, daemon.state) == []
    assert not Path(daemon.root).exists()
    assert not Path(daemon.state).exists()


# -- the ordinary life ----------------------------------------------------------------------------------------


async def test_a_daemon_starts_says_its_version_and_leaves_nothing(private_daemon, containerd_version):
    async with private_daemon() as daemon:
        assert daemon.version.startswith(f"{containerd_version}.")
        assert daemon.running
        assert Path(f"/proc/{daemon.pid}").exists()
        assert int(Path(daemon.state, "containerd.pid").read_text()) == daemon.pid
        assert stat.S_IMODE(Path(daemon.state, "config.toml").stat().st_mode) == 0o600
    assert not daemon.running
    assert await daemon.wait() == 0
    assert_nothing_left(daemon)


async def test_the_shared_daemon_serves_its_line(daemon, containerd_version, ctr, namespace):
    assert daemon.version.startswith(containerd_version)
    assert "Server" in await ctr(daemon, "version")


async def test_directories_that_were_there_stay_and_kept_ones_too(private_daemon, tmp_path):
    there, kept = tmp_path / "there", tmp_path / "new" / "kept"
    there.mkdir()
    (there / "mine").touch()
    async with private_daemon(root=there):
        pass
    assert (there / "mine").exists()
    async with private_daemon(root=kept, keep=True) as daemon:
        pass
    assert (kept / "io.containerd.metadata.v1.bolt").is_dir()
    assert not Path(daemon.state).exists()


async def test_the_state_of_a_kept_root_is_found_again(private_daemon, tmp_path, ctr):
    async with private_daemon(root=tmp_path / "root", keep=True) as daemon:
        await ctr(daemon, "namespaces", "create", "remembered")
    async with private_daemon(root=tmp_path / "root") as daemon:
        assert "remembered" in await ctr(daemon, "namespaces", "list")


async def test_containers_outlive_a_restart(private_daemon, ctr):
    async with private_daemon() as daemon:
        await ctr.run(daemon, "one")
        first, before = daemon.pid, await ctr(daemon, "tasks", "list")
        await daemon.restart()
        assert daemon.pid != first
        assert await ctr(daemon, "tasks", "list") == before
        assert "RUNNING" in before
    assert_nothing_left(daemon)


async def test_stop_start_and_what_is_refused_in_between(private_daemon):
    daemon = private_daemon()
    async with daemon:
        with pytest.raises(FailedPrecondition, match="is running"):
            await daemon.start()
        await daemon.stop()
        assert not daemon.running
        assert await daemon.wait() == 0
        await daemon.stop()
        await daemon.start()
        assert daemon.running
    with pytest.raises(Closed):
        await daemon.start()
    with pytest.raises(FailedPrecondition, match="entered once"):
        await daemon.__aenter__()


async def test_an_error_of_the_body_comes_out_as_it_is(private_daemon):
    daemon = private_daemon()
    with pytest.raises(ZeroDivisionError):
        async with daemon:
            _ = 1 // 0
    assert_nothing_left(daemon)


async def test_settings_and_environment_arrive(private_daemon, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/not-for-containerd")
    monkeypatch.setenv("FOR_CONTAINERD", "yes")
    config = {"grpc": {"tcp_address": "127.0.0.1:0"}, "oom_score": 7}
    async with private_daemon(config=config, path=["/opt/first"]) as daemon:
        environment = dict(
            item.split("=", 1)
            for item in Path(f"/proc/{daemon.pid}/environ").read_text().split("\0")
            if "=" in item
        )
        assert environment["FOR_CONTAINERD"] == "yes"
        assert "NOTIFY_SOCKET" not in environment
        assert environment["PATH"].split(":")[0] == "/opt/first"
        assert Path(f"/proc/{daemon.pid}/oom_score_adj").read_text().strip() == "7"


async def test_it_may_be_entered_in_one_task_and_left_in_another(private_daemon):
    """As fixtures do."""
    daemon = private_daemon()
    for step in (daemon.__aenter__, daemon.restart, partial(daemon.__aexit__, None, None, None)):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
    assert_nothing_left(daemon)


# -- logs -----------------------------------------------------------------------------------------------------


async def test_the_log_arrives_as_structlog_events(private_daemon):
    with capture_logs() as logs:
        async with private_daemon(log_level="info") as daemon:
            pass
    booted = [entry for entry in logs if entry["event"].startswith("containerd successfully booted")]
    assert len(booted) == 1
    assert booted[0]["log_level"] == "info"
    assert booted[0]["daemon"] == daemon.address
    assert booted[0]["containerd_time"]
    assert not any("unexpectedly" in entry["event"] for entry in logs)


async def test_an_unexpected_end_is_logged_and_waited_for(private_daemon):
    with capture_logs() as logs:
        async with private_daemon(log_level="error") as daemon:
            os.kill(daemon.pid, signal.SIGKILL)
            with anyio.fail_after(10):
                assert await daemon.wait() == -signal.SIGKILL
            assert not daemon.running
            assert "killed by SIGKILL" in repr(daemon)
            await daemon.start()
    assert [entry["returncode"] for entry in logs if "unexpectedly" in entry["event"]] == [-signal.SIGKILL]


# -- what goes wrong at the start -----------------------------------------------------------------------------


async def test_a_bad_setting_is_named(private_daemon):
    daemon = private_daemon(config={"grpc": {"uid": "nobody"}})
    with pytest.raises(Unavailable, match=r"(?s)ended with exit code 1.*TOML.* int.*The end of its log"):
        async with daemon:
            pass
    assert_nothing_left(daemon)


async def test_a_binary_that_is_no_containerd_is_named(private_daemon, stub):
    daemon = private_daemon(binary=stub("echo 'no such luck' >&2; exit 3"))
    with pytest.raises(Unavailable, match=r"(?s)exit code 3.*no such luck"):
        async with daemon:
            pass
    assert_nothing_left(daemon)


async def test_a_file_that_cannot_be_executed_is_an_error_at_once(private_daemon, tmp_path):
    path = tmp_path / "containerd"
    path.write_bytes(b"\x7fELF and nothing more")
    path.chmod(0o755)
    daemon = private_daemon(binary=path)
    with pytest.raises(OSError, match="Exec format"):
        async with daemon:
            pass
    assert_nothing_left(daemon)


async def test_a_daemon_that_never_answers_is_given_up_and_killed(private_daemon, stub):
    daemon = private_daemon(binary=stub("trap '' TERM; while :; do sleep 0.1; done"), start_timeout=0.5)
    with pytest.raises(DeadlineExceeded, match=r"start_timeout=0.5 s.*no such socket"):
        async with daemon:
            pass
    assert_nothing_left(daemon)


@pytest.mark.parametrize("phase", ["_try_lock", "_prepare", "_launch"])
async def test_cancelled_while_starting(private_daemon, monkeypatch, phase):
    """By asyncio, in the middle of each blocking step: the worker thread goes on, and must not leave anything."""
    daemon = private_daemon()
    step = getattr(daemon, phase)
    loop = asyncio.get_running_loop()
    entering = asyncio.ensure_future(daemon.__aenter__())

    def cancel_first():
        loop.call_soon_threadsafe(entering.cancel)
        return step()

    monkeypatch.setattr(daemon, phase, cancel_first)
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert_nothing_left(daemon)


async def test_cancelled_while_waiting_for_readiness(private_daemon, stub, tmp_path):
    started = tmp_path / "started"
    os.mkfifo(started)
    daemon = private_daemon(binary=stub(f"trap '' TERM; echo >{started}; while :; do sleep 0.1; done"))
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await anyio.Path(started).read_text()
                scope.cancel()

            tasks.start_soon(cancel)
            async with daemon:
                pytest.fail("it can't be ready")
    assert scope.cancelled_caught
    assert_nothing_left(daemon)


# -- signals, freezing, stopping ------------------------------------------------------------------------------


async def test_killed_daemons_start_again_with_their_containers(private_daemon, ctr):
    async with private_daemon() as daemon:
        await ctr.run(daemon, "one")
        await daemon.kill()
        assert not daemon.running
        await daemon.start()
        assert "RUNNING" in await ctr(daemon, "tasks", "list")
    assert_nothing_left(daemon)


async def test_a_frozen_daemon_stops_in_order(private_daemon):
    async with private_daemon(stop_timeout=10) as daemon:
        await daemon.kill(signal.SIGSTOP)
        with anyio.fail_after(5):
            await daemon.stop()
        assert await daemon.wait() == 0
        await daemon.start()
        await daemon.kill(signal.SIGSTOP)
    assert_nothing_left(daemon)


async def test_a_daemon_that_ignores_sigterm_is_killed(private_daemon, stub, containerd_binary):
    # A stand-in that runs the real one as its child: it is the process we know, and it does not go by itself.
    binary = stub(f'trap \'trap "" TERM\' TERM; {containerd_binary} "$@" & while :; do wait; done')
    with capture_logs() as logs:
        async with private_daemon(binary=binary, stop_timeout=0.3) as daemon:
            await daemon.stop()
            assert await daemon.wait() == -signal.SIGKILL
    assert any("did not stop in time" in entry["event"] for entry in logs)
    assert_nothing_left(daemon)


async def test_leaving_in_a_cancelled_scope_clears_up_all_the_same(private_daemon, ctr):
    daemon = private_daemon()
    with anyio.CancelScope() as scope:
        async with daemon:
            await ctr.run(daemon, "one")
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert_nothing_left(daemon)


# -- adopting -------------------------------------------------------------------------------------------------


async def test_a_detached_daemon_is_adopted_with_its_containers_and_cleared_up_by_the_last(
    private_daemon, ctr
):
    async with private_daemon(detach=True) as first:
        await ctr.run(first, "one")
    places = {"root": first.root, "state": first.state}
    assert Path(f"/proc/{first.pid}").exists()

    with pytest.raises(FailedPrecondition, match=f"pid {first.pid}.*adopt=False"):
        async with private_daemon(**places, adopt=False):
            pass
    with pytest.raises(FailedPrecondition, match="give these to adopt it"):
        async with private_daemon(state=first.state, root="/var/lib/another"):
            pass
    async with private_daemon(**places, detach=True) as second:
        assert second.pid == first.pid
        assert second.version == first.version
        assert "RUNNING" in await ctr(second, "tasks", "list")
    async with private_daemon(**places) as third:
        assert third.pid == first.pid
        await third.restart()
        assert third.pid != first.pid
        assert "RUNNING" in await ctr(third, "tasks", "list")
    assert not Path("/var/lib/another").exists()
    assert_nothing_left(first)


async def test_a_frozen_daemon_is_not_adopted_and_not_harmed(private_daemon):
    async with private_daemon(detach=True) as first:
        await first.kill(signal.SIGSTOP)
    places = {"root": first.root, "state": first.state}
    with pytest.raises(DeadlineExceeded, match="frozen"):
        async with private_daemon(**places, start_timeout=1):
            pass
    os.kill(first.pid, signal.SIGCONT)
    async with private_daemon(**places) as second:
        assert second.pid == first.pid
    assert_nothing_left(first)


async def test_one_state_is_kept_by_one_daemon_at_a_time(private_daemon):
    async with private_daemon() as first:
        with pytest.raises(FailedPrecondition, match="another Daemon"):
            async with private_daemon(root=first.root, state=first.state, start_timeout=0.2):
                pass
        assert first.running
    assert_nothing_left(first)


# -- nothing is left ------------------------------------------------------------------------------------------


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
    assert not Path("/run/containerd/runc/t/running").exists()


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
        command = [ctr.binary, "--namespace", "t", *ctr.run_args("one")]
        argv = [sys.executable, "-c", CHILD, json.dumps([given, command])]
        repository = Path(__file__).resolve().parents[2]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=repository)
        with process.stdout as lines:
            guardian = next(int(line.split()[1]) for line in lines if line.startswith(b"READY"))
        return process, view, guardian

    return make


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


def test_the_repository_of_the_fixtures_is_the_one_under_test():
    assert Path(sys.modules[Daemon.__module__].__file__).is_relative_to(Path(__file__).resolve().parents[2])
