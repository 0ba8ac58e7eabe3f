"""How a container comes to be: a snapshot, a spec and a record, under a lease."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from containerd_aio import typeurl
from containerd_aio._cancellation import carry_through
from containerd_aio._identifiers import check_identifier
from containerd_aio._mount import temporary_mount
from containerd_aio._new_rootfs import new_rootfs, passing_view
from containerd_aio.api.containerd.services.containers.v1 import Container as RawContainer
from containerd_aio.api.containerd.services.containers.v1 import (
    ContainerRuntime,
    CreateContainerRequest,
    DeleteContainerRequest,
)
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.container import STOP_SIGNAL_LABEL, Container, ContainerInfo, pack_extensions
from containerd_aio.errors import ContainerdError, InvalidArgument, NotFound
from containerd_aio.image import Image
from containerd_aio.oci import (
    RuncOptions,
    SpecContext,
    generate_spec,
    to_json,
    with_image_config,
    with_process_args,
    with_user_namespace,
)
from containerd_aio.services._convert import unique_name
from containerd_aio.services.leases import lease
from containerd_aio.services.snapshots import DEFAULT_SNAPSHOTTER, SNAPSHOTTER_LABEL, Snapshotter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from betterproto2 import Message

    from containerd_aio._scope import Scope
    from containerd_aio.idmap import IDMap
    from containerd_aio.oci import Spec, SpecOpt

DEFAULT_RUNTIME = "io.containerd.runc.v2"
"""The runtime of a container that names none, on Linux (Go: ``defaults.DefaultRuntime``)."""

RUNTIME_LABEL = "containerd.io/defaults/runtime"
"""Namespace label that names the namespace's default runtime."""

# Labels of an image that mean something to containerd and must not pass to containers.
_RESERVED_LABELS = ("containerd.io/", "io.cri-containerd")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """What `Client.new_container` was asked for; see there."""

    image: Image | str | None = None
    args: Sequence[str] | None = None
    spec_opts: Sequence[SpecOpt] = ()
    spec: Spec | None = None
    snapshot: str | Literal[False] | None = None
    new_snapshot: str | None = None
    snapshot_labels: Mapping[str, str] | None = None
    view: bool = False
    id_map: IDMap | None = None
    snapshotter: str | None = None
    runtime: str | None = None
    runtime_options: RuncOptions | Message | None = None
    labels: Mapping[str, str] | None = None
    image_labels: bool = False
    stop_signal: str | None = None
    extensions: Mapping[str, Message] | None = None
    sandbox: str | None = None

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
        if not isinstance(self.image, Image | str | None):
            raise InvalidArgument(f"image is {self.image!r}; give an Image, or the name of one")
        for name, value in {**(self.labels or {}), **(self.snapshot_labels or {})}.items():
            if not (isinstance(name, str) and name and isinstance(value, str)):
                raise InvalidArgument(f"label {name!r}: {value!r} is not valid; give {{'name': 'value'}}")
        self._check_snapshot()
        if self.image is None and (self.image_labels or self.stop_signal is not None):
            raise InvalidArgument("image_labels and stop_signal are taken from an image, and there is none")
        if self.sandbox:
            check_identifier(self.sandbox, "sandbox id")
        pack_extensions(self.extensions or {})

    def _check_snapshot(self) -> None:
        about_new = self.new_snapshot is not None or self.view or self.id_map or self.snapshot_labels
        if about_new and (self.image is None or self.snapshot is not None):
            why = "snapshot= names one" if self.snapshot else "none is made"
            raise InvalidArgument(
                f"new_snapshot, snapshot_labels, view and id_map are about a new snapshot of an image, and here {why}"
            )
        if self.snapshot == "" or self.new_snapshot == "":
            raise InvalidArgument(
                "the key of a snapshot is empty; for no snapshot at all give snapshot=False"
            )


