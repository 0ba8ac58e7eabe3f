"""Every Python block of the documentation runs, and prints what the page says it prints.

A block is a program (it calls ``asyncio.run``) and runs as one, or it is a fragment and runs like input to
``python -m asyncio``, where ``await`` is allowed at the top. A fragment may use `client`, `container` and `task`
without making them, and finds ``busybox.tar`` in its working directory.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import inspect
import io
import os
import re
import sys
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from tests.docs.conftest import BUSYBOX, on_one_release_line
from tests.docs.markdown import REPOSITORY, Block, blocks, pages

if TYPE_CHECKING:
    from containerd_aio import Client

#: Seconds that any block may take.
LIMIT = 60
#: So many blocks may be left out at most; each says why.
NOT_RUN = 3

PYTHON = [block for page in pages() for block in blocks(page) if block.language == "python"]


def _is_program(block: Block) -> bool:
    return "asyncio.run(" in block.text


@on_one_release_line
@pytest.mark.parametrize("block", [b for b in PYTHON if b.not_run is None and not _is_program(b)], ids=str)
async def test_fragments(block: Block, folder: Path, client: Client) -> None:
    with anyio.fail_after(LIMIT):
        async with _provided(client, _asked_for(block)) as names:
            printed = await _run(block, names)
    _check_output(block, printed)


@on_one_release_line
@pytest.mark.parametrize("block", [b for b in PYTHON if b.not_run is None and _is_program(b)], ids=str)
async def test_programs(block: Block, folder: Path, client: Client) -> None:
    (folder / "program.py").write_text(block.text, encoding="utf-8")
    with anyio.fail_after(LIMIT):
        done = await anyio.run_process(
            [sys.executable, "-W", "error", "program.py"],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            check=False,
        )
    assert done.returncode == 0, done.stderr.decode()
    _check_output(block, done.stdout.decode())


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [block for block in PYTHON if block.not_run is not None]
    assert all(block.not_run for block in left_out)
    assert len(left_out) <= NOT_RUN, [str(block) for block in left_out]


async def _run(block: Block, names: dict[str, Any]) -> str:
    """Run a fragment and return what it printed."""
    code = compile(block.code, REPOSITORY / block.page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    # Not by sys.stdout: others write there meanwhile, such as an unconfigured structlog.
    result = types.FunctionType(code, names | {"print": partial(print, file=printed)})()
    if inspect.iscoroutine(result):
        await result
    return printed.getvalue()


def _check_output(block: Block, printed: str) -> None:
    if block.output is not None and not re.fullmatch(_pattern(block.output), printed):
        pytest.fail(f"{block} shall print\n{block.output}but printed\n{printed}", pytrace=False)


def _pattern(text: str) -> str:
    """Three dots stand for anything within a line; on a line of their own for any lines, or none."""
    lines = ["(?:.*\n)*" if line == "...\n" else re.escape(line) for line in text.splitlines(keepends=True)]
    return "".join(lines).replace(re.escape("..."), ".*")


def _asked_for(block: Block) -> set[str]:
    """The names that a block uses and does not make."""
    made, used = set(dir(builtins)), set()
    for node in ast.walk(ast.parse(block.text)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                used.add(name)
            case (
                ast.Name(id=name)
                | ast.arg(arg=name)
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.alias(asname=str(name))
                | ast.alias(name=name)
            ):
                made.add(name)
    return used - made


@asynccontextmanager
async def _provided(client: Client, wanted: set[str]) -> AsyncIterator[dict[str, Any]]:
    """Make what a fragment may take for granted: a client, a container called ``web``, its running task."""
    names: dict[str, Any] = {"__name__": "snippet", "client": client}
    async with contextlib.AsyncExitStack() as stack:
        if wanted & {"container", "task"}:
            made = await client.new_container("web", image=BUSYBOX, args=["sleep", "1000"])
            names["container"] = await stack.enter_async_context(made)
        if "task" in wanted:
            task = await stack.enter_async_context(await names["container"].new_task())
            await task.start()
            names["task"] = task
        unknown = wanted - names.keys()
        assert not unknown, f"nobody made {', '.join(sorted(unknown))}"
        yield names
