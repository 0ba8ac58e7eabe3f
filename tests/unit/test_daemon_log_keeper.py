"""The log of a detached daemon: its beginning is given back, its end is kept, whoever reads or writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from containerd_aio import InvalidArgument, Supervision
from containerd_aio._daemon import log_keeper

MB = 1 << 20


def _blocks(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_long_log_is_shortened_on_the_disk_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 3 * MB)
        assert not log_keeper.trim(str(log), kept=MB, slack=4 * MB)
        assert _blocks(log) >= 3 * MB
        writer.write(b"y" * 3 * MB)
        assert log_keeper.trim(str(log), kept=MB, slack=4 * MB)
        assert _blocks(log) <= MB + 8192
        assert log.stat().st_size == 6 * MB
        writer.write(b"end\n")
    assert log.read_bytes().endswith(b"y" * (MB - 4096) + b"end\n")
    assert not log_keeper.trim(str(log), kept=MB, slack=4 * MB)
    assert not log_keeper.trim(str(tmp_path / "none"))


def test_where_there_are_no_holes_the_log_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoHoles:
        def __init__(self, *args: object, **options: object) -> None:
            pass

        def fallocate(self, *args: object) -> int:
            return -1

    monkeypatch.setattr(log_keeper.ctypes, "CDLL", NoHoles)
    log = tmp_path / "log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 3 * MB)
        assert log_keeper.trim(str(log), kept=MB, slack=MB)
        writer.write(b"end\n")
    assert log.read_bytes() == b"end\n"


def test_it_looks_again_and_again_until_the_process_has_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 20 * MB)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        script = (
            f"import sys; sys.path.insert(0, {str(Path(log_keeper.__file__).parent)!r}); import log_keeper;"
            f"log_keeper.keep({str(log)!r}, {process.pid}, interval=0.01)"
        )
        with subprocess.Popen([sys.executable, "-I", "-S", "-c", script]) as keeper:
            while _blocks(log) > 9 * MB:
                assert keeper.poll() is None
            process.stdin.close()
            assert keeper.wait(10) == 0


def test_a_process_that_has_gone_already_is_not_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    log_keeper.keep(str(tmp_path / "log"), process.pid)


def test_E39_delays_double_up_to_the_longest() -> None:
    supervision = Supervision(first_delay=0.1, longest_delay=5)
    assert [supervision.delay(n) for n in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5]
    assert supervision.delay(10_000) == 5
    for bad in ({"interval": 0}, {"failures": 0}, {"first_delay": 2.0, "longest_delay": 1.0}):
        with pytest.raises(InvalidArgument, match="supervision"):
            Supervision(**bad)  # type: ignore[arg-type]


def test_the_keeper_is_a_script_of_the_standard_library() -> None:
    source = Path(log_keeper.__file__).read_text()
    assert "containerd_aio" not in source
    done = subprocess.run(
        [sys.executable, "-I", "-S", log_keeper.__file__, os.devnull, "4194305"], check=False, timeout=20
    )
    assert done.returncode == 0
