"""The programs every container of the fake has, and a shell that knows just these.

They do what busybox's do, as far as a test's command needs it: ``true``, ``false``, ``exit``, ``sleep``, ``echo``, ``cat``,
``trap``, joined by ``;``, ``&&`` and ``||``, and ``while true; do ...; done``. A script with anything else in it is none the
shell knows.
"""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from containerd_aio.testing.fake.fates import Fate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from containerd_aio.testing.fake.fates import Program
    from containerd_aio.testing.fake.process import FakeProcess

_SHELLS = frozenset({"sh", "ash", "bash", "dash"})
_SEPARATORS = frozenset({";", "&&", "||"})


class UnknownScript(Exception):
    """The shell does not know what this is."""


class _Exit(Exception):
    def __init__(self, code: int) -> None:
        self.code = code


def find_program(args: Sequence[str]) -> Program | None:
    """Return what a command does; None for a program the fake does not know."""
    if not args:
        return None
    name = args[0].rpartition("/")[2]
    try:
        if name in _SHELLS:
            if len(args) >= 3 and args[1] == "-c":
                return _Script(parse(args[2]))
            return None
        return _simple(name, list(args[1:]))
    except (UnknownScript, ValueError):
        return None


def _simple(name: str, args: list[str]) -> Program | None:
    match name:
        case "true":
            return Fate()
        case "false":
            return Fate(exit_code=1)
        case "exit":
            return Fate(exit_code=int(args[0]) & 255 if args else 0)
        case "sleep":
            return Fate(after=_seconds(args))
        case "echo" | "cat":
            return _Script(_Loop([_Command([name, *args], ";")], for_ever=False))
    return None


def _seconds(args: list[str]) -> float:
    if len(args) != 1:
        raise UnknownScript
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (args[0][:-1], args[0][-1]) if args[0][-1:] in units else (args[0], "s")
    return float("inf") if number in {"inf", "infinity"} else float(number) * units[unit]


# --- the shell ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Command:
    words: list[str]
    after: str  # the separator before it decides whether it is run
    to_stderr: bool = False


@dataclass(frozen=True, slots=True)
class _Loop:
    body: list[_Command | _Loop]
    for_ever: bool
    after: str = ";"


def parse(script: str) -> _Loop:
    """Read a script.

    Raises:
        UnknownScript: There is something in it that this shell does not know.
    """
    lexer = shlex.shlex(script.replace("\n", " ; "), posix=True, punctuation_chars=";&|()<>")
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError as exc:
        raise UnknownScript from exc
    position, body = _block(tokens, 0, inside=False)
    if position != len(tokens):
        raise UnknownScript
    return _Loop(body, for_ever=False)


def _block(tokens: list[str], position: int, *, inside: bool) -> tuple[int, list[_Command | _Loop]]:
    body: list[_Command | _Loop] = []
    separator = ";"
    while position < len(tokens):
        word = tokens[position]
        if inside and word == "done":
            return position + 1, body
        if word in _SEPARATORS:
            separator = word
            position += 1
        elif word == "while":
            position, loop = _loop(tokens, position, separator)
            body.append(loop)
        else:
            position, command = _command(tokens, position, separator)
            body.append(command)
    if inside:
        raise UnknownScript
    return position, body


def _loop(tokens: list[str], position: int, separator: str) -> tuple[int, _Loop]:
    head = tokens[position + 1 : position + 4]
    if head not in ([":", ";", "do"], ["true", ";", "do"]):
        raise UnknownScript
    position, body = _block(tokens, position + 4, inside=True)
    return position, _Loop(body, for_ever=True, after=separator)


def _command(tokens: list[str], position: int, separator: str) -> tuple[int, _Command]:
    words: list[str] = []
    to_stderr = False
    while position < len(tokens) and tokens[position] not in _SEPARATORS:
        if tokens[position] == ">&" and tokens[position + 1 : position + 2] == ["2"]:
            to_stderr = True
            position += 1
            if words[-1:] == ["1"]:
                words.pop()
        elif set(tokens[position]) & set("&|()<>"):
            raise UnknownScript
        else:
            words.append(tokens[position])
        position += 1
    _check(words)
    return position, _Command(words, separator, to_stderr)


def _check(words: list[str]) -> None:
    name, args = words[0], words[1:]
    if name in {":", "true", "false", "echo"} or (name == "cat" and not args):
        return
    if name == "sleep":
        _seconds(args)
    elif name == "exit" and len(args) <= 1:
        int(args[0] if args else 0)
    elif name == "trap" and len(args) == 2:
        _trap(args)
    else:
        raise UnknownScript


def _trap(args: list[str]) -> tuple[int, int | None]:
    """Return the signal and the exit code it leads to; None when it is ignored."""
    command = args[0].split()
    number = getattr(signal, "SIG" + args[1].removeprefix("SIG"), None)
    if number is None or (command and command[0] != "exit"):
        raise UnknownScript
    return int(number), (int(command[1]) if len(command) > 1 else 0) if command else None


class _Script:
    """A script as a program."""

    def __init__(self, script: _Loop) -> None:
        self._script = script

    async def __call__(self, process: FakeProcess) -> int:
        try:
            return await self._run(self._script, process)
        except _Exit as end:
            return end.code

    async def _run(self, loop: _Loop, process: FakeProcess) -> int:
        status = 0
        while True:
            for command in loop.body:
                if (command.after == "&&" and status) or (command.after == "||" and not status):
                    continue
                if isinstance(command, _Loop):
                    status = await self._run(command, process)
                else:
                    status = await _execute(command, process, status)
            if not loop.for_ever:
                return status
            await anyio.lowlevel.checkpoint()


async def _execute(command: _Command, process: FakeProcess, status: int) -> int:
    name, args = command.words[0], command.words[1:]
    match name:
        case "exit":
            raise _Exit(int(args[0]) & 255 if args else status)
        case "false":
            return 1
        case "sleep":
            await anyio.sleep(_seconds(args))
        case "trap":
            process.trap(*_trap(args))
        case "echo":
            newline = args[:1] != ["-n"]
            text = " ".join(args if newline else args[1:]) + "\n" * newline
            await process.write(text.encode(), stderr=command.to_stderr)
        case "cat":
            while data := await process.read():
                await process.write(data, stderr=command.to_stderr)
    return 0
