"""The parts of `Daemon` that need neither root nor a daemon."""

import errno
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import anyio
import pytest
import structlog
from structlog.testing import capture_logs

from containerd_aio._daemon import cleanup, paths
from containerd_aio._daemon.cleanup import Layout
from containerd_aio._daemon.config import generate
from containerd_aio._daemon.logs import Follower, blame, emit, parse
from containerd_aio._daemon.paths import directories, executable, socket_path, write_private
from containerd_aio._daemon.process import Guardian
from containerd_aio.daemon import Daemon
from containerd_aio.errors import Closed, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

PLACES = {"root": "/var/lib/x", "state": "/run/x", "address": "/run/x/containerd.sock"}


@pytest.fixture
def executable_file(tmp_path):
    path = tmp_path / "bin" / "containerd"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    return path


# -- configuration --------------------------------------------------------------------------------------------


def test_the_configuration_is_toml_with_everything_inside_the_directories():
    config = tomllib.loads(generate(**PLACES))
    assert config["version"] == 2
    assert (config["root"], config["state"], config["temp"]) == ("/var/lib/x", "/run/x", "/var/lib/x/tmp")
    assert config["grpc"] == {"address": "/run/x/containerd.sock"}
    assert config["plugins"]["io.containerd.internal.v1.opt"] == {"path": "/var/lib/x/opt"}


def test_cri_is_off_in_the_names_of_both_major_versions_and_on_when_wanted():
    off = tomllib.loads(generate(**PLACES))["disabled_plugins"]
    assert {
        "io.containerd.grpc.v1.cri",
        "io.containerd.cri.v1.images",
        "io.containerd.cri.v1.runtime",
    } == set(off)
    assert tomllib.loads(generate(**PLACES, cri=True))["disabled_plugins"] == []


def test_settings_of_the_user_are_merged():
    extra = {
        "oom_score": -5,
        "disabled_plugins": ["a", "io.containerd.grpc.v1.cri"],
        "grpc": {"max_recv_message_size": 1 << 20},
        "plugins": {"io.containerd.internal.v1.opt": {"path": "/elsewhere"}, "x": {"list": [1, {"k": True}]}},
        "debug": {"level": "trace"},
    }
    config = tomllib.loads(generate(**PLACES, config=extra))
    assert config["oom_score"] == -5
    assert config["disabled_plugins"].count("io.containerd.grpc.v1.cri") == 1
    assert config["disabled_plugins"][-1] == "a"
    assert config["grpc"] == {"address": "/run/x/containerd.sock", "max_recv_message_size": 1 << 20}
    assert config["plugins"]["io.containerd.internal.v1.opt"]["path"] == "/elsewhere"
    assert config["plugins"]["x"] == {"list": [1, {"k": True}]}
    assert config["debug"]["level"] == "trace"


@pytest.mark.parametrize("text", ['quote " and \\', "tab\tnewline\n", "\x7f", "snow ☃", "\U0001f4a9", ""])
def test_every_string_survives_toml(text):
    config = tomllib.loads(generate(**PLACES, config={"plugins": {text: {"value": text}}}))
    assert config["plugins"][text] == {"value": text}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"root": "/r"}, r"root.*Daemon\(root="),
        ({"grpc": {"address": "/a"}}, r"grpc.address.*Daemon\(address="),
        ({"plugins": {"p": {"key": object()}}}, "plugins.p.key is a object"),
        ({"oom_score": None}, "oom_score is a NoneType"),
    ],
)
def test_settings_that_cannot_be_are_refused(extra, words):
    with pytest.raises(InvalidArgument, match=words):
        generate(**PLACES, config=extra)


# -- paths ----------------------------------------------------------------------------------------------------


def test_directories_are_new_ones_or_follow_from_the_root(tmp_path):
    assert directories(None, None) != directories(None, None)
    assert directories(tmp_path, None) == directories(str(tmp_path), None)
    assert directories(tmp_path, None)[1].startswith("/run/containerd-aio-")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert directories(tmp_path / "link", "/run/x") == (str(tmp_path / "target"), "/run/x")


def test_directories_that_cannot_be_are_refused():
    with pytest.raises(InvalidArgument, match="both /run/x"):
        directories("/run/x", "/run/x")
    with pytest.raises(InvalidArgument, match="root directory"):
        directories("/", "/run/x")


