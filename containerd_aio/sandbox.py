"""Sandboxes: environments that containers share, such as the pods of Kubernetes (containerd 1.7 and later)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import anyio

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through, cleaning_up, is_open
from containerd_aio._log import get_logger
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.errors import ContainerdError, NotFound
from containerd_aio.oci import RuncOptions, to_json
from containerd_aio.services.sandboxes import SHIM_GONE, SHIM_SANDBOXER, SandboxController, SandboxStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Any, Self

    from betterproto2 import Message

    from containerd_aio._scope import Scope
    from containerd_aio.oci import Spec
    from containerd_aio.services.sandboxes import SandboxExitStatus, SandboxInfo, SandboxStatus
    from containerd_aio.services.snapshots import Mount

_UNDO_TIMEOUT = 10.0
_STOP_TIMEOUT = 10.0

_log = get_logger(__name__)


class Sandbox:
    """A sandbox. As an async context manager it is stopped and removed at the end.

    Made by `Client.new_sandbox` and `Client.sandbox`. A container is put into it by `Client.new_container` with
    ``sandbox=sandbox.id``.

    Attributes:
        id: Its id.
        controller: What runs it.
    """

    def __init__(self, scope: Scope, info: SandboxInfo, sandboxer: str) -> None:
        self._info = info
        self._store = SandboxStore(scope.services)
        self._namespace = scope.namespace
        self.id = info.id
        self.controller = SandboxController(scope.services, sandboxer)

    def __repr__(self) -> str:
        return f"<Sandbox {self._namespace}/{self.id}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Stop and remove it; an error of the body is not replaced by one of the clean-up."""
        try:
            with cleaning_up(f"sandbox {self.id!r}", within=_STOP_TIMEOUT + _UNDO_TIMEOUT):
                stop = partial(self.controller.stop, timeout=_STOP_TIMEOUT)
                await _quietly("sandbox not stopped", self.id, stop)
                await self.shutdown()
        except ContainerdError as failure:
            if exc is None:
                raise
            _log.warning("sandbox not cleaned up", sandbox=self.id, error=str(failure))

    @property
    def metadata(self) -> SandboxInfo:
        """Its record, as last read."""
        return self._info

    async def info(self) -> SandboxInfo:
        """Read the record again.

        Raises:
            NotFound: It was deleted.
        """
        self._info = await self._store.get(self.id)
        return self._info

    async def labels(self) -> Mapping[str, str]:
        """Return its labels."""
        return (await self.info()).labels

    async def update_labels(self, labels: Mapping[str, str | None]) -> Mapping[str, str]:
        """Change labels, and return all of them; None or an empty value removes one.

        Raises:
            NotFound: It was deleted.
        """
        self._info = await self._store.update_labels(self.id, labels)
        return self._info.labels

    async def start(self) -> SandboxStatus:
        """Start it, and return how it is then.

        Raises:
            ContainerdError: It does not start; the text is the controller's.
        """
        return await self.controller.start(self.id)

    async def status(self, *, verbose: bool = False) -> SandboxStatus:
        """Return how it is; `verbose` asks the controller for everything."""
        return await self.controller.status(self.id, verbose=verbose)

    async def wait(self) -> SandboxExitStatus:
        """Wait until it has ended."""
        return await self.controller.wait(self.id)

    async def stop(self, *, timeout: float = 0) -> None:
        """End it and all that is in it.

        Args:
            timeout: Seconds until it is killed; 0 leaves it to the controller.
        """
        await self.controller.stop(self.id, timeout=timeout)

    async def shutdown(self) -> None:
        """Remove what is left of it: what the controller holds, and the record. It does not matter what is gone already.

        Raises:
            ContainerdError: The controller fails for another reason; the record stays then.
        """
        for step in (self.controller.shutdown, self._store.delete):
            try:
                await step(self.id)
            except NotFound:
                continue
            except ContainerdError as exc:
                if SHIM_GONE not in exc.message:
                    raise


async def create_sandbox(
    scope: Scope,
    sandbox_id: str,
    *,
    runtime: str,
    runtime_options: RuncOptions | Message | None,
    spec: Spec | None,
    labels: Mapping[str, str] | None,
    extensions: Mapping[str, Message | AnyMessage] | None,
    sandboxer: str,
    rootfs: Sequence[Mount],
    options: Message | AnyMessage | None,
    netns_path: str,
    annotations: Mapping[str, str] | None,
) -> Sandbox:
    """Make a record and have the controller set the sandbox up; see `Client.new_sandbox`."""
    store = SandboxStore(scope.services)
    forget = partial(_quietly, "sandbox record not deleted", sandbox_id, store.delete)
    make_record = partial(
        store.create,
        sandbox_id,
        runtime=runtime,
        runtime_options=_packed(
            runtime_options.raw if isinstance(runtime_options, RuncOptions) else runtime_options
        ),
        # A daemon crashes when there is none.
        spec=typeurl.pack({} if spec is None else to_json(spec), typeurl.SPEC),
        labels=labels,
        extensions={name: _packed(value) for name, value in (extensions or {}).items()},
        sandboxer=sandboxer,
    )
    info = await carry_through(make_record, undo=forget)
    sandbox = Sandbox(scope, info, sandboxer)
    set_up = partial(
        sandbox.controller.create,
        info,
        rootfs=rootfs,
        options=_packed(options),
        netns_path=netns_path,
        annotations=annotations,
    )
    take_down = partial(_take_down, sandbox)
    try:
        await carry_through(set_up, undo=take_down)
    except BaseException as exc:
        with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
            if is_open(exc):
                await take_down()
            await forget()
        raise
    return sandbox


async def _take_down(sandbox: Sandbox) -> None:
    """Remove what a controller may have set up: the shim of 1.7 outlives a shutdown that no stop precedes."""
    for step in (sandbox.controller.stop, sandbox.controller.shutdown):
        await _quietly("sandbox not taken down", sandbox.id, step)


async def _quietly(failure: str, sandbox_id: str, remove: Callable[[str], Awaitable[object]]) -> None:
    try:
        await remove(sandbox_id)
    except NotFound:
        pass
    except ContainerdError as exc:
        if SHIM_GONE not in exc.message:
            _log.warning(failure, sandbox=sandbox_id, error=str(exc))


async def load_sandbox(scope: Scope, sandbox_id: str) -> Sandbox:
    """Return the sandbox of that id; see `Client.sandbox`."""
    info = await SandboxStore(scope.services).get(sandbox_id)
    return Sandbox(scope, info, info.sandboxer or SHIM_SANDBOXER)


def _packed(value: Any) -> Any:
    return value if value is None or isinstance(value, AnyMessage) else typeurl.pack(value)
