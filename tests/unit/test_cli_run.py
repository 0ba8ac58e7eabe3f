"""``run``: its options, and what its failures mean."""

from __future__ import annotations

import signal

import anyio
import pytest

from containerd_aio.cli import run_signals
from containerd_aio.cli.run_request import RunRequest, failure_code, parse_label, parse_mount, parse_size
from containerd_aio.cli.run_signals import SignalForwarder
from containerd_aio.cli.settings import respected
from containerd_aio.errors import InvalidArgument, NotFound, Unavailable


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("20m", 20 << 20),
        ("20MiB", 20 << 20),
        ("1g", 1 << 30),
        ("3Kb", 3072),
        (" 2t ", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "m", "1.5g", "-1", "20x", "20 mm"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a size"):
        parse_size(text)


def test_labels() -> None:
    assert parse_label("a=b=c") == ("a", "b=c")
    assert parse_label("a=") == ("a", "")
    for text in ("a", "=b", ""):
        with pytest.raises(InvalidArgument):
            parse_label(text)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        (
            "type=bind,src=/a,dst=/b,options=rbind:ro",
            {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind", "ro"]},
        ),
        (
            "src=/a,target=/b",
            {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind"]},
        ),
        (
            "source=/a,destination=/b,options=ro",
            {"type": "bind", "source": "/a", "destination": "/b", "options": ["rbind", "ro"]},
        ),
        (
            "type=tmpfs,dst=/t,options=size=64k",
            {"type": "tmpfs", "source": "tmpfs", "destination": "/t", "options": ["size=64k"]},
        ),
    ],
)
def test_mounts(text: str, mount: dict[str, object]) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("src=/a,dest=/b", "'dest=/b' is not understood"),
        ("/a:/b", "is not understood"),
        ("", "is not understood"),
        ("src=/a", "has no destination"),
        ("dst=/b", "has no source"),
    ],
)
def test_no_mounts(text: str, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        parse_mount(text)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ('exec: "nosuch": executable file not found in $PATH: unknown', 127),
        ('exec: "/nosuch": stat /nosuch: no such file or directory: unknown', 127),
        ('exec: "/etc/passwd": permission denied: unknown', 126),
        ("exec /data: is a directory", 126),
        ("exec /script: exec format error", 126),
        ('error mounting "/gone" to rootfs at "/x": stat /gone: no such file or directory', 125),
        ("OCI runtime create failed: something else", 125),
    ],
)
def test_codes_of_containers_that_did_not_start(error: str, code: int) -> None:
    assert failure_code(error) == code


def test_options_become_changes_of_the_spec() -> None:
    request = RunRequest(image="i", id="c")
    assert request.spec_opts() == []
    request = RunRequest(
        image="i",
        id="c",
        env=["A=1"],
        mounts=[parse_mount("src=/a,dst=/b")],
        cwd="/",
        tty=True,
        memory_limit=1 << 20,
    )
    assert len(request.spec_opts()) == 5


def test_detached_has_no_streams() -> None:
    config = RunRequest(image="i", id="c", detach=True).io()
    assert not config.terminal


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert respected(signal.SIGHUP, signal.SIGTERM) == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


# -- signals ------------------------------------------------------------------------------------------------------


class _Process:
    """Stands for a task: takes signals, or fails to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.received: list[int] = []
        self.changed = anyio.Event()

    async def kill(self, signum: int) -> None:
        self.received.append(signum)
        self.changed.set()
        self.changed = anyio.Event()
        if self.failure is not None:
            raise self.failure

    async def got(self, count: int) -> None:
        while len(self.received) < count:
            await self.changed.wait()


async def test_signals_before_the_start_end_the_preparations() -> None:
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            forwarder = SignalForwarder(scope)
            await group.start(forwarder.run)
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)
            await anyio.sleep_forever()
        group.cancel_scope.cancel()
    assert scope.cancelled_caught
    assert forwarder.ended_by == signal.SIGTERM


async def test_signals_are_passed_on_in_order() -> None:
    process = _Process()
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            forwarder = SignalForwarder(scope)
            forwarder.process = process  # type: ignore[assignment]
            forwarder.started.set()
            await group.start(forwarder.run)
            wanted = [
                signal.SIGINT,
                signal.SIGUSR1,
                signal.SIGUSR2,
                signal.SIGHUP,
                signal.SIGQUIT,
                signal.SIGTERM,
            ]
            for count, signum in enumerate(wanted, 1):
                signal.raise_signal(signum)
                await process.got(count)
        group.cancel_scope.cancel()
    assert process.received == wanted
    assert forwarder.ended_by is None


async def test_signals_wait_for_the_start() -> None:
    process = _Process()
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            forwarder = SignalForwarder(scope)
            forwarder.process = process  # type: ignore[assignment]
            await group.start(forwarder.run)
            signal.raise_signal(signal.SIGTERM)
            await anyio.wait_all_tasks_blocked()
            assert process.received == []
            forwarder.started.set()
            await process.got(1)
        group.cancel_scope.cancel()
    assert forwarder.ended_by is None


async def test_signals_that_do_not_arrive(capsys: pytest.CaptureFixture[str]) -> None:
    process = _Process(Unavailable("the daemon is away"))
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            forwarder = SignalForwarder(scope)
            forwarder.process = process  # type: ignore[assignment]
            forwarder.started.set()
            await group.start(forwarder.run)
            for count, signum in enumerate((signal.SIGUSR1, signal.SIGINT, signal.SIGINT), 1):
                assert forwarder.ended_by is None
                signal.raise_signal(signum)
                await process.got(count)
            await anyio.sleep_forever()
        group.cancel_scope.cancel()
    assert forwarder.ended_by == signal.SIGINT
    assert capsys.readouterr().err.splitlines() == [
        "containerd-aio: SIGUSR1 was not delivered: the daemon is away",
        "containerd-aio: SIGINT was not delivered: the daemon is away",
        "containerd-aio: SIGINT was not delivered: the daemon is away",
    ]


async def test_a_daemon_that_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(_Process):
        async def kill(self, signum: int) -> None:
            await super().kill(signum)
            await anyio.sleep_forever()

    monkeypatch.setattr(run_signals, "_DELIVERY_TIMEOUT", 0.01)
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            forwarder = SignalForwarder(scope)
            forwarder.process = Silent()  # type: ignore[assignment]
            forwarder.started.set()
            await group.start(forwarder.run)
            signal.raise_signal(signal.SIGTERM)
            await forwarder.process.got(1)  # type: ignore[union-attr]
            signal.raise_signal(signal.SIGTERM)
            await anyio.sleep_forever()
        group.cancel_scope.cancel()
    assert forwarder.ended_by == signal.SIGTERM
    assert "SIGTERM was not delivered: containerd does not answer" in capsys.readouterr().err


async def test_a_process_that_has_ended_needs_no_signal(capsys: pytest.CaptureFixture[str]) -> None:
    process = _Process(NotFound("process already finished"))
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            forwarder = SignalForwarder(scope)
            forwarder.process = process  # type: ignore[assignment]
            forwarder.started.set()
            await group.start(forwarder.run)
            for count in (1, 2, 3):
                signal.raise_signal(signal.SIGTERM)
                await process.got(count)
        group.cancel_scope.cancel()
    assert forwarder.ended_by is None
    assert capsys.readouterr().err == ""