def test_a_socket_path_that_the_kernel_would_cut_is_refused_before_anything_happens(executable_file):
    with pytest.raises(InvalidArgument, match="has 102 bytes and may have 101"):
        Daemon("/var/lib/x", f"/{'s' * 85}", binary=executable_file)
    assert len(socket_path(None, f"/{'s' * 84}")) == 101
    with pytest.raises(InvalidArgument, match="absolute path"):
        socket_path("tcp://127.0.0.1:1", "/run/x")
    assert socket_path("unix:///run/y.sock", "/run/x") == "/run/y.sock"


def test_the_folder_of_the_binary_comes_before_path(executable_file, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    folder = str(executable_file.parent)
    assert executable(executable_file, ["/opt/criu"]) == (
        str(executable_file),
        f"/opt/criu:{folder}:/usr/bin:/bin",
    )
    monkeypatch.setenv("PATH", folder)
    assert executable(None, []) == (str(executable_file), folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="no containerd on PATH"):
        executable(None, [])
    with pytest.raises(InvalidArgument, match="is not a file"):
        executable(tmp_path, [])
    executable_file.chmod(0o644)
    with pytest.raises(InvalidArgument, match="is not executable"):
        executable(executable_file, [])


def test_files_with_settings_are_private_and_replaced_in_one_step(tmp_path):
    path = tmp_path / "file"
    write_private(str(path), "one")
    write_private(str(path), "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_file_and_what_was_there_stays(tmp_path):
    path = tmp_path / "file"
    write_private(str(path), "one")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3, limit[1]))  # as good as a full disk, to this process alone
    try:
        with pytest.raises(OSError, match="file") as raised:
            write_private(str(path), "twotwo")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (raised.value.errno, raised.value.filename) == (errno.EFBIG, str(path))
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "one"


# -- log ------------------------------------------------------------------------------------------------------


def test_a_log_line_is_taken_apart():
    line = parse(
        r'time="2026-01-01T00:00:00Z" level=warning msg="a \"quoted\" one\t\x01" id=x error="b c" n= ns=k8s.io'
    )
    assert (line.level, line.message) == ("warning", 'a "quoted" one\t\x01')
    assert line.fields == {"time": "2026-01-01T00:00:00Z", "id": "x", "error": "b c", "n": "", "ns": "k8s.io"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("trace", "debug"), ("debug", "debug"), ("info", "info"), ("warning", "warning"), ("error", "error"),
     ("fatal", "critical"), ("panic", "critical"), ("odd", "warning")],
)  # fmt: skip
def test_levels(theirs, ours):
    assert parse(f"level={theirs} msg=m").level == ours


@pytest.mark.parametrize(
    ("text", "level"),
    [("goroutine 1 [running]:", "warning"), ("panic: nil", "error"), ("containerd: no", "error"), ("", "warning"),
     ('level=info msg="unfinished', "warning"), ("msg=x level=", "warning")],
)  # fmt: skip
def test_what_is_no_log_line_is_passed_on_whole(text, level):
    line = parse(text)
    assert line.level == level
    if "level=" not in text or "unfinished" in text:
        assert (line.message, line.fields) == (text, {})


def test_fields_do_not_collide_with_those_of_structlog():
    with capture_logs() as logs:
        emit(parse("time=now level=info msg=m event=e exc_info=x id=1"), structlog.get_logger())
    expected = {"event": "m", "log_level": "info", "id": "1"}
    assert logs == [
        expected | {f"containerd_{k}": v for k, v in (("time", "now"), ("event", "e"), ("exc_info", "x"))}
    ]


def test_the_last_error_is_blamed():
    lines = ["level=error msg=first", 'level=error msg=second error="because of it"', "level=info msg=later"]
    assert blame(lines) == "second: because of it"
    assert blame([*lines, "containerd: plugin failed"]) == "plugin failed"
    assert blame(lines[2:]) == ""


async def test_the_log_is_followed_from_where_it_ends(tmp_path):
    path = tmp_path / "log"
    path.write_text("level=info msg=old\n")
    written = anyio.Event()
    seen: list[str] = []

    def processor(_logger, _method, event):
        seen.append(event["event"])
        if event["event"] == "two":
            written.set()
        if event["event"] == "broken":
            raise RuntimeError
        raise structlog.DropEvent

    logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[processor])
    follower = Follower(str(path), logger)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run)
        with path.open("a") as file, anyio.fail_after(5):
            file.write("level=info msg=broken\nlevel=info msg=one\nlevel=info ms")
            file.flush()
            file.write("g=two\n")
            file.flush()
            await written.wait()
            file.write("level=info msg=last\n")
        tasks.cancel_scope.cancel()
    assert seen == ["broken", "one", "two", "last"]
    assert list(follower.recent)[-1] == "level=info msg=last"


