"""``containerd-aio run`` on every release line: codes, streams, signals, terminals, and what stays behind."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from containerd_aio import Client, Daemon, NotFound
from containerd_aio.services.snapshots import Snapshotter
from tests.integration.cli_support import BUSYBOX, CLI, Running, Terminal

READY = "echo ready; while :; do usleep 10000; done"
# Says that it runs, and that we know: signals are passed on only when the start has been confirmed.
STARTED = (
    "trap 'echo started' USR1; echo ready; while [ ! -e /host/go ]; do usleep 10000; done; echo over; exit 3"
)


@pytest.fixture
def cli(client: Client) -> CLI:
    """The command, in a namespace that has the image."""
    return CLI(client.address, client.namespace)


async def _is_gone(client: Client, container_id: str) -> bool:
    """Tell whether there is neither container nor snapshot of that id."""
    with pytest.raises(NotFound):
        await client.container(container_id)
    return not await Snapshotter(client.services, "overlayfs").exists(container_id)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["true"], 0, ""),
        (["sh", "-c", "exit 7"], 7, ""),
        (["nosuch"], 127, "executable file not found"),
        (["/nosuch"], 127, "no such file or directory"),
        (["/etc/passwd"], 126, "permission denied"),
        ([], 0, ""),
    ],
)
async def test_exit_codes(client: Client, cli: CLI, command: list[str], code: int, words: str) -> None:
    done = await cli("run", "--rm", BUSYBOX, "code", *command)
    assert done.returncode == code, done.stderr
    error = done.stderr.decode()
    assert words in error
    assert error == "" or (error.startswith("containerd-aio: ") and error.count("\n") == 1)
    assert await _is_gone(client, "code")


async def test_output_for_which_there_is_no_place(cli: CLI) -> None:
    command = cli.argv("run", "--rm", BUSYBOX, "full", "sh", "-c", "echo out; exit 4")
    for redirection, words in (
        ("<&- >&- 2>&-", ""),
        (">/dev/full", "(stream=stdout): [Errno 28] No space left on device\n"),
    ):
        done = await anyio.run_process(["sh", "-c", f'"$@" {redirection}', "sh", *command], check=False)
        assert (done.returncode, done.stdout) == (4, b"")
        assert done.stderr.decode().endswith(words)


async def test_what_never_ran_leaves_nothing_without_rm_too(client: Client, cli: CLI) -> None:
    assert (await cli("run", BUSYBOX, "never", "nosuch")).returncode == 127
    assert await _is_gone(client, "never")


async def test_out_of_memory(cli: CLI) -> None:
    done = await cli(
        "run", "--rm", "--memory-limit", "20m", BUSYBOX, "hungry", "sh", "-c", "s=x; while :; do s=$s$s; done"
    )
    assert done.returncode == 137
    assert done.stderr == b"containerd-aio: the kernel killed the container for lack of memory\n"


async def test_streams(cli: CLI) -> None:
    done = await cli(
        "run", "--rm", "-i", BUSYBOX, "streams", "sh", "-c", "cat; echo err >&2", stdin=b"in" * 100_000
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"in" * 100_000, b"err\n")


async def test_without_i_stdin_is_empty(cli: CLI) -> None:
    done = await cli("run", "--rm", BUSYBOX, "deaf", "cat", stdin=b"unread")
    assert (done.returncode, done.stdout) == (0, b"")


async def test_options(client: Client, cli: CLI, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    script = "echo $A; pwd; cat /host/file; echo x > /host/file || echo read-only"
    done = await cli(
        *("run", "--env", "A=1", "--cwd", "/tmp", "--label", "a=b"),
        *("--mount", f"src={tmp_path},dst=/host,options=rbind:ro"),
        *(BUSYBOX, "options", "sh", "-c", script),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"1\n/tmp\ncontent\nread-only\n"
    # Without --rm the container stays, and its task doesn't.
    container = await client.container("options")
    assert container.labels["a"] == "b"
    with pytest.raises(NotFound):
        await container.task()


async def test_an_id_is_taken_once(client: Client, cli: CLI) -> None:
    assert (await cli("run", BUSYBOX, "twice", "true")).returncode == 0
    done = await cli("run", BUSYBOX, "twice", "true")
    assert done.returncode == 125
    assert b"there is a container, or the snapshot of one, named 'twice'" in done.stderr
    await client.container("twice")


async def test_an_image_that_is_not_there(client: Client, cli: CLI) -> None:
    done = await cli("run", "nosuch", "id")
    assert done.returncode == 125
    assert f"there is no image 'nosuch' in namespace '{client.namespace}'".encode() in done.stderr


async def test_detached_runs_on(client: Client, cli: CLI, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = await cli(
        "run", "-d", "--log-uri", f"file://{log}", BUSYBOX, "background", "sh", "-c", f"echo out; {READY}"
    )
    assert done.returncode == 0, done.stderr
    task = await (await client.container("background")).task()
    assert done.stdout.decode() == f"background {task.pid}\n"
    assert await task.status() == "running"
    await task.delete(kill=True)
    assert log.read_text() == "out\nready\n"


async def test_detached_without_a_log(client: Client, cli: CLI) -> None:
    done = await cli("run", "-d", BUSYBOX, "silent", "sh", "-c", "yes | head -c 10000000; exit 4")
    assert done.returncode == 0, done.stderr
    task = await (await client.container("silent")).task()
    assert (await task.wait(timeout=60)).code == 4
    await task.delete()


async def test_signals_are_passed_on(client: Client, cli: CLI) -> None:
    names = ("INT", "HUP", "QUIT", "USR1", "USR2")
    traps = " ".join(f"trap 'echo got {name}' {name};" for name in names)
    async with cli.start(
        "run", "--rm", BUSYBOX, "sig", "sh", "-c", f"{traps} trap 'exit 9' TERM; {READY}"
    ) as run:
        assert await run.line() == "ready"
        for name in names:
            run.send(getattr(signal, f"SIG{name}"))
            assert await run.line() == f"got {name}"
        run.send(signal.SIGTERM)
        assert await run.wait() == 9
    assert await _is_gone(client, "sig")


async def test_output_waits_for_a_slow_reader(cli: CLI) -> None:
    """Who reads our output takes as long as it likes: the container has ended long before."""
    async with cli.start("run", "--rm", BUSYBOX, "slow", "sh", "-c", "seq 100000; echo done >&2") as run:
        await run.error_line("done")
        output = await run.rest()
        assert output.split() == [str(number) for number in range(1, 100_001)]
        assert await run.wait() == 0


# -- terminal -----------------------------------------------------------------------------------------------------


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A pseudo terminal of 100 by 30."""
    opened = Terminal()
    opened.resize(100, 30)
    yield opened
    opened.close()


