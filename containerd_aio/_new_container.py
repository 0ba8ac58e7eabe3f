"""How a container comes to be: a snapshot, a spec and a record, under a lease."""

from __future__ import annotations

from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through
from containerd_aio._identifiers import check_identifier
from containerd_aio._log import get_logger
from containerd_aio._mount import temporary_mount
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import (
    ContainerRuntime,
    CreateContainerRequest,
    DeleteContainerRequest,
)
from containerd_aio.container import Container, ContainerInfo
from containerd_aio.errors import AlreadyExists, ContainerdError, InvalidArgument
from containerd_aio.image import Image
from containerd_aio.oci import (
    RuncOptions,
    SpecContext,
    generate_spec,
    to_json,
    with_image_config,
    with_process_args,
)
from containerd_aio.services.leases import lease
from containerd_aio.services.snapshots import Snapshotter, resolve_snapshotter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from betterproto2 import Message

    from containerd_aio._scope import Scope
    from containerd_aio.api.google.protobuf import Any as AnyMessage
    from containerd_aio.oci import Spec, SpecOpt

DEFAULT_RUNTIME = "io.containerd.runc.v2"
"""The runtime of a container that names none, on Linux (Go: ``defaults.DefaultRuntime``)."""

_UNDO_TIMEOUT = 10.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """What `Client.new_container` was asked for; see there."""

    image: Image | str | None = None
    args: Sequence[str] | None = None
    spec_opts: Sequence[SpecOpt] = ()
    spec: Spec | None = None
    snapshot: str | None = None
    snapshotter: str | None = None
    runtime: str | None = None
    runtime_options: RuncOptions | Message | None = None
    labels: Mapping[str, str] | None = None
    extensions: Mapping[str, Message] | None = None

    def check(self) -> None:
        """Refuse what contradicts itself, before anything is made.

        Raises:
            InvalidArgument: Options contradict each other or are of the wrong kind.
        """
        if self.spec is not None and (self.args is not None or self.spec_opts):
            raise InvalidArgument("give either a whole spec, or args and spec_opts to make one, not both")
        if self.spec is None and self.args is None and self.image is None and not self.spec_opts:
            raise InvalidArgument("nothing to run: give an image, args, spec_opts or a spec")
        if isinstance(self.args, str | bytes):
            raise InvalidArgument(
                f"args is a list of strings, not {self.args!r}; for a shell: ['sh', '-c', ...]"
            )
        for name in self.extensions or ():
            if not name:
                raise InvalidArgument("the name of an extension is empty")


async def create_container(scope: Scope, container_id: str, options: ContainerOptions) -> Container:
    """Make a container record, and the snapshot for its root filesystem; see `Client.new_container`."""
    check_identifier(container_id, "container id")
    options.check()
    snapshotter = await resolve_snapshotter(scope.services, options.snapshotter)
    # Without a lease the garbage collector may take the new snapshot before the record refers to it.
    async with lease(scope.services):
        image = (
            await Image.get(scope.services, options.image)
            if isinstance(options.image, str)
            else options.image
        )
        key = options.snapshot or (container_id if image is not None else "")
        made_snapshot = image is not None and options.snapshot is None
        if image is not None and made_snapshot:
            await _prepare_snapshot(scope, image, snapshotter, key)
        try:
            spec = options.spec
            if spec is None:
                spec = await _generate(scope, container_id, options, image, snapshotter, key)
            record = RawContainer(
                id=container_id,
                image=image.name if image is not None else "",
                labels=dict(options.labels or {}),
                runtime=ContainerRuntime(
                    name=options.runtime or DEFAULT_RUNTIME,
                    options=_pack_runtime_options(options.runtime_options),
                ),
                spec=typeurl.pack(to_json(spec), typeurl.SPEC),
                snapshotter=snapshotter if key else "",
                snapshot_key=key,
                extensions={name: typeurl.pack(value) for name, value in (options.extensions or {}).items()},
            )
            reply = await carry_through(
                partial(scope.services.containers.create, CreateContainerRequest(container=record)),
                undo=partial(_forget_container, scope, container_id),
            )
        except BaseException:
            if made_snapshot:
                await _remove_snapshot(scope, snapshotter, key)
            raise
    assert reply.container is not None
    return Container(scope, ContainerInfo.from_raw(reply.container))


async def _prepare_snapshot(scope: Scope, image: Image, snapshotter: str, key: str) -> None:
    if not await image.is_unpacked(snapshotter):
        await image.unpack(snapshotter)
    try:
        await Snapshotter(scope.services, snapshotter).prepare(key, await image.chain_id())
    except AlreadyExists as exc:
        raise AlreadyExists(
            f"there is a snapshot {key!r} already; remove it, or name another one with snapshot=",
            method=exc.method,
        ) from exc


async def _remove_snapshot(scope: Scope, snapshotter: str, key: str) -> None:
    with anyio.move_on_after(_UNDO_TIMEOUT, shield=True):
        try:
            await Snapshotter(scope.services, snapshotter).remove(key)
        except ContainerdError as exc:
            _log.debug("snapshot not removed", key=key, error=str(exc))


def _pack_runtime_options(options: RuncOptions | Message | None) -> AnyMessage | None:
    if options is None:
        return None
    return typeurl.pack(options.raw if isinstance(options, RuncOptions) else options)


async def _forget_container(scope: Scope, container_id: str) -> None:
    with suppress(ContainerdError):
        await scope.services.containers.delete(DeleteContainerRequest(id=container_id))


async def _generate(
    scope: Scope,
    container_id: str,
    options: ContainerOptions,
    image: Image | None,
    snapshotter: str,
    key: str,
) -> Spec:
    @asynccontextmanager
    async def rootfs() -> AsyncIterator[Path]:
        mounts = await Snapshotter(scope.services, snapshotter).mounts(key)
        async with temporary_mount(mounts) as path:
            yield path

    opts: list[SpecOpt] = []
    if image is not None:
        opts.append(with_image_config())
    if options.args is not None:
        opts.append(with_process_args(*options.args))
    context = SpecContext(
        container_id=container_id,
        namespace=scope.namespace,
        version=await scope.core.daemon_version(),
        image_config=await image.config() if image is not None else None,
        rootfs=rootfs if key else None,
    )
    return await generate_spec(context, *opts, *options.spec_opts)
