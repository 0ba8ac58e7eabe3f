"""Sandboxes: environments that containers share, kept as records and run by controllers (containerd 1.7 and later)."""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self, TypeVar

from containerd_aio._identifiers import check_identifier
from containerd_aio.api.containerd.services.sandbox.v1 import (
    ControllerCreateRequest,
    ControllerMetricsRequest,
    ControllerPlatformRequest,
    ControllerShutdownRequest,
    ControllerStartRequest,
    ControllerStatusRequest,
    ControllerStopRequest,
    ControllerUpdateRequest,
    ControllerWaitRequest,
    StoreCreateRequest,
    StoreDeleteRequest,
    StoreGetRequest,
    StoreListRequest,
    StoreUpdateRequest,
)
from containerd_aio.api.containerd.types import Sandbox as RawSandbox
from containerd_aio.api.containerd.types import SandboxRuntime
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.errors import InvalidArgument, NotFound, Unknown
from containerd_aio.services._convert import label_updates, to_datetime
from containerd_aio.services.descriptor import Platform
from containerd_aio.services.snapshots import mounts_to_raw

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from containerd_aio.api.containerd.services.sandbox.v1 import ControllerStatusResponse
    from containerd_aio.api.containerd.types import Metric
    from containerd_aio.api.google.protobuf import Any as AnyMessage
    from containerd_aio.services.snapshots import Mount
    from containerd_aio.services.stubs import Services

#: What containerd says when the shim that is to do something ends, or has ended.
SHIM_GONE = "ttrpc: closed"
SHIM_SANDBOXER = "shim"
"""The controller that leaves sandboxes to the shim of their runtime; what Go's client uses by default."""

POD_SANDBOXER = "podsandbox"
"""The controller of the CRI plugin, where a sandbox is a container of the pause image (containerd 2.0 and later)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A sandbox as the daemon keeps it.

    Attributes:
        id: Its id.
        runtime: Name of its runtime.
        sandboxer: Name of its controller; empty where the daemon does not keep it (containerd 1.7).
        labels: Its labels.
        extensions: Messages kept with the record, by name.
        created_at: When the record was made.
        updated_at: When it was changed last.
        raw: containerd's message.
    """

    id: str
    runtime: str
    sandboxer: str
    labels: Mapping[str, str]
    extensions: Mapping[str, AnyMessage]
    created_at: datetime | None
    updated_at: datetime | None
    raw: RawSandbox = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: RawSandbox | None) -> Self:
        """Take over containerd's message."""
        assert raw is not None
        return cls(
            raw.sandbox_id,
            raw.runtime.name if raw.runtime is not None else "",
            raw.sandboxer,
            dict(raw.labels),
            dict(raw.extensions),
            to_datetime(raw.created_at),
            to_datetime(raw.updated_at),
            raw,
        )


@dataclass(frozen=True, slots=True)
class SandboxStatus:
    """How a sandbox is.

    Attributes:
        state: In its controller's words, such as ``SANDBOX_READY``.
        pid: Process id of what holds it; None where there is none.
        info: What else the controller tells, when it was asked for everything.
        created_at: When it was started.
        exited_at: When it ended; None while it runs.
        address: Where its task API is served; empty where that is not told.
        raw: containerd's message.
    """

    state: str
    pid: int | None
    info: Mapping[str, str]
    created_at: datetime | None
    exited_at: datetime | None
    address: str
    raw: ControllerStatusResponse = field(repr=False, compare=False)

    @classmethod
    def from_raw(cls, raw: ControllerStatusResponse) -> Self:
        """Take over containerd's message."""
        return cls(
            raw.state,
            raw.pid or None,
            dict(raw.info),
            _time(raw.created_at),
            _time(raw.exited_at),
            raw.address,
            raw,
        )


@dataclass(frozen=True, slots=True)
class SandboxExitStatus:
    """How a sandbox ended.

    Attributes:
        code: Its exit code; 255 if that is not known.
        exited_at: When; None if that is not known.
        unknown: Whether the daemon lost the code (see `SandboxController.wait`).
    """

    code: int
    exited_at: datetime | None
    unknown: bool = False


