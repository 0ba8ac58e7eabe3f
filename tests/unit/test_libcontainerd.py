"""libcontainerd's client and remote on the fake: what may go wrong, orderings, cancellation."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from containerd_aio import (
    AlreadyExists,
    Closed,
    ConnectError,
    ContainerdError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Retry,
)
from containerd_aio import libcontainerd as lc
from containerd_aio.libcontainerd import IOPipe, Process, Remote, Resources, StateInfo
from containerd_aio.testing import FakeContainerd, Fate
from tests.unit.libcontainerd_support import Book, Place, StreamBook, line, nothing_left

pytestmark = pytest.mark.looptime

RUNS = Fate(exit_code=None)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with FakeContainerd(default=RUNS) as fake:
        yield Place(fake.address, "ns", tmp_path / "state", "/rootfs", fake)


@pytest.fixture
def fake(place: Place) -> FakeContainerd:
    assert place.fake is not None
    return place.fake


# --- names ------------------------------------------------------------------------------------------------------------


async def test_the_strings_are_those_of_the_seeds() -> None:
    assert {name: value for name, value in vars(lc.states).items() if name.startswith("STATE_")} == {
        "STATE_START": "start-container",
        "STATE_PAUSE": "pause",
        "STATE_RESUME": "resume",
        "STATE_EXIT": "exit",
        "STATE_RESTART": "restart",
        "STATE_RESTORE": "restore",
        "STATE_START_PROCESS": "start-process",
        "STATE_EXIT_PROCESS": "exit-process",
        "STATE_OOM": "oom",
    }
    assert lc.INIT_FRIENDLY_NAME == "init"


async def test_every_name_of_the_package_can_be_had() -> None:
    assert sorted(lc.__all__, key=str.lower) == sorted(lc._HOME_OF, key=str.lower)
    for name in lc.__all__:
        assert getattr(lc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = lc.nonsense


@pytest.mark.shows(
    "seed:libcontainerd.CoEClassstring",
    "seed:libcontainerd.ErrorNoNetwork",
    "seed:libcontainerd.ErrorBadPathname",
    "seed:libcontainerd.ErrorInvalidObject",
)
@pytest.mark.parametrize(
    ("code", "transient"),
    [
        (lc.CO_E_CLASS_STRING, True),
        (0x800401F3 - (1 << 32), True),
        (lc.ERROR_NO_NETWORK, True),
        (lc.ERROR_BAD_PATHNAME, True),
        (lc.ERROR_INVALID_OBJECT, True),
        (1168, True),
        (2, True),
        (0, False),
        (5, False),
        (OSError(2, "no such file"), True),
        (OSError(13, "denied"), False),
    ],
)
async def test_transient_errors_of_windows(code: Any, transient: bool) -> None:
    assert lc.is_transient_create_error(code) is transient
    assert [int(e) for e in lc.Win32Error][:4] == [0x800401F3, 1222, 161, 0x800710D8]


# --- values -----------------------------------------------------------------------------------------------------------


async def test_a_process_takes_from_the_container_what_it_does_not_say() -> None:
    base: Any = {
        "args": ["init"],
        "cwd": "/here",
        "env": ["A=1"],
        "terminal": True,
        "user": {"uid": 5, "gid": 6},
    }
    assert Process(args=["ls"]).to_oci(base) == base | {"args": ["ls"], "terminal": False}
    full = Process(
        args=["ls"],
        terminal=True,
        env=["B=2"],
        cwd="/there",
        user=lc.User(uid=1, gid=2, additional_gids=[3], username="x"),
        capabilities=[],
    ).to_oci(base)
    assert full == {
        "args": ["ls"],
        "terminal": True,
        "env": ["B=2"],
        "cwd": "/there",
        "user": {"uid": 1, "gid": 2, "additionalGids": [3], "username": "x"},
        "capabilities": {"bounding": [], "effective": [], "permitted": []},
    }
    assert base["args"] == ["init"]
    for args in ([], "ls"):
        with pytest.raises(InvalidArgument, match="at least a program"):
            Process(args=args).to_oci(base)


async def test_resources_say_only_what_is_given() -> None:
    assert Resources().to_oci() == {}
    assert Resources(
        memory_limit=1, memory_swap=-1, cpu_shares=2, cpuset_cpus="0", blkio_weight=10, pids_limit=5
    ).to_oci() == {
        "memory": {"limit": 1, "swap": -1},
        "cpu": {"shares": 2, "cpus": "0"},
        "blockIO": {"weight": 10},
        "pids": {"limit": 5},
    }


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("2.1.9", (2, 1, 9)),
        ("v1.7.24~ds1", (1, 7, 24)),
        ("1.6.20~ds1-1+b1", (1, 6, 20)),
        ("unknown", (0, 0, 0)),
    ],
)
async def test_versions_are_split(text: str, parts: tuple[int, ...]) -> None:
    version = lc.ServerVersion.parse(text, "abc")
    assert (version.version, version.revision) == (text, "abc")
    assert (version.major, version.minor, version.patch) == parts


# --- the remote -------------------------------------------------------------------------------------------------------


async def test_a_containerd_that_is_not_there_is_told_with_cause_and_cure(tmp_path: Path) -> None:
    remote = Remote(tmp_path, lc.with_remote_addr(str(tmp_path / "none.sock")))
    with pytest.raises(ConnectError, match=r"none\.sock.*no such socket.*is containerd running"):
        async with remote:
            pass


async def test_options_are_checked_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="from -1000 to 1000"):
        lc.with_oom_score(1001)
    with pytest.raises(InvalidArgument, match="--root=DIR"):
        lc.with_runtime_args(["--debug"])
    with pytest.raises(InvalidArgument, match="not supported for this remote"):
        lc.with_live_restore(True).apply("another remote")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="namespace"):
        Remote(tmp_path, namespace="a/b")
    with pytest.raises(InvalidArgument, match="no command line options"):
        Remote(tmp_path, lc.with_runtime_path("io.containerd.kata.v2"), lc.with_runtime_args(["--root=/x"]))


async def test_options_end_up_in_the_settings(tmp_path: Path) -> None:
    settings = lc.RemoteSettings()
    for option in (
        lc.with_remote_addr("/run/x.sock"),
        lc.with_remote_addr_user(1, 2),
        lc.with_start_daemon(),
        lc.with_live_restore(True),
        lc.with_debug_log(),
        lc.with_oom_score(-999),
        lc.with_debug_address("/run/debug.sock"),
        lc.with_metrics_address("127.0.0.1:1338"),
        lc.with_snapshotter("native"),
        lc.with_plugin("io.containerd.gc.v1.scheduler", {"startup_delay": "1s"}),
        lc.with_daemon_options(binary="/bin/true"),
        lc.with_runtime_path("crun"),
        lc.with_runtime_args(["--systemd-cgroup"]),
    ):
        option.apply(settings)
    assert settings.address == "/run/x.sock"
    assert (settings.start_daemon, settings.live_restore) == (True, True)
    assert (settings.log_level, settings.oom_score) == ("debug", -999)
    assert settings.daemon == {"binary": "/bin/true"}
    assert (settings.runtime_path, settings.runtime_args) == ("crun", ("--systemd-cgroup",))
    assert settings.config["grpc"] == {"uid": 1, "gid": 2}
    assert settings.config["debug"] == {"address": "/run/debug.sock"}
    assert set(settings.config["plugins"]) == {
        "io.containerd.gc.v1.scheduler",
        "io.containerd.transfer.v1.local",
    }
    lc.with_log_level("warn").apply(settings)
    assert settings.log_level == "warn"


async def test_a_remote_is_used_while_it_is_open(place: Place) -> None:
    remote = Remote(place.state_dir, lc.with_remote_addr(place.address))
    with pytest.raises(Closed):
        await remote.client(place.book)
    async with remote:
        for options in ({"callback_timeout": 0}, {"confirm_timeout": -1}):
            with pytest.raises(InvalidArgument, match="more than 0"):
                await remote.client(place.book, **options)
        with pytest.raises(InvalidArgument, match="state_changed"):
            await remote.client(object())  # type: ignore[arg-type]
        await remote.cleanup()  # nothing was started, nothing is stopped
        assert (await (await remote.client(place.book)).get_server_version()).major == 2
    with pytest.raises(Closed):
        await remote.client(place.book)
    with pytest.raises(Closed, match="already"):
        await remote.__aenter__()


async def test_each_client_is_told_of_its_own_containers(place: Place) -> None:
    other = Book()
    async with place.remote() as remote:
        first, second = await remote.client(place.book), await remote.client(other)
        await first.create("a", place.spec("a"))
        await second.create("b", place.spec("b"))
        await first.signal("b", 9)  # by id, whoever's it is
        await second.signal("a", 9)
        await place.book.until("a", "exit")
        await other.until("b", "exit")
    assert [name for name, _ in place.book.told] == ["a", "a"]
    assert [name for name, _ in other.told] == ["b", "b"]


async def test_E38_the_marker_is_written_after_the_callback_and_is_for_people_only(place: Place) -> None:
    marker = place.state_dir / "event.ts"
    at_callback: list[bool] = []

    class Looks(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            at_callback.append(marker.exists())
            await super().state_changed(container_id, state)

    before = datetime.now(UTC)
    async with place.remote() as remote:
        assert remote.last_event is None
        client = await remote.client(Looks())
        await client.create("a", place.spec("a", "sleep 1000"))
    assert at_callback == [False]
    assert before <= datetime.fromisoformat(marker.read_text().strip()) <= datetime.now(UTC)
    assert sorted(path.name for path in place.state_dir.iterdir()) == ["event.ts"]  # no half-written file
    marker.write_text("nonsense")
    async with place.remote() as remote:
        assert remote.last_event is None
        client = await remote.client(place.book)
        await client.restore("a")
    assert place.book.of("a") == ["restore"]
    marker.unlink()
    marker.mkdir()  # can't be written
    with capture_logs() as logs:
        async with place.open() as client:
            await client.restore("a")
            await client.signal("a", 9)
            await place.book.until("a", "exit")
    assert any("marker" in entry["event"] for entry in logs)
    async with place.remote() as remote:
        assert remote.last_event is None


# --- create -----------------------------------------------------------------------------------------------------------


async def test_E28_a_start_that_the_backend_refuses_leaves_nothing_running(
    place: Place, fake: FakeContainerd
) -> None:
    class Refuses(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            raise OSError("no room")

    book = Refuses()
    async with place.open(book) as client:
        with capture_logs(), pytest.raises(OSError, match="no room"):
            await client.create("a", place.spec("a"))
        assert client.containers == []
        assert fake.tasks == []
    assert book.of("a") == ["start-container"]
    await nothing_left(place)


@pytest.mark.parametrize("method", ["Containers/Create", "Tasks/Create", "Tasks/Start"])
async def test_a_create_that_fails_leaves_nothing(place: Place, fake: FakeContainerd, method: str) -> None:
    book = StreamBook()
    async with place.open(book) as client:
        with fake.fail(method, "UNKNOWN", "no"), pytest.raises(ContainerdError, match="no"):
            await client.create("a", place.spec("a"))
        assert client.containers == []
        for pipes in book.pipes.values():
            for pipe in pipes:  # whoever took them sees the end
                with pytest.raises(anyio.EndOfStream):
                    await pipe.stdout.receive()
                await pipe.aclose()
        assert book.of("a") == []
        await nothing_left(place)
        await client.create("a", place.spec("a"))
        await client.signal("a", 9)
        await book.until("a", "exit")
        for pipe in book.pipes["a"]:
            await pipe.aclose()


@pytest.mark.parametrize("method", ["Containers/Create", "Tasks/Create", "Tasks/Start"])
async def test_a_create_that_is_cancelled_leaves_nothing(
    place: Place, fake: FakeContainerd, method: str
) -> None:
    async with place.open() as client:
        hold = fake.hold(method)
        async with anyio.create_task_group() as group:
            group.start_soon(client.create, "a", place.spec("a"))
            await hold.reached()
            group.cancel_scope.cancel()
            hold.release()
        hold.remove()
        assert client.containers == []
    await nothing_left(place)
    assert place.book.of("a") == []


async def test_a_create_that_is_cancelled_while_the_backend_is_told(place: Place) -> None:
    reached = anyio.Event()

    class Hangs(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            if len(self.told) == 1:
                reached.set()
                await anyio.sleep_forever()

    book = Hangs()
    async with place.open(book) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.create, "a", place.spec("a"))
            await reached.wait()
            group.cancel_scope.cancel()
        assert client.containers == []
        await nothing_left(place)
        await client.create("a", place.spec("a"))
    assert book.of("a") == ["start-container"] * 2


async def test_what_is_active_is_not_created_again(place: Place) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
        for call in (client.create("a", place.spec("a")), client.restore("a")):
            with pytest.raises(AlreadyExists, match="already active"):
                await call
        with pytest.raises(InvalidArgument, match="container id"):
            await client.create("a/b", place.spec("a"))


async def test_what_waits_for_its_restart_is_active(place: Place) -> None:
    place.script("a", Fate(exit_code=1))
    async with place.open() as client:
        manager = lc.RestartManager("always")
        await client.create("a", place.spec("a"), lc.with_restart_manager(manager))
        await place.book.until("a", "restart", 5)
        with pytest.raises(AlreadyExists, match="already active"):
            await client.restore("a")
        await place.book.until("a", "start-container", 6)


async def test_remains_are_replaced_but_not_what_runs(place: Place) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
    async with place.open() as client:
        with pytest.raises(AlreadyExists, match="runs in containerd"):
            await client.create("a", place.spec("a"))
        await client.signal("a", 9)
        place.script("a", Fate(exit_code=2))
        await client.create("a", place.spec("a"))
        await place.book.until("a", "exit")
    assert place.book.of("a") == ["start-container", "start-container", "exit 2"]
    await nothing_left(place)


async def test_an_option_that_fails_is_logged_and_left_out(place: Place) -> None:
    class Broken:
        def apply(self, parameters: Any) -> None:
            raise RuntimeError("broken")

    async with place.open() as client:
        with capture_logs() as logs:
            await client.create("a", place.spec("a"), Broken(), lc.with_runtime("crun", ["--root=/run/crun"]))
        assert client.containers == ["a"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["create option failed"]


async def test_an_exit_before_the_start_is_answered_is_told_after_it(place: Place) -> None:
    place.script("a", Fate(exit_code=3))  # its exit is published before the reply to the start
    async with place.open() as client:
        for n in range(20):
            await client.create("a", place.spec("a"))
            await place.book.until("a", "exit", n + 1)
    assert place.book.of("a") == ["start-container", "exit 3"] * 20


async def test_create_from_inside_the_callback_of_the_exit(place: Place) -> None:
    class Again(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            if state.state == "exit" and len(self.told) < 8:
                await nothing_but_a_record(place)
                await client.create(container_id, place.spec(container_id))

    async def nothing_but_a_record(place: Place) -> None:
        assert place.fake is not None
        assert place.fake.tasks == []  # the task is gone before the exit is told

    book = Again()
    place.script("a", Fate(exit_code=3))
    async with place.open(book) as client:
        await client.create("a", place.spec("a"))
        await book.until("a", "exit", 4)
    assert book.of("a") == ["start-container", "exit 3"] * 4
    await nothing_left(place)


async def test_inside_the_callback_of_a_start_the_container_is_locked(place: Place) -> None:
    class Eager(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            await client.get_pids_for_container(container_id)
            with pytest.raises(FailedPrecondition, match="until state_changed has returned"):
                await client.pause(container_id)

    book = Eager()
    async with place.open(book) as client:
        await client.create("a", place.spec("a"))
    assert book.of("a") == ["start-container"]


# --- callbacks that fail or hang --------------------------------------------------------------------------------------


async def test_E25_S34_a_backend_that_hangs_is_felt_by_one_container_only(place: Place) -> None:
    class Stuck(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            if (container_id, state.state) == ("stuck", "pause"):
                await anyio.sleep_forever()
            await super().state_changed(container_id, state)

    book = Stuck()
    async with place.open(book, confirm_timeout=3) as client:
        for name in ("stuck", "fine"):
            await client.create(name, place.spec(name))
        began = anyio.current_time()
        with capture_logs() as logs:
            await client.pause("stuck")
        assert anyio.current_time() - began == pytest.approx(3, abs=0.1)
        assert [entry["event"] for entry in logs] == ["backend not told in time"]
        await client.pause("fine")
        await client.resume("fine")
        await client.resume("stuck")  # by containerd's word: the backend is told nothing more
        await client.signal("stuck", 9)
        await client.signal("fine", 9)
        await book.until("fine", "exit")
    assert book.of("fine") == ["start-container", "pause", "resume", "exit 137"]
    assert book.of("stuck") == ["start-container"]


async def test_E25_a_timeout_lets_the_queue_go_on(place: Place) -> None:
    class Stuck(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            if state.state == "pause":
                await anyio.sleep_forever()
            await super().state_changed(container_id, state)

    book, failures = Stuck(), []
    async with place.open(book, callback_timeout=2, on_error=failures.append) as client:
        await client.create("a", place.spec("a"))
        began = anyio.current_time()
        await client.pause("a")
        assert anyio.current_time() - began == pytest.approx(2, abs=0.1)
        await client.resume("a")
        await client.signal("a", 9)
        await book.until("a", "exit")
    assert book.of("a") == ["start-container", "resume", "exit 137"]
    assert [(f.key, line(f.item.state), f.retry_in) for f in failures] == [("a", "pause", None)]
    assert "had not returned after 2 s" in str(failures[0].error)


async def test_E26_what_raises_is_told_to_a_hook_and_waiters_are_released(place: Place) -> None:
    class Raises(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            if state.state != "start-container":
                raise RuntimeError(state.state)

    book, failures = Raises(), []
    async with place.open(book, on_error=failures.append) as client:
        await client.create("a", place.spec("a"))
        with anyio.fail_after(1):
            await client.pause("a")
            await client.resume("a")
        await client.signal("a", 9)
        await book.until("a", "exit")
    assert book.of("a") == ["start-container", "pause", "resume", "exit 137"]
    assert [str(f.error) for f in failures] == ["pause", "resume", "exit"]
    await nothing_left(place)


async def test_E26_retries_keep_the_order_and_the_exit_is_settled_once(
    place: Place, fake: FakeContainerd
) -> None:
    class Unreliable(Book):
        def __init__(self) -> None:
            super().__init__()
            self.attempts: list[str] = []

        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            self.attempts.append(state.state)
            if self.attempts.count(state.state) < 3:
                raise OSError("away")
            await super().state_changed(container_id, state)

    book = Unreliable()
    retry = Retry(initial=0.1, maximum=1)
    async with place.open(book, retry=retry, on_error=lambda _: None) as client:
        await client.create("a", place.spec("a"))  # the start, too, is told until it is taken
        await client.pause("a")
        await client.resume("a")
        await client.signal("a", 9)
        await book.until("a", "exit")
    assert book.of("a") == ["start-container", "pause", "resume", "exit 137"]
    assert book.attempts == [s for s in ("start-container", "pause", "resume", "exit") for _ in range(3)]
    assert len([c for c in fake.calls if c.method.endswith("Tasks/Delete")]) == 1


# --- pause and resume -------------------------------------------------------------------------------------------------


async def test_E33_S45_pause_returns_though_its_event_is_lost(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
        with fake.swallow_events('topic=="/tasks/paused"', 'topic=="/tasks/resumed"'):
            with anyio.fail_after(5):
                await client.pause("a")
                await client.resume("a")
    assert place.book.of("a") == ["start-container", "pause", "resume"]


async def test_E33_pause_returns_when_the_container_ends_meanwhile(
    place: Place, fake: FakeContainerd
) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
        with fake.swallow_events('topic=="/tasks/paused"'), fake.hold("Tasks/Get") as hold:
            async with anyio.create_task_group() as group:
                group.start_soon(client.pause, "a")
                await hold.reached()
                fake.resume("a")
                fake.exit("a", 5)
                hold.release()
                with anyio.fail_after(1):
                    await place.book.until("a", "exit")
    assert place.book.of("a") == ["start-container", "exit 5"]


async def test_pause_by_the_callback_of_another_change_does_not_wait_for_itself(place: Place) -> None:
    class Freezes(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            await super().state_changed(container_id, state)
            if state.state == "oom":
                with anyio.fail_after(1):
                    await client.pause(container_id)

    book = Freezes()
    async with place.open(book) as client:
        await client.create("a", place.spec("a"))
        assert place.fake is not None
        place.fake.oom("a")
        await book.until("a", "pause")
    assert book.of("a") == ["start-container", "oom", "pause"]


async def test_what_others_do_is_told_too(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
        fake.pause("a")
        fake.resume("a")
        fake.oom("a")
        fake.oom("a")
        fake.exit("a", 0)
        await place.book.until("a", "exit")
    assert place.book.of("a") == ["start-container", "pause", "resume", "oom", "oom", "exit 0 oom"]


async def test_E22_an_oom_report_after_the_exit_is_told(place: Place) -> None:
    place.script("a", Fate(exit_code=7, oom_event="after-exit", oom=True))
    async with place.open() as client:
        with capture_logs():
            await client.create("a", place.spec("a"))
        await place.book.until("a", "oom", 2)
    # Once by the counter of its cgroup, and once by the report that came late.
    assert place.book.of("a") == ["start-container", "oom", "exit 137 oom", "oom"]


# --- processes and streams --------------------------------------------------------------------------------------------


async def test_unknown_containers_are_refused_where_they_must_be_known(place: Place) -> None:
    async with place.open() as client:
        for call in (
            client.pause("x"),
            client.resume("x"),
            client.resize("x", "init", 1, 1),
            client.add_process("x", "e", Process(args=["true"])),
            client.update_resources("x", Resources()),
            client.create_checkpoint("x", "cp"),
        ):
            with pytest.raises(NotFound, match="invalid container"):
                await call
        for other in (client.signal("x", 9), client.stats("x"), client.get_pids_for_container("x")):
            with pytest.raises(NotFound):
                await other
        assert await client.summary("x") == []
        with pytest.raises(InvalidArgument, match="no signal"):
            await client.signal("x", "SIGNONSENSE")


async def test_processes_by_name(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a", "sleep 5"))
        pid = await client.add_process("a", "e", Process(args=["sleep", "6"]))
        assert [(s.pid, s.command) for s in await client.summary("a")] == [
            (fake.task("a").pid, "sh -c sleep 5"),
            (pid, "sleep 6"),
        ]
        for name in ("e", "init"):
            with pytest.raises(AlreadyExists, match="has a process"):
                await client.add_process("a", name, Process(args=["true"]))
        with pytest.raises(InvalidArgument, match="process name"):
            await client.add_process("a", "e/f", Process(args=["true"]))
        await client.resize("a", "init", 0, 20)  # ignored
        await client.resize("a", "init", 80, 20)
        await client.resize("a", "e", 80, 20)
        assert len([c for c in fake.calls if c.method.endswith("ResizePty")]) == 2


async def test_execs_of_an_earlier_life_of_ours_are_told_and_removed(
    place: Place, fake: FakeContainerd
) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
        await client.add_process("a", "e", Process(args=["sleep", "1000"]))
    async with place.open() as client:
        await client.restore("a")
        await client.signal_process("a", "e", 9)
        await place.book.until("a", "exit-process")
        await client.add_process("a", "e", Process(args=["sleep", "1000"]))
    assert place.book.of("a") == ["start-container", "restore", "exit-process e 137"]


async def test_an_exec_whose_start_is_cancelled_is_removed(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
        hold = fake.hold("Tasks/Start")
        async with anyio.create_task_group() as group:
            group.start_soon(client.add_process, "a", "e", Process(args=["sleep", "9"]))
            await hold.reached()
            group.cancel_scope.cancel()
            hold.release()
        hold.remove()
        assert [s.command for s in await client.summary("a")] == ["sh -c sleep 1000"]
        await client.add_process("a", "e", Process(args=["sleep", "9"]))


async def test_streams_go_to_the_backend_or_to_the_callback(place: Place) -> None:
    book, taken = StreamBook(), []

    async def take(pipe: IOPipe) -> None:
        taken.append(pipe)

    place.script("a", Fate(exit_code=None, stdout=b"out", stderr=b"err"))
    place.script("a", Fate(exit_code=0, stdout=b"exec"), "e")
    place.script("a", Fate(exit_code=0, stdout=b"mine"), "f")
    async with place.open(book) as client:
        await client.create("a", place.spec("a"))
        await client.add_process("a", "e", Process(args=["x"], terminal=True))
        await client.add_process("a", "f", Process(args=["x"]), attach_stdio=take)
        await book.until("a", "exit-process", 2)
        assert list(book.pipes) == ["a", "e"]
        [init], [terminal], [mine] = book.pipes["a"], book.pipes["e"], taken
        assert (init.terminal, terminal.terminal, mine.terminal) == (False, True, False)
        assert await init.stdout.receive() == b"out"
        assert await init.stderr.receive() == b"err"
        assert await terminal.stdout.receive() == b"exec"
        assert await mine.stdout.receive() == b"mine"  # after its exit was told: what was written is not lost
        for stream in (terminal.stdout, terminal.stderr, mine.stdout, mine.stderr):
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
        await client.signal("a", 9)
        await book.until("a", "exit")
        with pytest.raises(anyio.EndOfStream):
            await init.stdout.receive()
        for pipe in (init, terminal, mine):
            await pipe.aclose()
            await pipe.aclose()


async def test_streams_that_are_not_taken_are_closed(place: Place) -> None:
    taken: list[IOPipe] = []

    async def refuse(pipe: IOPipe) -> None:
        taken.append(pipe)
        raise RuntimeError("no hands free")

    async with place.open() as client:
        with pytest.raises(RuntimeError, match="no hands free"):
            await client.create("a", place.spec("a"), attach_stdio=refuse)
        await nothing_left(place)
        assert place.book.of("a") == []  # it was never started
        await client.create("a", place.spec("a"))
        with pytest.raises(RuntimeError, match="no hands free"):
            await client.add_process("a", "e", Process(args=["sleep", "9"]), attach_stdio=refuse)
        assert len(await client.summary("a")) == 2  # it goes on
    for pipe in taken:
        with pytest.raises(anyio.ClosedResourceError):
            await pipe.stdout.receive()
        with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
            await pipe.stdin.send(b"x")


# --- restore ----------------------------------------------------------------------------------------------------------


async def test_E37_an_exit_during_restore_is_told_after_it(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))

    class Slow(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            if state.state == "restore":
                fake.pause("a")
                fake.resume("a")
                fake.exit("a", 6)
                await anyio.sleep(5)
            await super().state_changed(container_id, state)

    book = Slow()
    async with place.open(book) as client:
        await client.restore("a")
        await book.until("a", "exit")
    assert book.of("a") == ["restore", "pause", "resume", "exit 6"]


@pytest.mark.parametrize("method", ["Containers/Get", "Tasks/Get"])
async def test_E37_an_exit_while_restore_asks_is_told_once(
    place: Place, fake: FakeContainerd, method: str
) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
    async with place.open() as client:
        with fake.hold(method, times=1) as hold:
            async with anyio.create_task_group() as group:
                group.start_soon(client.restore, "a")
                await hold.reached()
                fake.exit("a", 6)
                hold.release()
        await place.book.until("a", "exit")
    assert place.book.of("a") in (["start-container", "restore", "exit 6"], ["start-container", "exit 6"])
    await nothing_left(place)


async def test_E37_without_live_restore_first_term_then_kill_then_unknown(
    place: Place, fake: FakeContainerd
) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
    async with place.remote(live_restore=False) as remote:
        client = await remote.client(place.book)
        began = anyio.current_time()
        await client.restore("a")
        assert anyio.current_time() - began == pytest.approx(10, abs=0.1)
    assert len([c for c in fake.calls if c.method.endswith("Tasks/Kill")]) == 2
    assert place.book.of("a") == ["start-container", "exit 137"]

    async with place.open() as client:
        await client.create("b", place.spec("b"))
    with fake.fail("Tasks/Kill", "UNKNOWN", "stuck in the kernel", times=None):
        async with place.remote(live_restore=False) as remote:
            client = await remote.client(place.book)
            began = anyio.current_time()
            with capture_logs():
                await client.restore("b")
            assert anyio.current_time() - began == pytest.approx(12, abs=0.1)
    assert place.book.of("b") == ["start-container", "exit 255 unknown"]


async def test_E37_live_restore_can_be_switched(place: Place) -> None:
    place.script("a", Fate(exit_code=None, traps={15: 0}))
    async with place.open() as client:
        await client.create("a", place.spec("a"))
    async with place.remote(live_restore=False) as remote:
        client = await remote.client(place.book)
        remote.update_options(lc.with_live_restore(True), lc.with_oom_score(5))
        assert remote.live_restore
        await client.restore("a")
        assert client.containers == ["a"]
    async with place.remote() as remote:
        remote.update_options(lc.with_live_restore(False))
        client = await remote.client(place.book)
        await client.restore("a")
    assert place.book.of("a") == ["start-container", "restore", "exit 0"]


async def test_E37_an_exit_that_was_being_told_when_we_were_killed_is_told_again(
    place: Place, fake: FakeContainerd
) -> None:
    class Hangs(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            if state.state == "exit":
                reached.set()
                await anyio.sleep_forever()
            await super().state_changed(container_id, state)

    reached = anyio.Event()
    async with place.open(Hangs()) as client:
        await client.create("a", place.spec("a"))
        fake.exit("a", 44)
        await reached.wait()
        assert fake.tasks == []  # containerd does not know any more
    written = place.state_dir / "containers" / "a" / "exit.json"
    assert json.loads(written.read_text())["exit_code"] == 44
    assert stat.S_IMODE(written.parent.stat().st_mode) == 0o700
    async with place.open() as client:
        await client.restore("a")
    assert place.book.of("a") == ["exit 44"]
    await nothing_left(place)
    assert not written.parent.exists()
    async with place.open() as client:
        await client.restore("a")
    assert place.book.of("a") == ["exit 44", "exit 255 unknown"]


async def test_E37_a_container_that_was_never_started_is_removed(place: Place) -> None:
    from containerd_aio import Client as Containerd

    async with Containerd(place.address, namespace=place.namespace) as containerd:
        await (await containerd.new_container("a", spec=place.spec("a"))).new_task()
    async with place.open() as client:
        await client.restore("a")
    assert place.book.of("a") == ["exit 255 unknown"]
    await nothing_left(place)


async def test_E37_a_backend_that_refuses_a_restore_does_not_know_the_container(place: Place) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))

    class Refuses(Book):
        async def state_changed(self, container_id: str, state: StateInfo) -> None:
            raise RuntimeError("no")

    async with place.open(Refuses()) as client:
        with capture_logs() as logs:
            await client.restore("a")
        assert client.containers == []
    assert any("let go" in entry["event"] for entry in logs)
    async with place.open() as client:
        await client.restore("a")
        assert client.containers == ["a"]


async def test_E37_a_daemon_that_cannot_be_asked_restores_nothing(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        await client.create("a", place.spec("a"))
    async with place.open() as client:
        with fake.fail("Containers/Get", "UNAVAILABLE", "not now"), pytest.raises(ContainerdError):
            await client.restore("a")
        assert client.containers == []
        await client.restore("a")
    assert place.book.of("a") == ["start-container", "restore"]


async def test_E37_streams_of_a_restored_container_are_attached_again(place: Place) -> None:
    taken: list[IOPipe] = []

    async def take(pipe: IOPipe) -> None:
        taken.append(pipe)

    async def program(process: Any) -> int:
        await process.write(b"one")
        await gate.wait()
        await process.write(b"two")
        return 0

    gate = anyio.Event()
    place.script("a", program)  # type: ignore[arg-type]
    async with place.open() as client:
        await client.create("a", place.spec("a"), attach_stdio=take)
        assert await taken[0].stdout.receive() == b"one"
        await taken[0].aclose()
    async with place.open() as client:
        await client.restore("a", attach_stdio=take)
        gate.set()
        assert await taken[1].stdout.receive() == b"two"
        await place.book.until("a", "exit")
        await taken[1].aclose()
    assert place.book.of("a") == ["start-container", "restore", "exit 0"]


# --- containerd comes and goes ----------------------------------------------------------------------------------------


async def test_E11_a_restart_of_containerd_is_no_change(place: Place, fake: FakeContainerd) -> None:
    async with place.open() as client:
        for name in ("runs", "paused"):
            await client.create(name, place.spec(name))
        await client.add_process("runs", "e", Process(args=["sleep", "1000"]))
        await client.pause("paused")
        await fake.restart()
        await anyio.sleep(10)
        await client.resume("paused")
        for name in ("runs", "paused"):
            await client.signal(name, 9)
            await place.book.until(name, "exit")
    assert place.book.of("runs") == ["start-container", "exit-process e 137", "exit 137"]
    assert place.book.of("paused") == ["start-container", "pause", "resume", "exit 137"]
    await nothing_left(place)


async def test_calls_of_one_container_wait_for_each_other_and_others_do_not(
    place: Place, fake: FakeContainerd
) -> None:
    async with place.open() as client:
        for name in ("a", "b"):
            await client.create(name, place.spec(name))
        hold = fake.hold("Tasks/Pause", times=1)
        done: list[str] = []

        async def run(name: str, call: Any) -> None:
            await call
            done.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(run, "pause a", client.pause("a"))
            await hold.reached()
            group.start_soon(run, "signal a", client.signal("a", "USR1"))
            await run("signal b", client.signal("b", "USR1"))
            await anyio.sleep(1)
            assert done == ["signal b"]
            hold.release()
        assert set(done) == {"signal b", "pause a", "signal a"}
        assert len(client._keeper.locks) == 0
