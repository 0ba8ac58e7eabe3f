"""``client.run()``: a command in a container of its own, from nothing and back to nothing."""

from __future__ import annotations

import math
import secrets
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import anyio

from containerd_aio import oci, stdio
from containerd_aio._new_container import ContainerOptions, create_container
from containerd_aio.cni import Network
from containerd_aio.distribution.reference import normalize_name
from containerd_aio.errors import ContainerdError, DeadlineExceeded, InvalidArgument, NotFound, Unavailable
from containerd_aio.image import Image

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from containerd_aio._scope import Scope
    from containerd_aio.container import Container
    from containerd_aio.events.exits import ExitStatus
    from containerd_aio.oci import Mount, SpecOpt
    from containerd_aio.stdio.creators import IOCreator
    from containerd_aio.task import Task

Pull = Literal["never", "missing", "always"]

# Microseconds; the kernel's default period of CPU quotas.
_CPU_PERIOD = 100_000
# The kernel's shortest quota is a millisecond; none at all would be no limit.
_LEAST_CPUS = 0.01


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a command ended, and what it wrote.

    Attributes:
        exit_status: How it ended.
        stdout: What it wrote to its stdout; empty if ``io=`` took it elsewhere.
        stderr: What it wrote to its stderr; likewise.
    """

    exit_status: ExitStatus
    stdout: bytes = b""
    stderr: bytes = b""

    @property
    def code(self) -> int:
        """The exit code; 255 with ``exit_status.unknown`` when nobody can tell it."""
        return self.exit_status.code


class RunFailed(ContainerdError):
    """The command of a ``run(check=True)`` did not end with 0.

    Attributes:
        result: How it ended, and what it wrote.
    """

    def __init__(self, message: str, *, result: RunResult) -> None:
        super().__init__(message)
        self.result = result


class RunTimeout(DeadlineExceeded):
    """The command of a ``run(timeout=...)`` had not ended in time, and was killed.

    Attributes:
        result: How it ended, and what it wrote until then.
    """

    def __init__(self, message: str, *, result: RunResult) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The arguments of `Client.run`."""

    args: Sequence[str] | None = None
    id: str | None = None
    env: Mapping[str, str | None] | None = None
    mounts: Sequence[Mount] = ()
    user: str | None = None
    cwd: str | None = None
    memory_limit: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    network: str | Network = "none"
    stdin: bytes | None = None
    io: IOCreator | None = None
    timeout: float | None = None
    check: bool = False
    pull: Pull = "never"
    spec_opts: Sequence[SpecOpt] = ()
    snapshotter: str | None = None
    runtime: str | None = None
    labels: Mapping[str, str] | None = None

    def streams(self) -> IOCreator:
        """Return its standard streams.

        Raises:
            InvalidArgument: Both ``stdin`` and ``io`` are given.
        """
        if self.io is None:
            return stdio.capture(stdin=self.stdin)
        if self.stdin is not None:
            raise InvalidArgument(
                "give stdin or io, not both; stdio.capture(), .streams() and .pipes() have a stdin="
            )
        return self.io

    def opts(self) -> list[SpecOpt]:
        """Return the changes to the OCI spec; ``spec_opts`` come last, and win.

        Raises:
            InvalidArgument: A value is not valid.
        """
        opts: list[SpecOpt] = []
        if self.env:
            opts.append(oci.with_env(self.env))
        if self.mounts:
            opts.append(oci.with_mounts(self.mounts))
        if self.user is not None:
            opts.append(oci.with_user(self.user))
        if self.cwd is not None:
            opts.append(oci.with_process_cwd(self.cwd))
        if self.memory_limit is not None:
            opts.append(oci.with_memory_limit(self.memory_limit))
        if self.cpus is not None:
            if not _LEAST_CPUS <= self.cpus < math.inf:
                raise InvalidArgument(
                    f"cpus is {self.cpus}; it must be at least {_LEAST_CPUS}, such as 0.5 for half a CPU"
                )
            opts.append(oci.with_cpu_cfs(int(self.cpus * _CPU_PERIOD), _CPU_PERIOD))
        if self.pids_limit is not None:
            opts.append(oci.with_pids_limit(self.pids_limit))
        if self.streams().terminal:
            opts.append(oci.with_tty())
        return [*opts, *network_opts(self.network), *self.spec_opts]

    def check_limits(self) -> None:
        """Refuse a timeout that can't be one.

        Raises:
            InvalidArgument: It is not positive.
        """
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidArgument(f"timeout is {self.timeout}; it must be more than 0 seconds, or None")


