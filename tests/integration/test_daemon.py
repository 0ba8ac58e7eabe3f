"""`Daemon` with real daemons: the ordinary life, logs, bad starts, signals, adoption."""

import asyncio
import os
import signal
import stat
from functools import partial
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from containerd_aio import Client
from containerd_aio.errors import Closed, DeadlineExceeded, FailedPrecondition, Unavailable
from tests.integration.daemon_view import assert_nothing_left, zombies


@pytest.fixture
def stub(tmp_path):
    """Write an executable that stands in for containerd."""

    def make(script):
        path = tmp_path / "containerd"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


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
    assert zombies() == []


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


async def test_an_address_that_is_taken_stays_with_whom_it_is(private_daemon, tmp_path):
    """containerd itself would remove whatever is on its address, and listen in its place."""
    precious = tmp_path / "precious"
    precious.touch()
    first = private_daemon()
    async with first, private_daemon(address=f"{first.state}-2.sock") as second:
        await second.stop()
        listener = await anyio.create_unix_listener(second.address)  # somebody was faster
        for address in (first.address, second.address, precious):
            words = "no socket; remove it" if address == precious else "somebody listens on"
            with pytest.raises(FailedPrecondition, match=words):
                async with private_daemon(address=address):
                    pass
        with pytest.raises(FailedPrecondition, match="somebody listens on"):
            await second.start()
        assert precious.is_file()
        async with Client(first.address) as client:
            assert await client.is_serving()
    async with listener:
        async with await anyio.connect_unix(second.address):
            pass
    Path(second.address).unlink()
    assert_nothing_left(first)


async def test_one_state_is_kept_by_one_daemon_at_a_time(private_daemon):
    async with private_daemon() as first:
        with pytest.raises(FailedPrecondition, match="another Daemon"):
            async with private_daemon(root=first.root, state=first.state, start_timeout=0.2):
                pass
        assert first.running
    assert_nothing_left(first)
