"""What a client does with containers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio._client_base import ClientBase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from betterproto2 import Message

    from containerd_aio.container import Container
    from containerd_aio.image import Image
    from containerd_aio.oci import RuncOptions, Spec, SpecOpt


class ContainerVerbs(ClientBase):
    """The verbs about containers."""

    async def new_container(
        self,
        id: str,  # noqa: A002
        *,
        image: Image | str | None = None,
        args: Sequence[str] | None = None,
        spec_opts: Sequence[SpecOpt] = (),
        spec: Spec | None = None,
        snapshot: str | None = None,
        snapshotter: str | None = None,
        runtime: str | None = None,
        runtime_options: RuncOptions | Message | None = None,
        labels: Mapping[str, str] | None = None,
        extensions: Mapping[str, Message] | None = None,
    ) -> Container:
        """Create a container: a record of what to run, and a snapshot to run it in.

        Args:
            id: Its id, unique in the namespace.
            image: The image, or its name; unpacked if it is not yet.
            args: The command; that of the image by default.
            spec_opts: Changes to the OCI spec, applied in order after the image's configuration and `args`.
            spec: A whole OCI spec instead.
            snapshot: Key of an existing snapshot; by default one is prepared from the image under the container's id.
            snapshotter: Name of the snapshotter; by default the namespace's, else ``overlayfs``.
            runtime: Name of the runtime; ``io.containerd.runc.v2`` by default.
            runtime_options: Options of the runtime: `oci.RuncOptions` for runc, or a message of ``containerd_aio.api``.
            labels: Its labels.
            extensions: Messages kept with the record, by name.

        Raises:
            AlreadyExists: There is a container, or a snapshot, of that id.
            NotFound: There is no such image.
            InvalidArgument: An argument can't be used.
        """
        from containerd_aio._new_container import ContainerOptions, create_container

        options = ContainerOptions(
            image=image,
            args=args,
            spec_opts=spec_opts,
            spec=spec,
            snapshot=snapshot,
            snapshotter=snapshotter,
            runtime=runtime,
            runtime_options=runtime_options,
            labels=labels,
            extensions=extensions,
        )
        return await create_container(self._scope, id, options)

    async def container(self, id: str) -> Container:  # noqa: A002
        """Return the container of that id.

        Raises:
            NotFound: There is none.
        """
        from containerd_aio.container import load_container

        return await load_container(self._scope, id)

    async def containers(self, *filters: str) -> list[Container]:
        """Return the containers that match any of `filters` (containerd's filter language), or all."""
        from containerd_aio.container import list_containers

        return await list_containers(self._scope, filters)