class SandboxStore:
    """The sandbox records of one namespace.

    Args:
        services: The stubs to call.
    """

    def __init__(self, services: Services) -> None:
        self._stub = services.sandbox_store

    async def create(
        self,
        sandbox_id: str,
        *,
        runtime: str,
        runtime_options: AnyMessage | None = None,
        spec: AnyMessage | None = None,
        labels: Mapping[str, str] | None = None,
        extensions: Mapping[str, AnyMessage] | None = None,
        sandboxer: str = SHIM_SANDBOXER,
    ) -> SandboxInfo:
        """Make a record; nothing is started by it.

        Args:
            sandbox_id: Its id.
            runtime: Name of the runtime, such as ``io.containerd.runc.v2``.
            runtime_options: Options of the runtime, packed.
            spec: OCI runtime spec, packed.
            labels: Its labels.
            extensions: Messages to keep with it, by name.
            sandboxer: Name of its controller.

        Raises:
            AlreadyExists: There is a sandbox of that id.
            InvalidArgument: The id is not an identifier, or the runtime is empty.
        """
        check_identifier(sandbox_id, "sandbox id")
        if not runtime:
            raise InvalidArgument(f"sandbox {sandbox_id!r} has no runtime")
        now = Timestamp.from_datetime(datetime.now(UTC))  # the store does not accept it without times
        sandbox = RawSandbox(
            sandbox_id=sandbox_id,
            runtime=SandboxRuntime(name=runtime, options=runtime_options),
            spec=spec,
            labels=dict(labels or {}),
            extensions=dict(extensions or {}),
            created_at=now,
            updated_at=now,
            sandboxer=sandboxer,
        )
        return SandboxInfo.from_raw((await self._stub.create(StoreCreateRequest(sandbox=sandbox))).sandbox)

    async def get(self, sandbox_id: str) -> SandboxInfo:
        """Return a record.

        Raises:
            NotFound: There is no such sandbox.
        """
        return SandboxInfo.from_raw((await self._stub.get(StoreGetRequest(sandbox_id=sandbox_id))).sandbox)

    async def list(self, *filters: str) -> builtins.list[SandboxInfo]:
        """Return the records that match any of `filters` (they know ``id`` and ``labels``), or all."""
        reply = await self._stub.list(StoreListRequest(filters=[*filters]))
        return [SandboxInfo.from_raw(raw) for raw in reply.list]

    async def update_labels(self, sandbox_id: str, labels: Mapping[str, str | None]) -> SandboxInfo:
        """Change labels.

        Args:
            sandbox_id: The sandbox.
            labels: New values; None or an empty one removes the label.

        Raises:
            NotFound: There is no such sandbox.
        """
        info = await self.get(sandbox_id)
        if not labels:
            return info
        # As a whole: of single keys the store sets those that are new, and does not remove any.
        merged = {key: value for key, value in {**info.labels, **label_updates(labels)}.items() if value}
        return await self._update(info, {"labels": merged}, "labels")

    async def update_extensions(self, sandbox_id: str, extensions: Mapping[str, AnyMessage]) -> SandboxInfo:
        """Set extensions; others stay.

        Raises:
            NotFound: There is no such sandbox.
        """
        info = await self.get(sandbox_id)
        return await self._update(info, {"extensions": {**info.extensions, **extensions}}, "extensions")

    async def _update(self, info: SandboxInfo, changes: dict[str, Any], path: str) -> SandboxInfo:
        raw = info.raw
        # A daemon crashes when the runtime is not set, though it is not to be changed.
        sandbox = RawSandbox(
            sandbox_id=info.id, runtime=raw.runtime or SandboxRuntime(), sandboxer=raw.sandboxer, **changes
        )
        reply = await self._stub.update(StoreUpdateRequest(sandbox=sandbox, fields=[path]))
        return SandboxInfo.from_raw(reply.sandbox)

    async def delete(self, sandbox_id: str) -> None:
        """Delete a record; what runs is not ended by it.

        Raises:
            NotFound: There is no such sandbox.
        """
        try:
            await self._stub.delete(StoreDeleteRequest(sandbox_id=sandbox_id))
        except Unknown as exc:
            if exc.message.endswith("bucket not found"):  # what 1.7 says
                raise NotFound(exc.message, method=exc.method) from exc
            raise


