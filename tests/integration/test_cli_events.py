"""``containerd-aio events``, ``version`` and ``import`` on every release line."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio import Client, Daemon
from tests.integration.cli_support import BUSYBOX, CLI, Running


async def _subscribed(client: Client, events: Running) -> None:
    """Return when `events` prints what is published in the client's namespace."""
    async with anyio.create_task_group() as group:

        async def publish() -> None:
            while True:
                await client.publish("/test/probe")
                await anyio.sleep(0.05)

        group.start_soon(publish)
        await events.line("/test/probe")
        group.cancel_scope.cancel()
    await client.publish("/test/begin")
    await events.line("/test/begin")


async def _json(events: Running, containing: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(await events.line(containing))
    return parsed


async def test_version(daemon: Daemon) -> None:
    done = await CLI(daemon.address)("version")
    assert done.returncode == 0, done.stderr
    out = done.stdout.decode()
    client, server = out.split("\n\n")
    assert client.startswith("Client:\n  Version:")
    assert f"Server:\n  Version:  {daemon.version}\n" in server
    assert f"Address:  {daemon.address}\n" in server


async def test_import(daemon: Daemon, namespace: str, busybox_archive: Path) -> None:
    done = await CLI(daemon.address, namespace)("import", str(busybox_archive))
    assert done.returncode == 0, done.stderr
    async with Client(daemon.address, namespace=namespace) as client:
        image = await client.image(BUSYBOX)
        assert done.stdout.decode() == f"{BUSYBOX} {image.target.digest}\n"
        assert await image.is_unpacked()


async def test_import_of_something_else(daemon: Daemon, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no archive" * 100)
    done = await CLI(daemon.address, namespace)("import", str(tmp_path / "x.tar"))
    assert done.returncode == 1
    assert done.stderr.startswith(b"containerd-aio: ")
    assert done.stderr.count(b"\n") == 1


async def test_events_of_a_life(client: Client) -> None:
    cli = CLI(client.address, client.namespace)
    async with cli.start("events", "--json") as as_json, cli.start("events") as for_people:
        await _subscribed(client, as_json)
        await _subscribed(client, for_people)
        done = await cli("run", "--rm", BUSYBOX, "life", "sh", "-c", "exit 7")
        assert done.returncode == 7, done.stderr
        topics = []
        while not topics or topics[-1] != "/containers/delete":
            event = await _json(as_json, "")
            assert event["namespace"] == client.namespace
            assert event["origin"] == "live"
            topics.append(event["topic"])
            if event["topic"] == "/tasks/exit":
                assert event["event"]["container_id"] == "life"
                assert event["event"]["exit_status"] == 7
        # Not "/tasks/delete": a shim of 2.1 now and then ends before it has sent it.
        wanted = ["/containers/create", "/tasks/create", "/tasks/start", "/tasks/exit"]
        assert [topic for topic in topics if topic in wanted] == wanted
        line = await for_people.line("/tasks/exit")
        assert f" {client.namespace} " in line
        assert line.endswith("exit_status=7")
        assert "\x1b" not in line
        for events, signum in ((as_json, signal.SIGINT), (for_people, signal.SIGTERM)):
            events.send(signum)
            assert await events.wait() == 128 + signum


async def test_filters_and_namespaces(client: Client, daemon: Daemon) -> None:
    """Without a namespace there are events of all; filters are OR-ed."""
    async with CLI(daemon.address).start(
        "events", "--json", 'topic~="^/test/"', 'topic=="/tasks/exit"'
    ) as events:
        await _subscribed(client, events)
        cli = CLI(client.address, client.namespace)
        assert (await cli("run", "--rm", BUSYBOX, "filtered", "true")).returncode == 0
        await client.publish("/test/end")
        ours = []
        while not ours or ours[-1] != "/test/end":
            event = await _json(events, "")
            if event["namespace"] == client.namespace:
                ours.append(event["topic"])
        assert ours == ["/tasks/exit", "/test/end"]


async def test_a_filter_that_is_none(daemon: Daemon) -> None:
    done = await CLI(daemon.address)("events", "topic==")
    assert done.returncode == 1
    assert done.stderr.startswith(b"containerd-aio: ")
    assert done.stderr.count(b"\n") == 1


async def test_a_closed_pipe_ends_it_quietly(client: Client) -> None:
    events = " ".join(CLI(client.address, client.namespace).argv("events"))
    script = f"{events} | head -n 1; echo ${{PIPESTATUS[0]}}"
    async with anyio.create_task_group() as group:

        async def publish() -> None:
            while True:
                await client.publish("/test/pipe")
                await anyio.sleep(0.05)

        group.start_soon(publish)
        with anyio.fail_after(60):
            done = await anyio.run_process(["bash", "-c", script], check=False)
        group.cancel_scope.cancel()
    line, status = done.stdout.decode().splitlines()
    assert "/test/pipe" in line
    assert status == "141"
    assert done.stderr == b""


async def test_restarts_are_survived_and_told(
    private_daemon: Callable[..., Daemon], busybox_archive: Path, containerd_version: str
) -> None:
    async with private_daemon() as daemon:
        cli = CLI(daemon.address)
        async with (
            cli.start("events", "--json") as as_json,
            cli.start("events") as for_people,
            Client(daemon.address) as client,
        ):
            await client.import_archive(busybox_archive, unpack=True)
            async with (
                await client.new_container("c", image=BUSYBOX, args=["sleep", "1000"]) as container,
                await container.new_task() as task,
            ):
                await task.start()
                await _subscribed(client, as_json)
                await _subscribed(client, for_people)
                for _ in range(2):
                    await daemon.kill()
                    await for_people.error_line("the connection to containerd is lost")
                    await daemon.start()
                    await for_people.error_line("connected to containerd again")
                    await for_people.line("-- gap ")
                    gap = (await _json(as_json, '"gap"'))["gap"]
                    assert gap["since"] < gap["until"]
                    assert gap["reason"]
                await task.kill("KILL")
                assert (await _json(as_json, "/tasks/exit"))["event"]["exit_status"] == 137
                await for_people.line("/tasks/exit")


async def test_waiting_for_the_daemon(private_daemon: Callable[..., Daemon]) -> None:
    daemon = private_daemon()
    done = await CLI(daemon.address)("events")
    assert done.returncode == 1
    assert b"there is no such socket" in done.stderr
    async with CLI(daemon.address).start("events", "--wait") as events:
        await events.error_line("there is no such socket")
        async with daemon, Client(daemon.address) as client:
            await _subscribed(client, events)
            events.send(signal.SIGTERM)
            assert await events.wait() == 143


@pytest.mark.parametrize("command", ["version", "events"])
async def test_a_socket_that_is_not_containerds(command: str, tmp_path: Path) -> None:
    """Something else listens there, and says nothing."""
    async with await anyio.create_unix_listener(tmp_path / "s"):
        cli = CLI(str(tmp_path / "s"))
        with anyio.fail_after(30):
            done = await anyio.run_process([*cli.argv("--timeout", "1", command)], check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"containerd-aio: ")
    assert done.stderr.count(b"\n") == 1