async def test_what_was_read_of_a_long_log_takes_no_space(tmp_path):
    path = tmp_path / "log"
    logger = structlog.wrap_logger(structlog.PrintLogger(), processors=[lambda *_: {}])
    follower = Follower(str(path), logger)
    with path.open("ab") as file:
        file.write((b"x" * 1023 + b"\n") * 8 * 1024)
    await follower.drain()
    assert path.stat().st_size == 8 << 20
    assert path.stat().st_blocks * 512 < 1 << 20
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follower.run)
        tasks.cancel_scope.cancel()


# -- recognising processes ------------------------------------------------------------------------------------

LAYOUT = Layout(
    root="/var/lib/x",
    state="/run/x",
    address="/run/x/c.sock",
    config="/run/x/config.toml",
    binary="/c",
    path="/bin",
)
BUNDLE = "/run/x/io.containerd.runtime.v2.task/ns/id"
SHIM = ["/usr/bin/containerd-shim-runc-v2", "-namespace", "ns", "-id", "id", "-address", "/run/x/c.sock"]


@pytest.mark.parametrize(
    ("argv", "cwd", "ours"),
    [
        (SHIM, BUNDLE, True),
        (SHIM, f"{BUNDLE} (deleted)", True),
        (["/opt/odd-name", *SHIM[1:]], "/", True),
        (["containerd-shim-kata-v2", "-namespace", "ns"], BUNDLE, True),
        ([*SHIM[:-1], "/run/other/c.sock"], "/run/other/io.containerd.runtime.v2.task/ns/id", False),
        ([*SHIM[:-1], "/run/x/c.sock2"], "/run/x2/b", False),
        (["sleep", "1"], BUNDLE, False),
        (["ctr", "-address", "/run/x/c.sock", "tasks", "ls"], "/", False),
        ([], "", False),
    ],
)
def test_shims_are_told_from_other_processes(argv, cwd, ours):
    assert cleanup.is_shim(argv, cwd, LAYOUT) is ours


@pytest.mark.parametrize(
    ("argv", "ours"),
    [
        (["/usr/bin/containerd", "--config", "/run/x/config.toml"], True),
        (["/bin/sh", "/opt/containerd", "--config", "/run/x/config.toml"], True),
        (["/usr/bin/containerd", "--config", "/run/y/config.toml"], False),
        (["/usr/bin/containerd"], False),
        (["vi", "--config", "/run/x/config.toml"], False),
        ([], False),
    ],
)
def test_the_daemon_is_told_from_other_processes(argv, ours):
    assert cleanup.is_daemon(argv, "/run/x/config.toml") is ours


