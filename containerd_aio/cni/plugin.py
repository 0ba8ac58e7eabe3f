"""One run of one CNI plugin: its environment, its configuration, its answer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import anyio
import anyio.lowlevel

from containerd_aio.errors import ContainerdError, DeadlineExceeded, NotFound

#: Seconds one plugin may take: an address from a DHCP server can be slow to come.
PLUGIN_TIMEOUT = 60.0

Command = Literal["ADD", "CHECK", "DEL"]
Folders = Sequence[str | os.PathLike[str]]


class CNIError(ContainerdError):
    """A plugin failed.

    Attributes:
        plugin: Its type, such as ``bridge``.
        number: The code it gave, of the CNI specification (11: try again later); None if it gave none.
    """

    def __init__(self, message: str, *, plugin: str, number: int | None = None) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.number = number


async def run_plugin(
    kind: str, command: Command, conf: Mapping[str, Any], *, environment: Mapping[str, str], folders: Folders
) -> Mapping[str, Any]:
    """Run one plugin and return its answer. It is not interrupted: nobody could tell what it had made by then.

    Args:
        kind: Its type, which is the name of its program.
        command: What to do.
        conf: Its configuration.
        environment: The ``CNI_`` variables that say to what.
        folders: Where programs are.

    Raises:
        NotFound: Its program is missing.
        CNIError: It refused.
        DeadlineExceeded: It did not finish.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    program = find_program(kind, folders)
    inherited = {"PATH": os.environ.get("PATH", os.defpath)}
    with anyio.CancelScope(shield=True):
        try:
            with anyio.fail_after(PLUGIN_TIMEOUT):
                done = await anyio.run_process(
                    [program],
                    input=json.dumps(conf).encode(),
                    env=inherited | {"CNI_COMMAND": command, "CNI_PATH": _path(folders)} | dict(environment),
                    check=False,
                )
        except TimeoutError:
            raise DeadlineExceeded(
                f"CNI plugin {kind!r} did not finish {command} within {PLUGIN_TIMEOUT:g} s"
            ) from None
    answer = _parse_answer(done.stdout)
    if done.returncode:
        raise _failure(kind, command, done.returncode, answer, done.stderr)
    return answer


def _path(folders: Folders) -> str:
    return os.pathsep.join(os.fspath(folder) for folder in folders)


def find_program(kind: str, folders: Folders) -> str:
    """Return the path of a plugin's program: the first there is.

    Raises:
        NotFound: It is in none of `folders`.
    """
    for folder in folders:
        path = Path(folder, kind)
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    raise NotFound(
        f"CNI plugin {kind!r} is in none of {', '.join(os.fspath(folder) for folder in folders)}; "
        f"install it (Debian: containernetworking-plugins), or name its directory in plugin_dirs"
    )


def _parse_answer(stdout: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(stdout or b"{}")
    except ValueError:
        answer = None
    return answer if isinstance(answer, dict) else {"msg": stdout.decode(errors="replace").strip()}


def _failure(kind: str, command: str, code: int, answer: Mapping[str, Any], stderr: bytes) -> CNIError:
    texts = [
        str(answer.get("msg") or ""),
        str(answer.get("details") or ""),
        stderr.decode(errors="replace").strip(),
    ]
    text = "; ".join(text for text in texts if text) or f"it ended with {code} and said nothing"
    number = answer.get("code")
    return CNIError(
        f"CNI plugin {kind!r} failed in {command}: {text}",
        plugin=kind,
        number=number if isinstance(number, int) else None,
    )