@pytest.mark.shows("seed:containerd.StdioTerminal")
async def test_terminal(client: Client, cli: CLI, terminal: Terminal) -> None:
    before = terminal.attributes
    script = (
        "trap 'exit 5' INT; trap 'stty size' WINCH; tty; "
        # The first size comes just after the start.
        "while [ \"$(stty size)\" != '30 100' ]; do usleep 10000; done; stty size; "
        "read line; echo got $line; while :; do usleep 10000; done"
    )
    async with terminal.run(*cli.argv("run", "--rm", "-t", BUSYBOX, "tty", "sh", "-c", script)) as process:
        await terminal.read_until(b"/dev/pts/0\r\n")
        await terminal.read_until(b"30 100\r\n")
        assert terminal.raw
        terminal.keys(b"hello\r")
        await terminal.read_until(b"got hello\r\n")
        terminal.resize(120, 40)
        await terminal.read_until(b"40 120\r\n")
        terminal.keys(b"\x03")  # Ctrl-C goes through ours to the one in the container
        with anyio.fail_after(60):
            assert await process.wait() == 5
    assert terminal.attributes == before
    assert await _is_gone(client, "tty")


async def test_terminal_is_restored_when_it_is_terminated(cli: CLI, terminal: Terminal) -> None:
    before = terminal.attributes
    script = f"trap 'exit 6' TERM; {READY}"
    async with terminal.run(*cli.argv("run", "--rm", "-t", BUSYBOX, "tty", "sh", "-c", script)) as process:
        await terminal.read_until(b"ready\r\n")
        assert terminal.raw
        process.send_signal(signal.SIGTERM)
        with anyio.fail_after(60):
            assert await process.wait() == 6
    assert terminal.attributes == before


# -- the daemon comes and goes ------------------------------------------------------------------------------------


@pytest.fixture
async def own_daemon(private_daemon: Callable[..., Daemon], busybox_archive: Path) -> AsyncIterator[Daemon]:
    """A daemon that may be killed, with the image."""
    async with private_daemon() as daemon:
        async with Client(daemon.address) as client:
            await client.import_archive(busybox_archive, unpack=True)
        yield daemon


async def _confirmed(run: Running) -> None:
    assert await run.line() == "ready"
    run.send(signal.SIGUSR1)
    assert await run.line() == "started"


async def test_a_restart_of_the_daemon_changes_nothing(own_daemon: Daemon, tmp_path: Path) -> None:
    mount = f"src={tmp_path},dst=/host"
    cli = CLI(own_daemon.address)
    async with cli.start("run", "--rm", "--mount", mount, BUSYBOX, "survivor", "sh", "-c", STARTED) as run:
        await _confirmed(run)
        await own_daemon.kill()
        await own_daemon.start()
        (tmp_path / "go").touch()
        assert await run.line() == "over"
        assert await run.wait() == 3
    async with Client(own_daemon.address) as client:
        assert await _is_gone(client, "survivor")


async def test_with_the_daemon_away_ctrl_c_twice_leaves(own_daemon: Daemon) -> None:
    async with CLI(own_daemon.address).start("run", BUSYBOX, "left", "sh", "-c", STARTED) as run:
        await _confirmed(run)
        await own_daemon.kill()
        for _ in range(2):
            run.send(signal.SIGINT)
            await run.error_line("SIGINT was not delivered")
        began = time.monotonic()
        await run.error_line("leaving container 'left', which may still be running")
        assert await run.wait() == 130
        assert time.monotonic() - began < 10
    await own_daemon.start()
    async with Client(own_daemon.address) as client:
        task = await (await client.container("left")).task()
        assert await task.status() == "running"
        await task.delete(kill=True)


async def test_no_daemon(tmp_path: Path) -> None:
    done = await CLI(f"{tmp_path}/no.sock")("run", BUSYBOX, "id")
    assert done.returncode == 125
    assert b"there is no such socket" in done.stderr
