"""Options for the process: arguments, environment, directory, terminal, limits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

import anyio

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci import _check as check
from containerd_aio.oci._sections import process, user
from containerd_aio.oci.context import SpecContext, SpecOpt, apply_opts
from containerd_aio.oci.defaults import DEFAULT_PATH_ENV
from containerd_aio.oci.types import Spec

#: The limits Linux has (getrlimit(2)).
RLIMITS = (
    "RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK",
    "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME",
    "RLIMIT_SIGPENDING", "RLIMIT_STACK",
)  # fmt: skip


def with_process_args(*args: str) -> SpecOpt:
    """Replace the arguments of the process, the program included (Go: WithProcessArgs).

    Raises:
        InvalidArgument: No arguments, or one that is not a string.
    """
    if not args:
        raise InvalidArgument(
            "with_process_args needs the program and its arguments, such as ('sleep', '60')"
        )
    given = check.texts("args", args)

    def opt(_: SpecContext, spec: Spec) -> None:
        section = process(spec)
        section["args"] = list(given)
        section.pop("commandLine", None)

    return opt


def with_process_command_line(command_line: str) -> SpecOpt:
    """Set the whole command line instead of arguments, as Windows has it (Go: WithProcessCommandLine).

    Raises:
        InvalidArgument: Not a string, or empty.
    """
    check.text("command_line", command_line, empty=False)

    def opt(_: SpecContext, spec: Spec) -> None:
        section = process(spec)
        section.pop("args", None)
        section["commandLine"] = command_line

    return opt


def with_process_cwd(cwd: str) -> SpecOpt:
    """Set the working directory (Go: WithProcessCwd).

    Raises:
        InvalidArgument: Not an absolute path.
    """
    check.absolute("cwd", cwd)

    def opt(_: SpecContext, spec: Spec) -> None:
        process(spec)["cwd"] = cwd

    return opt


def merge_env(env: Sequence[str], changes: Iterable[str]) -> list[str]:
    """Return an environment with changes applied, in Go's order.

    ``KEY=value`` replaces the variable where it stands or is appended; ``KEY`` alone takes it away. Only variables of
    `env` are replaced or taken away, so of two changes for a new variable both stay, as in Go.
    """
    merged = list(env)
    places = {variable.partition("=")[0]: at for at, variable in enumerate(merged)}
    for change in changes:
        key, equals, _ = change.partition("=")
        at = places.get(key)
        if not equals:
            if at is not None:
                merged[at] = ""
        elif at is None:
            merged.append(change)
        else:
            merged[at] = change
    return [variable for variable in merged if variable]


def with_env(variables: Iterable[str] | Mapping[str, str | None]) -> SpecOpt:
    """Set, replace or remove environment variables (Go: WithEnv).

    Args:
        variables: ``KEY=value`` to set, ``KEY`` to remove; or a mapping, where None removes.

    Raises:
        InvalidArgument: A variable without a name, or `variables` is one string.
    """
    if isinstance(variables, Mapping):
        variables = [key if value is None else f"{_key(key)}={value}" for key, value in variables.items()]
    changes = check.texts("env", variables)
    for change in changes:
        if not change.partition("=")[0]:
            raise InvalidArgument(f"environment variable {change!r} has no name; write NAME=value")

    def opt(_: SpecContext, spec: Spec) -> None:
        if changes:
            section = process(spec)
            section["env"] = merge_env(section.get("env", ()), changes)

    return opt


def _key(key: str) -> str:
    if "=" in check.text("the name of an environment variable", key):
        raise InvalidArgument(f"the name of environment variable {key!r} can't contain '='")
    return key


def with_env_file(path: str | os.PathLike[str]) -> SpecOpt:
    """Apply every line of a file as `with_env` does, when the option is applied (Go: WithEnvFile).

    Lines are taken as they are: there are no comments and no quotes. Empty ones are passed over.

    Raises:
        NotFound: When applied: no such file.
        InvalidArgument: When applied: it can't be read, is not UTF-8, or a line has no name.
    """

    async def opt(context: SpecContext, spec: Spec) -> None:
        try:
            content = await anyio.Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise NotFound(f"there is no environment file {os.fspath(path)!r}") from None
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidArgument(f"environment file {os.fspath(path)!r} can't be read: {exc}") from exc
        lines = [line.removesuffix("\r") for line in content.split("\n")]
        for number, line in enumerate(lines, 1):
            if line.startswith("="):
                raise InvalidArgument(f"{os.fspath(path)}:{number}: {line!r} has no name; write NAME=value")
        await apply_opts(context, spec, with_env([line for line in lines if line]))

    return opt


def with_default_path_env() -> SpecOpt:
    """Set ``PATH`` to containerd's default for Unix (Go: WithDefaultPathEnv)."""
    return with_env([DEFAULT_PATH_ENV])


def with_tty() -> SpecOpt:
    """Give the process a terminal; on Linux also append ``TERM=xterm`` (Go: WithTTY).

    The task's IO must be made for a terminal as well.
    """

    def opt(_: SpecContext, spec: Spec) -> None:
        section = process(spec)
        section["terminal"] = True
        if "linux" in spec:
            section.setdefault("env", []).append("TERM=xterm")

    return opt


def with_tty_size(width: int, height: int) -> SpecOpt:
    """Set the first size of the terminal, in characters (Go: WithTTYSize).

    Raises:
        InvalidArgument: A size below 0 or above 65535.
    """
    check.integer("width", width, most=65535, unit="columns")
    check.integer("height", height, most=65535, unit="rows")

    def opt(_: SpecContext, spec: Spec) -> None:
        process(spec)["consoleSize"] = {"height": height, "width": width}

    return opt


def with_new_privileges() -> SpecOpt:
    """Let the process gain privileges by set-user-id programs and the like (Go: WithNewPrivileges)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        process(spec)["noNewPrivileges"] = False

    return opt


def with_no_new_privileges() -> SpecOpt:
    """Keep the process from gaining privileges, which is the default on Linux (Go: WithNoNewPrivileges)."""

    def opt(_: SpecContext, spec: Spec) -> None:
        process(spec)["noNewPrivileges"] = True

    return opt


def with_umask(umask: int) -> SpecOpt:
    """Set the umask of the process (Go: WithUmask, 2.3).

    Raises:
        InvalidArgument: Outside 0 to 0o777.
    """
    check.integer("umask", umask, most=0o777)

    def opt(_: SpecContext, spec: Spec) -> None:
        user(spec)["umask"] = umask

    return opt


def with_rlimit(kind: str, *, soft: int, hard: int) -> SpecOpt:
    """Set one resource limit, replacing the one of that kind (Go: WithRlimit, 2.3).

    Args:
        kind: Such as ``RLIMIT_NOFILE``.
        soft: What holds; 2**64-1 means no limit.
        hard: How far the process may raise it.

    Raises:
        InvalidArgument: Unknown kind, a value out of range, or soft above hard.
    """
    check.one_of("kind", kind, RLIMITS)
    check.integer("soft", soft, most=check.MAX_UINT64)
    check.integer("hard", hard, most=check.MAX_UINT64)
    if soft > hard:
        raise InvalidArgument(f"{kind}: the soft limit {soft} is above the hard limit {hard}")

    def opt(_: SpecContext, spec: Spec) -> None:
        limits = process(spec).setdefault("rlimits", [])
        for limit in limits:
            if limit["type"] == kind:
                limit["hard"], limit["soft"] = hard, soft
                return
        limits.append({"type": kind, "hard": hard, "soft": soft})

    return opt
