"""The commands a fake container knows."""

from __future__ import annotations

from typing import Any

import pytest

from containerd_aio import InvalidArgument
from containerd_aio.testing.fake.fates import Fate
from containerd_aio.testing.fake.programs import find_program
from tests.unit.fake_support import world

looptime = pytest.mark.looptime


class _Process:
    """What a program needs of its process."""

    def __init__(self, stdin: bytes = b"") -> None:
        self.out = {False: b"", True: b""}
        self.traps: dict[int, int | None] = {}
        self._stdin = [stdin] if stdin else []

    async def write(self, data: bytes, *, stderr: bool = False) -> None:
        self.out[stderr] += data

    async def read(self, size: int = 65536) -> bytes:
        return self._stdin.pop() if self._stdin else b""

    def trap(self, number: int, exit_code: int | None) -> None:
        self.traps[number] = exit_code


async def _run(*args: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    program = find_program(args)
    assert program is not None
    process = _Process(stdin)
    code = await program(process)  # type: ignore[arg-type]
    return code or 0, process.out[False], process.out[True]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["true"], (0, b"", b"")),
        (["/bin/false"], (1, b"", b"")),
        (["exit", "7"], (7, b"", b"")),
        (["echo", "a", "b"], (0, b"a b\n", b"")),
        (["sh", "-c", "exit 9"], (9, b"", b"")),
        (["sh", "-c", "exit"], (0, b"", b"")),
        (["sh", "-c", "echo one; echo -n two"], (0, b"one\ntwo", b"")),
        (["sh", "-c", "echo 'a;b' >&2"], (0, b"", b"a;b\n")),
        (["sh", "-c", "echo x 1>&2 && exit 3"], (3, b"", b"x\n")),
        (["sh", "-c", "false && echo no; false || echo yes"], (0, b"yes\n", b"")),
        (["sh", "-c", "false"], (1, b"", b"")),
        (["sh", "-c", "echo a\necho b\nexit 2"], (2, b"a\nb\n", b"")),
        (["sh", "-c", "false; exit"], (1, b"", b"")),
        (["sh", "-c", ": ; true"], (0, b"", b"")),
        (["sh", "-c", "sleep 0; exit 4"], (4, b"", b"")),
        (["sh", "-c", "while true; do exit 6; done"], (6, b"", b"")),
    ],
)
async def test_commands(args: list[str], expected: tuple[int, bytes, bytes]) -> None:
    assert await _run(*args) == expected


async def test_cat() -> None:
    assert await _run("sh", "-c", "cat; exit 3", stdin=b"through") == (3, b"through", b"")


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["python", "job.py"],
        ["sh"],
        ["sh", "script.sh"],
        ["sh", "-c", "ls"],
        ["sh", "-c", "echo $HOME | wc"],
        ["sh", "-c", "echo 'unclosed"],
        ["sh", "-c", "while read x; do true; done"],
        ["sh", "-c", "while true; do true"],
        ["sh", "-c", "(exit 3)"],
        ["sh", "-c", "trap 'rm x' TERM"],
        ["sh", "-c", "sleep soon"],
        ["sleep"],
        ["sleep", "a while"],
    ],
)
def test_what_is_not_known_is_not_guessed(args: list[str]) -> None:
    assert find_program(args) is None


@pytest.mark.parametrize(
    ("words", "seconds"), [("2", 2), ("0.5", 0.5), ("3m", 180), ("1h", 3600), ("2d", 172_800), ("4s", 4)]
)
def test_sleep(words: str, seconds: float) -> None:
    assert find_program(["sleep", words]) == Fate(after=seconds)


@looptime
async def test_a_trap_in_a_container() -> None:
    async with world() as w:
        spec: Any = {"process": {"args": ["sh", "-c", _TRAP], "cwd": "/"}}
        container = await w.client.new_container("c1", spec=spec)
        task = await container.new_task()
        await task.start()
        await w.client.barrier()
        await task.kill("INT")
        assert await w.still_runs(task)
        await task.kill("TERM")
        assert (await task.wait(timeout=10)).code == 3


_TRAP = "trap '' INT; trap 'exit 3' TERM; while :; do sleep 0.1; done"


@pytest.mark.parametrize(
    "fields",
    [{"exit_code": 256}, {"exit_code": -1}, {"after": -1}, {"oom_event": "sometimes"}],
)
def test_fates_are_checked(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        Fate(**fields)  # type: ignore[arg-type]
