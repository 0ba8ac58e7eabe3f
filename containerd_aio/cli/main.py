"""The entry point: run a command, and end with one line and an exit code instead of a traceback."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING

from containerd_aio.errors import ContainerdError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "containerd-aio"

# What a shell reports of a program that the signal ended.
_SIGINT_EXIT = 130
_SIGPIPE_EXIT = 141

# Commands of which any other exit code could be that of what they run; the number is Docker's.
_FAILURE = {"run": 125}

_EXTRAS = {"click", "rich"}

# Our output goes to a file that can't take more.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class CommandError(Exception):
    """A command has failed, and knows with which exit code.

    Args:
        text: What to say.
        exit_code: How the program ends.
    """

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: The arguments; those of this process by default.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for a wrong command line, 128 + N when signal N ended it.
        ``run`` returns that of the container, or 125, 126 or 127.
    """
    _open_standard_streams()
    try:
        code = _dispatch(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except ImportError as exc:
        if (exc.name or "").partition(".")[0] not in _EXTRAS:
            raise
        complain(f"the package {exc.name} is missing: pip install {PROGRAM}[cli]")
        return 1
    except KeyboardInterrupt:
        return _SIGINT_EXIT
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _SIGPIPE_EXIT
    return code


def _open_standard_streams() -> None:
    """Lead standard descriptors that we were started without to /dev/null: else a socket of ours would get their number."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115 - until the end


def complain(text: str) -> None:
    """Say on stderr, in one line, what went wrong."""
    print(f"{PROGRAM}: {text}", file=sys.stderr, flush=True)  # noqa: T201 - click may be what is missing


def _dispatch(args: Sequence[str]) -> int:
    import click

    from containerd_aio.cli.commands import cli

    debug, failure = False, None
    try:
        with cli.make_context(PROGRAM, [*args]) as context:
            debug = context.params["debug"]
            try:
                return int(cli.invoke(context) or 0)
            finally:
                failure = _FAILURE.get(context.invoked_subcommand or "")
    except click.exceptions.Exit as exc:
        return exc.exit_code
    except Exception as exc:  # noqa: BLE001 - the one place where everything ends
        error = _innermost(exc)
        if isinstance(error, BrokenPipeError):
            raise error from None
        if debug:
            import traceback

            traceback.print_exception(exc)
        text, code = _explain(error)
        complain(text)
        return code if failure is None or isinstance(error, CommandError) else failure


def _innermost(error: Exception) -> Exception:
    """Return the error itself where task groups have wrapped it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _explain(error: Exception) -> tuple[str, int]:
    """Return what to say about an error, and the exit code."""
    import click

    if isinstance(error, click.UsageError):
        command = error.ctx.command_path if error.ctx is not None else PROGRAM
        text = error.format_message().rstrip(".")
        return f"{text[:1].lower()}{text[1:]} (see {command} --help)", error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, CommandError):
        return str(error), error.exit_code
    if isinstance(error, ContainerdError):
        return str(error), 1
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in _EXTRAS:
        raise error
    if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
        return f"cannot write: {error.strerror}", 1
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 1
    return f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1