async def create_container(scope: Scope, container_id: str, options: ContainerOptions) -> Container:
    """Make a container record, and the snapshot for its root filesystem; see `Client.new_container`."""
    check_identifier(container_id, "container id")
    options.check()
    runtime, snapshotter = await resolve_defaults(scope, options.runtime, options.snapshotter)
    # Without a lease the garbage collector may take the new snapshot before the record refers to it.
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(lease(scope.services))
        image = (
            await Image.get(scope.services, options.image)
            if isinstance(options.image, str)
            else options.image
        )
        key = options.snapshot or ""
        if key:
            await Snapshotter(scope.services, snapshotter).mounts(key)  # it must be there
        elif image is not None and options.snapshot is None:
            key = options.new_snapshot or container_id
            await stack.enter_async_context(
                new_rootfs(
                    scope,
                    image,
                    snapshotter,
                    key,
                    view=options.view,
                    id_map=options.id_map,
                    labels=options.snapshot_labels,
                )
            )
        spec = options.spec
        if spec is None:
            spec = await _generate(scope, container_id, options, image, snapshotter, key)
        record = RawContainer(
            id=container_id,
            image=image.name if image is not None else "",
            labels=await _labels(options, image),
            runtime=ContainerRuntime(name=runtime, options=_pack_runtime_options(options.runtime_options)),
            spec=typeurl.pack(to_json(spec), typeurl.SPEC),
            snapshotter=snapshotter if key else "",
            snapshot_key=key,
            extensions=pack_extensions(options.extensions or {}),
            sandbox=options.sandbox or "",
        )
        return await create_record(scope, record)


async def create_record(scope: Scope, record: RawContainer) -> Container:
    """Have the daemon keep a record; given up half-way, it is removed again."""
    reply = await carry_through(
        partial(scope.services.containers.create, CreateContainerRequest(container=record)),
        undo=partial(_forget_container, scope, record.id),
    )
    assert reply.container is not None
    return Container(scope, ContainerInfo.from_raw(reply.container))


async def resolve_defaults(scope: Scope, runtime: str | None, snapshotter: str | None) -> tuple[str, str]:
    """Return runtime and snapshotter: as asked for, else the namespace's own, else containerd's."""
    labels: Mapping[str, str] = {}
    if not runtime or not snapshotter:
        from containerd_aio.api.containerd.services.namespaces.v1 import GetNamespaceRequest

        with suppress(NotFound):
            reply = await scope.services.namespaces.get(GetNamespaceRequest(name=scope.namespace))
            labels = reply.namespace.labels if reply.namespace is not None else {}
    return (
        runtime or labels.get(RUNTIME_LABEL) or DEFAULT_RUNTIME,
        snapshotter or labels.get(SNAPSHOTTER_LABEL) or DEFAULT_SNAPSHOTTER,
    )


async def _labels(options: ContainerOptions, image: Image | None) -> dict[str, str]:
    """Return the labels of the container: those of the image below those that were given."""
    labels: dict[str, str] = {}
    if image is not None and (options.image_labels or options.stop_signal is not None):
        config = (await image.config()).get("config") or {}
        if options.image_labels:
            found = config.get("Labels") or {}
            labels = {k: v for k, v in found.items() if not k.startswith(_RESERVED_LABELS)}
        if options.stop_signal is not None:
            labels[STOP_SIGNAL_LABEL] = config.get("StopSignal") or options.stop_signal
    return labels | dict(options.labels or {})


def _pack_runtime_options(options: RuncOptions | Message | None) -> AnyMessage | None:
    if options is None or isinstance(options, AnyMessage):
        return options
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
        async with AsyncExitStack() as stack:
            if not key:
                assert image is not None
                passing = f"{container_id}-look-{unique_name()}"
                await stack.enter_async_context(passing_view(scope, image, snapshotter, passing))
            mounts = await Snapshotter(scope.services, snapshotter).mounts(key or passing)
            yield await stack.enter_async_context(temporary_mount(mounts))

    opts: list[SpecOpt] = []
    if image is not None:
        opts.append(with_image_config())
    if options.args is not None:
        opts.append(with_process_args(*options.args))
    if options.id_map is not None:
        opts.append(with_user_namespace(options.id_map.uid_mappings, options.id_map.gid_mappings))
    context = SpecContext(
        container_id=container_id,
        namespace=scope.namespace,
        version=await scope.core.daemon_version(),
        image_config=await image.config() if image is not None else None,
        rootfs=rootfs if key or image is not None else None,
    )
    return await generate_spec(context, *opts, *options.spec_opts)