def network_opts(network: str | Network) -> list[SpecOpt]:
    """Return what `network` means for the OCI spec.

    Raises:
        InvalidArgument: It means nothing.
    """
    if isinstance(network, Network) or network == "none":
        return []  # the spec's default: a network namespace with nothing but a loopback
    if network == "host":
        return [
            oci.with_host_namespace("network"),
            oci.with_host_hosts_file(),
            oci.with_host_resolvconf(),
        ]
    if isinstance(network, str) and network.startswith("/"):
        return [oci.with_linux_namespace("network", network)]
    raise InvalidArgument(
        f"network is {network!r}; it is 'none', 'host', the path of a network namespace such as /run/netns/blue, "
        "or a cni.Network"
    )


async def run(scope: Scope, image: Image | str, options: RunOptions) -> RunResult:
    """Run a command; see `Client.run`."""
    options.check_limits()
    if options.pull not in {"never", "missing", "always"}:
        raise InvalidArgument(f"pull is {options.pull!r}; it is 'never', 'missing' or 'always'")
    spec_opts, streams = options.opts(), options.streams()
    if isinstance(image, str):
        image = await _find_image(scope, image, options.pull)
    creation = ContainerOptions(
        image=image,
        args=options.args,
        spec_opts=spec_opts,
        snapshotter=options.snapshotter,
        runtime=options.runtime,
        labels=options.labels,
    )
    name = options.id or f"run-{secrets.token_hex(6)}"
    in_time = True
    async with await create_container(scope, name, creation) as container:
        async with (
            await container.new_task(io=streams) as task,
            _connected(container, task, options.network),
        ):
            await task.start()
            with anyio.move_on_after(options.timeout) as deadline:
                await task.wait()
            in_time = not deadline.cancelled_caught
        result = _result(task)
    if not in_time:
        raise RunTimeout(
            f"the command had not ended after {options.timeout:g} s, and was killed", result=result
        )
    if options.check and (result.code != 0 or result.exit_status.unknown):
        raise RunFailed(_failure(result), result=result)
    return result


async def _find_image(scope: Scope, name: str, pull: Pull) -> Image:
    """Return the image of that name, or of what Docker's users mean by it; from its registry if it may be."""
    if pull != "always":
        for known_as in dict.fromkeys((name, *_normalized(name))):
            with suppress(NotFound):
                return await Image.get(scope.services, known_as)
        if pull == "never":
            raise NotFound(
                f"there is no image {name!r} in namespace {scope.namespace!r}; client.pull() fetches one, "
                "client.import_archive() reads one from a file, and run(pull='missing') pulls what is not there"
            )
    from containerd_aio.distribution.remote import Remote, pull_image

    record, platform = await pull_image(scope.services, Remote(name))
    return Image(scope.services, record, platform=platform)


def _normalized(name: str) -> tuple[str, ...]:
    try:
        return (normalize_name(name),)
    except InvalidArgument:
        return ()  # images may be named as one likes, as long as nobody wants to pull them


@asynccontextmanager
async def _connected(container: Container, task: Task, network: str | Network) -> AsyncIterator[None]:
    """Attach the container to its network while it runs. It is created, so that its namespace exists."""
    async with AsyncExitStack() as attached:
        if isinstance(network, Network):
            if task.pid is None:
                raise Unavailable(f"containerd does not tell the pid of container {container.id!r}")
            await attached.enter_async_context(network.attach(container.id, f"/proc/{task.pid}/ns/net"))
        yield


def _result(task: Task) -> RunResult:
    """Put together what is known once the task is deleted: only then all output is there."""
    assert task.exit_status is not None
    captured = task.captured
    if captured is None:
        return RunResult(task.exit_status)
    return RunResult(task.exit_status, captured.stdout, captured.stderr)


def _failure(result: RunResult) -> str:
    if result.exit_status.unknown:
        return "the exit code of the command is lost: containerd does not know it any more"
    text = f"the command ended with {result.code}"
    if result.exit_status.oom_killed:
        text += ", killed for want of memory"
    last = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"{text}: {last[:200]}" if last else text
