"""The command line: what is understood, what is refused and how, and what is loaded for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
import structlog

from containerd_aio._version import __version__
from containerd_aio.cli.main import main

NOWHERE = "/nonexistent/containerd.sock"


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONTAINERD_ADDRESS", "CONTAINERD_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)


def _python(code: str, *options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


def _failed(capsys: pytest.CaptureFixture[str], args: Sequence[str], code: int) -> str:
    """Run, and return the one line on stderr."""
    assert main([*args]) == code
    error = capsys.readouterr().err
    assert error.startswith("containerd-aio: ")
    assert error.count("\n") == 1, error
    return error


def test_version_of_the_client_needs_no_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--address", NOWHERE, "version", "--client"]) == 0
    out, err = capsys.readouterr()
    assert f"Version:  {__version__}" in out
    assert "Server" not in out
    assert err == ""


def test_version_without_a_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--address", NOWHERE, "version"]) == 1
    out, err = capsys.readouterr()
    assert __version__ in out
    assert err.startswith(
        f"containerd-aio: cannot connect to containerd at {NOWHERE}: there is no such socket"
    )
    assert err.count("\n") == 1


def test_the_address_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONTAINERD_ADDRESS", "/nonexistent/other.sock")
    assert "/nonexistent/other.sock" in _failed(capsys, ["events"], 1)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["frobnicate"], 2, "there is no command 'frobnicate'; there are demo, events, export, images, "),
        (["--frob", "version"], 2, "no such option"),
        (["version", "--frob"], 2, "(see containerd-aio version --help)"),
        (["--timeout", "0", "version"], 2, "--timeout"),
        (["--address", "nonsense", "events"], 1, "address 'nonsense' is not understood"),
        (["--namespace", "a b", "events"], 1, "namespace 'a b' is not valid"),
        (["--address", NOWHERE, "events"], 1, "there is no such socket"),
        (["import"], 2, "missing argument 'FILE...'"),
        (["import", "/nonexistent.tar"], 2, "'/nonexistent.tar' does not exist"),
        (["demo", "--containerd", "/nonexistent"], 2, "'/nonexistent' does not exist"),
    ],
)
def test_one_line_says_what_is_wrong(
    capsys: pytest.CaptureFixture[str], args: list[str], code: int, words: str
) -> None:
    assert words in _failed(capsys, args, code)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "missing argument 'IMAGE'"),
        (["image"], "missing argument 'ID'"),
        (["--frob", "image", "id"], "no such option"),
        (["--rm", "-d", "image", "id"], "--rm and -d exclude each other"),
        (["-i", "-d", "image", "id"], "-i and -d exclude each other"),
        (["-i", "--log-uri", "file:///tmp/log", "image", "id"], "-i and --log-uri exclude each other"),
        (["-t", "-d", "image", "id"], "-t and -d exclude each other"),
        (["-t", "image", "id"], "-t needs a terminal"),
        (["--log-uri", "nonsense", "image", "id"], "log URI 'nonsense'"),
        (["--cwd", "relative", "image", "id"], "cwd"),
        (["--env", "=x", "image", "id"], "environment variable '=x' has no name"),
        (["--memory-limit", "much", "image", "id"], "'much' is not a size"),
        (["--label", "novalue", "image", "id"], "'novalue' is not a label"),
        (["--mount", "dst=/x", "image", "id"], "has no source"),
        (["image", "id"], "there is no such socket"),
    ],
)
def test_run_refuses_with_a_code_that_is_no_containers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert words in _failed(capsys, ["--address", NOWHERE, "run", *options], 125)


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"]])
def test_help(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    for command in ("demo", "events", "import", "run", "version"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize("command", ["demo", "events", "import", "run", "version"])
def test_help_of_commands(capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: containerd-aio {command}" in capsys.readouterr().out


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "--address", NOWHERE, "version"]) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "containerd-aio: cannot connect" in error.splitlines()[-1]


def test_what_we_did_not_expect_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from containerd_aio.cli import version

    def broken(*_: object, **__: object) -> int:
        raise ExceptionGroup("group", [ExceptionGroup("inner", [KeyError("surprise")])])

    monkeypatch.setattr(version.command, "callback", broken)
    assert "unexpected KeyError: 'surprise' (--debug shows where)" in _failed(capsys, ["version"], 1)


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from containerd_aio.cli import version

    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(version.command, "callback", interrupted)
    assert main(["version"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("package", ["click", "rich"])
def test_a_missing_package_is_named_with_its_cure(package: str) -> None:
    code = f"""
import sys
sys.modules[{package!r}] = None
from containerd_aio.cli import main as module
import containerd_aio.testing.images, os
os.geteuid = lambda: 0
sys.exit(module.main(["demo"]))
"""
    done = _python(code)
    assert done.returncode == 1
    assert (
        done.stderr == f"containerd-aio: the package {package} is missing: pip install containerd-aio[cli]\n"
    )


def test_a_closed_pipe_is_quiet() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "containerd_aio", "version", "--client"],
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def _shell(line: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the command as ``$@`` in a line of a shell."""
    command = [sys.executable, "-m", "containerd_aio", *args]
    return subprocess.run(["sh", "-c", line, "sh", *command], capture_output=True, text=True, check=False)


def test_standard_streams_that_are_closed_are_none_of_our_files() -> None:
    done = _shell('"$@" >&-', "version", "--client")
    assert (done.returncode, done.stderr) == (0, "")
    # What is to be said on stderr is not said on stdout.
    done = _shell('"$@" 2>&-', "--address", NOWHERE, "events")
    assert (done.returncode, done.stdout) == (1, "")
    done = _shell('"$@" <&- >&- 2>&-', "version", "--client")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_full_disk_is_named() -> None:
    done = _shell('"$@" >/dev/full', "version", "--client")
    assert (done.returncode, done.stderr) == (1, "containerd-aio: cannot write: No space left on device\n")


def test_start_loads_only_what_is_used() -> None:
    """`version --client` stays far below 150 ms only as long as it loads none of these."""
    code = """
import sys
from containerd_aio.cli.main import main
assert main(["version", "--client"]) == 0
print(*sys.modules, file=sys.stderr)
"""
    done = _python(code)
    assert done.returncode == 0
    loaded = set(done.stderr.split())
    heavy = {"grpclib", "betterproto2", "h2", "structlog", "anyio", "asyncio", "rich", "ssl", "logging"}
    assert not heavy & loaded
    ours = {name for name in loaded if name.startswith("containerd_aio")}
    assert ours <= {
        "containerd_aio",
        "containerd_aio._version",
        "containerd_aio.errors",
        "containerd_aio.cli",
        "containerd_aio.cli.main",
        "containerd_aio.cli.commands",
        "containerd_aio.cli.settings",
        "containerd_aio.cli.version",
    }