def test_the_sockets_a_process_listens_on_are_found(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        assert str(tmp_path / "s") in cleanup._listening_sockets(os.getpid())
    assert str(tmp_path / "s") not in cleanup._listening_sockets(os.getpid())


# -- clearing up ----------------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path):
    root, state = tmp_path / "parent" / "root", tmp_path / "state"
    root.mkdir(parents=True)
    state.mkdir()
    for name in ("state/config.toml", "state/containerd.pid", "state/layout.json", "state.lock"):
        (tmp_path / name).touch()
    (root / "data").mkdir()
    return Layout(
        root=str(root),
        state=str(state),
        address=str(state / "containerd.sock"),
        config=str(state / "config.toml"),
        binary="/nonexistent",
        path="/nonexistent",
        created=(str(root.parent), str(root), str(state)),
        stop_timeout=0.1,
    )


def test_a_layout_survives_json(layout):
    assert Layout.from_json(layout.to_json()) == layout


def test_created_directories_are_deleted_and_others_only_emptied_of_ours(layout, tmp_path):
    assert cleanup.clean(layout) == []
    assert list(tmp_path.iterdir()) == []
    assert cleanup.clean(layout) == []

    Path(layout.root).mkdir(parents=True)
    Path(layout.state).mkdir()
    Path(layout.state, "config.toml").touch()
    Path(layout.state, "somebody's").touch()
    (tmp_path / "parent" / "neighbour").touch()
    assert (
        cleanup.clean(Layout(**{**json.loads(layout.to_json()), "created": (str(tmp_path / "parent"),)}))
        == []
    )
    assert [path.name for path in Path(layout.state).iterdir()] == ["somebody's"]
    assert Path(layout.root).is_dir()


def run_guardian(layout, *, parent=None):
    argv = [sys.executable, "-I", "-S", cleanup.__file__, str(parent or os.getpid())]
    guardian = subprocess.Popen(argv, stdin=subprocess.PIPE)
    assert guardian.stdin is not None
    guardian.stdin.write(layout.to_json().encode() + b"\n")
    guardian.stdin.flush()
    return guardian


def test_the_guardian_clears_up_when_the_pipe_breaks_and_signals_do_not_stop_it(layout):
    lock = os.open(layout.state, os.O_RDONLY)
    guardian = Guardian.start(layout, lock=lock)
    os.close(lock)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(guardian.pid, signum)
    os.close(guardian._pipe)
    guardian._handle.close()
    os.waitpid(guardian.pid, 0)
    assert not Path(layout.state).exists()


def test_the_guardian_does_nothing_when_told_that_all_is_done(layout):
    with run_guardian(layout) as guardian:
        guardian.communicate(b"done\n", timeout=10)
    assert guardian.returncode == 0
    assert Path(layout.state).exists()


def test_the_guardian_sees_the_death_of_a_parent_whose_fork_holds_the_pipe(layout):
    # The parent starts the guardian, forks a child that inherits the pipe and outlives it, and dies.
    program = f"""
import os, subprocess, sys
g = subprocess.Popen([sys.executable, "-I", "-S", {cleanup.__file__!r}, str(os.getpid())], stdin=subprocess.PIPE)
g.stdin.write({layout.to_json()!r}.encode() + b"\\n"); g.stdin.flush()
if os.fork() == 0:
    os.read(int(sys.argv[1]), 1)  # until the test is over
    os._exit(0)
print(g.pid, flush=True)
os._exit(0)
"""
    hold, release = os.pipe()
    try:
        parent = subprocess.Popen(
            [sys.executable, "-c", program, str(hold)], pass_fds=[hold], stdout=subprocess.PIPE
        )
        assert parent.stdout is not None
        guardian = cleanup.Handle(int(parent.stdout.readline()))
        parent.wait(10)
        assert cleanup._wait_all([guardian], 10) == []
        guardian.close()
        assert not Path(layout.state).exists()
    finally:
        os.close(release)
        os.close(hold)
        parent.stdout.close()


# -- the object -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"log_level": "loud"}, "log_level='loud'"),
        ({"start_timeout": 0}, "start_timeout"),
        ({"stop_timeout": -1}, "stop_"),
    ],
)
def test_bad_options_are_refused(executable_file, options, words):
    with pytest.raises(InvalidArgument, match=words):
        Daemon(binary=executable_file, **options)


async def test_a_daemon_that_was_not_entered_has_no_process(executable_file):
    daemon = Daemon("/var/lib/x", "/run/x", binary=executable_file)
    assert not daemon.running
    assert daemon.version == ""
    assert repr(daemon) == "<Daemon /run/x/containerd.sock (not started)>"
    with pytest.raises(Closed, match="async with"):
        _ = daemon.pid
    with pytest.raises(Closed):
        await daemon.kill()
    for verb in (daemon.start, daemon.restart):
        with pytest.raises(Closed, match="async with"):
            await verb()
    assert not Path("/run/x").exists()


async def test_without_root_there_is_one_clear_word_and_nothing_happens(
    executable_file, monkeypatch, tmp_path
):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    daemon = Daemon(tmp_path / "root", tmp_path / "state", binary=executable_file)
    with pytest.raises(PermissionDenied, match="as root"):
        await daemon.__aenter__()
    assert not (tmp_path / "state").exists()


def test_sockets_of_a_killed_daemon_are_let_go_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that it was about to make has them until it becomes another program."""
    path = str(tmp_path / "s")
    answers = iter([True, True, False])
    monkeypatch.setattr(paths, "is_listened_on", lambda _: next(answers))
    paths.check_free(path, patience=60)
    assert next(answers, None) is None
    monkeypatch.setattr(paths, "is_listened_on", lambda _: True)
    with pytest.raises(FailedPrecondition, match="somebody listens"):
        paths.check_free(path)
