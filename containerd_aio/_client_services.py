"""What a client does with single services of the daemon: content, snapshots, diffs, leases, plugins, sandboxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio._client_base import ClientBase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from betterproto2 import Message

    from containerd_aio.api.google.protobuf import Any as AnyMessage
    from containerd_aio.oci import RuncOptions, Spec
    from containerd_aio.sandbox import Sandbox
    from containerd_aio.services.content import ContentStore
    from containerd_aio.services.diff import Diff
    from containerd_aio.services.introspection import Introspection
    from containerd_aio.services.leases import Leases
    from containerd_aio.services.sandboxes import SandboxInfo
    from containerd_aio.services.snapshots import Mount, Snapshotter


class ServiceVerbs(ClientBase):
    """The verbs about single services."""

    @property
    def content(self) -> ContentStore:
        """The content store: blobs by digest, and the ingests through which they come in."""
        from containerd_aio.services.content import ContentStore

        return ContentStore(self.services)

    @property
    def diff(self) -> Diff:
        """The diff service: layers applied to snapshots, and made from what was changed in them."""
        from containerd_aio.services.diff import Diff

        return Diff(self.services)

    @property
    def leases(self) -> Leases:
        """The leases; `lease` holds one for the length of a block."""
        from containerd_aio.services.leases import Leases

        return Leases(self.services)

    @property
    def introspection(self) -> Introspection:
        """What the daemon says about itself: its plugins, its runtimes."""
        from containerd_aio.services.introspection import Introspection

        return Introspection(self.services)

    async def snapshotter(self, name: str | None = None) -> Snapshotter:
        """Return a snapshotter.

        Args:
            name: Which; by default the namespace's (its label ``containerd.io/defaults/snapshotter``), else
                ``overlayfs``.
        """
        from containerd_aio.services.snapshots import Snapshotter, resolve_snapshotter

        return Snapshotter(self.services, await resolve_snapshotter(self.services, name))

    async def new_sandbox(
        self,
        id: str,  # noqa: A002
        *,
        runtime: str = "io.containerd.runc.v2",
        runtime_options: RuncOptions | Message | None = None,
        spec: Spec | None = None,
        labels: Mapping[str, str] | None = None,
        extensions: Mapping[str, Message | AnyMessage] | None = None,
        sandboxer: str = "shim",
        rootfs: Sequence[Mount] = (),
        options: Message | AnyMessage | None = None,
        netns_path: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> Sandbox:
        """Make a sandbox: a record, and what its controller sets up for it (containerd 1.7 and later).

        Args:
            id: Its id, unique in the namespace.
            runtime: Name of the runtime.
            runtime_options: Options of the runtime.
            spec: OCI spec of the sandbox; an empty one by default.
            labels: Its labels.
            extensions: Messages kept with the record, by name.
            sandboxer: The controller: ``shim`` leaves it to the runtime's shim, ``podsandbox`` is that of the CRI plugin.
                containerd 1.7 has only the first and takes no notice.
            rootfs: Its root filesystem, for controllers that want one.
            options: Options of the controller.
            netns_path: A network namespace to use.
            annotations: Annotations for the runtime.

        Raises:
            AlreadyExists: There is a sandbox of that id.
            NotFound: The daemon has no such controller.
            Unimplemented: The daemon, or the runtime, has no sandboxes.
            InvalidArgument: An argument can't be used.
        """
        from containerd_aio.sandbox import create_sandbox

        return await create_sandbox(
            self._scope,
            id,
            runtime=runtime,
            runtime_options=runtime_options,
            spec=spec,
            labels=labels,
            extensions=extensions,
            sandboxer=sandboxer,
            rootfs=rootfs,
            options=options,
            netns_path=netns_path,
            annotations=annotations,
        )

    async def sandbox(self, id: str) -> Sandbox:  # noqa: A002
        """Return the sandbox of that id.

        Raises:
            NotFound: There is none.
            Unimplemented: The daemon has no sandboxes (containerd 1.6).
        """
        from containerd_aio.sandbox import load_sandbox

        return await load_sandbox(self._scope, id)

    async def sandboxes(self, *filters: str) -> list[SandboxInfo]:
        """Return the sandboxes that match any of `filters` (they know ``id`` and ``labels``), or all.

        Raises:
            Unimplemented: The daemon has no sandboxes (containerd 1.6).
        """
        from containerd_aio.services.sandboxes import SandboxStore

        return await SandboxStore(self.services).list(*filters)