class SandboxController:
    """What runs sandboxes.

    Some releases do what they are asked and then answer with an error about the topic of an event (1.7 up to 1.7.34, 2.0 up
    to 2.0.8, 2.1 up to 2.1.7). That error counts as success here; what the answer would have said is asked for.

    Args:
        services: The stubs to call.
        sandboxer: Name of the controller, `SHIM_SANDBOXER` or `POD_SANDBOXER`; containerd 1.7 has only the first.
    """

    def __init__(self, services: Services, sandboxer: str = SHIM_SANDBOXER) -> None:
        if not sandboxer:
            raise InvalidArgument("the name of the sandbox controller is empty")
        self.sandboxer = sandboxer
        self._stub = services.sandbox_controller

    async def create(
        self,
        info: SandboxInfo,
        *,
        rootfs: Sequence[Mount] = (),
        options: AnyMessage | None = None,
        netns_path: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Set a sandbox up from its record.

        Args:
            info: The record. It has to have a spec: a daemon would crash without.
            rootfs: Its root filesystem, for controllers that want one.
            options: Options of the controller, packed.
            netns_path: A network namespace to use.
            annotations: Annotations for the runtime.

        Raises:
            AlreadyExists: It is set up already.
            InvalidArgument: The record has no spec.
            NotFound: The daemon has no such controller.
            Unimplemented: The runtime's shim knows no sandboxes.
        """
        request = ControllerCreateRequest(
            sandbox_id=info.id,
            rootfs=mounts_to_raw(rootfs),
            options=options,
            netns_path=netns_path,
            annotations=dict(annotations or {}),
            sandbox=info.raw,
            sandboxer=self.sandboxer,
        )
        await _published(lambda: self._stub.create(request))

    async def start(self, sandbox_id: str) -> SandboxStatus:
        """Start a sandbox that was set up, and return how it is then.

        Raises:
            NotFound: There is no such sandbox.
        """
        request = ControllerStartRequest(sandbox_id=sandbox_id, sandboxer=self.sandboxer)
        await _published(lambda: self._stub.start(request))
        return await self.status(sandbox_id)

    async def status(self, sandbox_id: str, *, verbose: bool = False) -> SandboxStatus:
        """Return how a sandbox is.

        Args:
            sandbox_id: The sandbox. containerd 1.7 answers with nothing in it for one that it does not know.
            verbose: Ask for everything; see `SandboxStatus.info`.

        Raises:
            NotFound: There is no such sandbox.
        """
        request = ControllerStatusRequest(sandbox_id=sandbox_id, verbose=verbose, sandboxer=self.sandboxer)
        return SandboxStatus.from_raw(await self._stub.status(request))

    async def stop(self, sandbox_id: str, *, timeout: float = 0) -> None:
        """End a sandbox and all that is in it.

        Args:
            sandbox_id: The sandbox.
            timeout: Seconds that it may take before it is killed; 0 leaves it to the controller.

        Raises:
            NotFound: There is no such sandbox.
            InvalidArgument: `timeout` is negative.
        """
        if timeout < 0:
            raise InvalidArgument(f"the timeout of a sandbox is {timeout}; it may not be negative")
        request = ControllerStopRequest(
            sandbox_id=sandbox_id, timeout_secs=-int(-timeout // 1), sandboxer=self.sandboxer
        )
        await _published(lambda: self._stub.stop(request))

    async def wait(self, sandbox_id: str) -> SandboxExitStatus:
        """Wait until a sandbox has ended.

        Returns:
            How it ended. Where the daemon answered with its error about the event, or the shim ended before it could
            answer, the code is gone: ``unknown``.

        Raises:
            NotFound: There is no such sandbox.
        """
        request = ControllerWaitRequest(sandbox_id=sandbox_id, sandboxer=self.sandboxer)
        try:
            reply = await _published(lambda: self._stub.wait(request))
        except Unknown as exc:
            if SHIM_GONE not in exc.message:
                raise
            reply = None
        if reply is None:
            return SandboxExitStatus(255, None, unknown=True)
        return SandboxExitStatus(reply.exit_status, to_datetime(reply.exited_at))

    async def shutdown(self, sandbox_id: str) -> None:
        """Remove what a sandbox left: its shim, its directories.

        Raises:
            NotFound: There is no such sandbox.
        """
        request = ControllerShutdownRequest(sandbox_id=sandbox_id, sandboxer=self.sandboxer)
        await _published(lambda: self._stub.shutdown(request))

    async def platform(self, sandbox_id: str) -> Platform:
        """Return the platform of the containers that a sandbox can hold.

        Raises:
            Unimplemented: The controller does not tell.
        """
        request = ControllerPlatformRequest(sandbox_id=sandbox_id, sandboxer=self.sandboxer)
        raw = (await self._stub.platform(request)).platform
        assert raw is not None
        return Platform.from_raw(raw)

    async def metrics(self, sandbox_id: str) -> Metric | None:
        """Return the metrics of a sandbox, as containerd's message (containerd 2.0 and later).

        Raises:
            Unimplemented: The controller, or the daemon, has none.
        """
        request = ControllerMetricsRequest(sandbox_id=sandbox_id, sandboxer=self.sandboxer)
        return (await self._stub.metrics(request)).metrics

    async def update(self, info: SandboxInfo, *fields: str) -> None:
        """Tell the controller of changes to a record (containerd 2.0 and later).

        Args:
            info: The record, changed.
            fields: What was changed, such as ``labels``.

        Raises:
            Unimplemented: The controller, or the daemon, takes none.
        """
        request = ControllerUpdateRequest(
            sandbox_id=info.id, sandboxer=self.sandboxer, sandbox=info.raw, fields=[*fields]
        )
        await self._stub.update(request)


def _time(stamp: Timestamp | None) -> datetime | None:
    """Return a time; None also for the Unix epoch, which is what controllers send for none."""
    return to_datetime(stamp) if stamp is not None and stamp.seconds else None


async def _published(call: Callable[[], Awaitable[T]]) -> T | None:
    """Await `call`; None when all that failed was the event that tells of it."""
    try:
        return await call()
    except InvalidArgument as exc:
        if (
            "envelope topic" in exc.message
            and "sandboxes/" in exc.message
            and "must start with" in exc.message
        ):
            return None
        raise
