"""What a client does with containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from containerd_aio._client_base import ClientBase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from betterproto2 import Message

    from containerd_aio.cni import Network
    from containerd_aio.container import Container
    from containerd_aio.idmap import IDMap
    from containerd_aio.image import Image
    from containerd_aio.oci import Mount, RuncOptions, Spec, SpecOpt
    from containerd_aio.run import Pull, RunResult
    from containerd_aio.services.descriptor import Descriptor
    from containerd_aio.stdio import IOCreator


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
        snapshot: str | Literal[False] | None = None,
        new_snapshot: str | None = None,
        snapshot_labels: Mapping[str, str] | None = None,
        view: bool = False,
        id_map: IDMap | None = None,
        snapshotter: str | None = None,
        runtime: str | None = None,
        runtime_options: RuncOptions | Message | None = None,
        labels: Mapping[str, str] | None = None,
        image_labels: bool = False,
        stop_signal: str | None = None,
        extensions: Mapping[str, Message] | None = None,
        sandbox: str | None = None,
    ) -> Container:
        """Create a container: a record of what to run, and a snapshot to run it in.

        Args:
            id: Its id, unique in the namespace.
            image: The image, or its name; unpacked if it is not yet.
            args: The command; that of the image by default.
            spec_opts: Changes to the OCI spec, applied in order after the image's configuration, `args` and `id_map`.
            spec: A whole OCI spec instead.
            snapshot: Key of an existing snapshot (Go: ``WithSnapshot``); by default one is prepared from the image. False
                makes none: the spec names the root filesystem, or `Container.new_task` is given mounts.
            new_snapshot: Key of the snapshot that is prepared (``WithNewSnapshot``); the container's id by default.
            snapshot_labels: Labels of that snapshot.
            view: Make it read-only (``WithNewSnapshotView``).
            id_map: Run in a user namespace with these ids: the files of the snapshot are given to them
                (``WithUserNSRemappedSnapshot``), by the snapshotter if it can, else here, which needs root; and a
                generated spec gets the mappings.
            snapshotter: Name of the snapshotter; by default the namespace's (its label
                ``containerd.io/defaults/snapshotter``), else ``overlayfs``.
            runtime: Name of the runtime, or absolute path of a shim; by default the namespace's (its label
                ``containerd.io/defaults/runtime``), else ``io.containerd.runc.v2``.
            runtime_options: Options of the runtime: `oci.RuncOptions` for runc, or a message of ``containerd_aio.api``.
            labels: Its labels.
            image_labels: Have those of the image's configuration as well, below `labels` (``WithImageConfigLabels``);
                those that mean something to containerd are left out.
            stop_signal: Note the signal that the image wants to be stopped with, or this one if it names none, in a label
                (``WithImageStopSignal``); `Container.stop_signal` reads it.
            extensions: Messages kept with the record, by name; of JSON, what `typeurl.pack` makes.
            sandbox: Id of the sandbox it belongs to (containerd 1.7 and later; 1.6 ignores it).

        Raises:
            AlreadyExists: There is a container, or a snapshot, of that id.
            NotFound: There is no such image or snapshot.
            InvalidArgument: An argument can't be used.
            PermissionDenied: A user or group has to be looked up in the snapshot, or its files given away, and this
                process may not.
        """
        from containerd_aio._new_container import ContainerOptions, create_container

        options = ContainerOptions(
            image=image,
            args=args,
            spec_opts=spec_opts,
            spec=spec,
            snapshot=snapshot,
            new_snapshot=new_snapshot,
            snapshot_labels=snapshot_labels,
            view=view,
            id_map=id_map,
            snapshotter=snapshotter,
            runtime=runtime,
            runtime_options=runtime_options,
            labels=labels,
            image_labels=image_labels,
            stop_signal=stop_signal,
            extensions=extensions,
            sandbox=sandbox,
        )
        return await create_container(self._scope, id, options)

    async def restore(
        self,
        id: str,  # noqa: A002
        checkpoint: Image | Descriptor | str,
        *,
        rw: bool = True,
        spec: Spec | None = None,
        snapshot: str | None = None,
        snapshotter: str | None = None,
        runtime: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Container:
        """Make a container from a checkpoint: its image, spec, runtime, and what was changed in its root filesystem.

        Its processes continue where they were with ``container.new_task(checkpoint=...)``. The container of the
        checkpoint may be there still: another id gives another cgroup and another snapshot.

        Args:
            id: Id of the new container.
            checkpoint: An image from `Container.checkpoint` or `Task.checkpoint`, its name, or its descriptor.
            rw: Apply what was changed in the root filesystem (Go: ``WithRestoreRW``).
            spec: Another spec than that of the checkpoint; needed if it was made without a task.
            snapshot: Key of the new snapshot; the container's id by default.
            snapshotter: Where it is made; by default where that of the checkpoint was.
            runtime: Another runtime than that of the checkpoint.
            labels: Labels of the container; those of the first are not in a checkpoint.

        Raises:
            AlreadyExists: There is a container, or a snapshot, of that id.
            NotFound: There is no such checkpoint, or it lacks a part: the spec, the image, content.
            InvalidArgument: `checkpoint` is none, or an argument can't be used.
        """
        from containerd_aio._restore import RestoreOptions, restore

        options = RestoreOptions(
            rw=rw, spec=spec, snapshot=snapshot, snapshotter=snapshotter, runtime=runtime, labels=labels
        )
        return await restore(self._scope, id, checkpoint, options)

    async def run(
        self,
        image: Image | str,
        args: Sequence[str] | None = None,
        *,
        id: str | None = None,  # noqa: A002
        env: Mapping[str, str | None] | None = None,
        mounts: Sequence[Mount] = (),
        user: str | None = None,
        cwd: str | None = None,
        memory_limit: int | None = None,
        cpus: float | None = None,
        pids_limit: int | None = None,
        network: str | Network = "none",
        stdin: bytes | None = None,
        io: IOCreator | None = None,
        timeout: float | None = None,
        check: bool = False,
        pull: Pull = "never",
        spec_opts: Sequence[SpecOpt] = (),
        snapshotter: str | None = None,
        runtime: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> RunResult:
        """Run a command in a container of its own, and return how it ended and what it wrote.

        Container, task and snapshot are removed before it returns or raises, also when it is cancelled. A restart of
        containerd meanwhile does not end the command.

        Args:
            image: The image, or its name, as Docker's users write it too; unpacked if it is not yet.
            args: The command; that of the image by default.
            id: Id of the container; by default one that nobody else has.
            env: Changes of the image's environment; None removes a variable.
            mounts: Further mounts, such as ``{"destination": "/data", "type": "bind", "source": "/srv/data", "options":
                ["rbind", "ro"]}``.
            user: ``user``, ``uid``, ``user:group`` or ``uid:gid``; that of the image by default.
            cwd: Working directory.
            memory_limit: Bytes.
            cpus: How many CPUs' worth of time it may use, such as 0.5; at least 0.01.
            pids_limit: How many processes and threads there may be in it.
            network: ``"none"``, a loopback only; ``"host"``, the daemon's host's, with its names and resolver; the path of
                a network namespace to join; or a `cni.Network`, attached while the command runs.
            stdin: Sent to the command, followed by the end of its stdin; by default its stdin is empty.
            io: Its standard streams instead of the capture of both outputs, such as ``stdio.streams(stdout=...)``.
            timeout: Seconds it may run; it is killed then. None for no limit.
            check: Whether to raise when it does not end with 0.
            pull: Whether to pull the image: ``"never"``, ``"missing"``, if it is not there, or ``"always"``.
            spec_opts: Changes to the OCI spec, applied after everything else.
            snapshotter: As in `new_container`.
            runtime: As in `new_container`.
            labels: As in `new_container`.

        Raises:
            RunTimeout: It had not ended in time; ``result`` has its output (also a `DeadlineExceeded`).
            RunFailed: With `check`: it did not end with 0; ``result`` has its output.
            NotFound: There is no such image.
            InvalidArgument: An argument can't be used.
            Unknown: The runtime could not start it; the text is runc's (a missing binary, for example).
        """
        from containerd_aio.run import RunOptions, run

        options = RunOptions(
            args=args,
            id=id,
            env=env,
            mounts=mounts,
            user=user,
            cwd=cwd,
            memory_limit=memory_limit,
            cpus=cpus,
            pids_limit=pids_limit,
            network=network,
            stdin=stdin,
            io=io,
            timeout=timeout,
            check=check,
            pull=pull,
            spec_opts=spec_opts,
            snapshotter=snapshotter,
            runtime=runtime,
            labels=labels,
        )
        return await run(self._scope, image, options)

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
