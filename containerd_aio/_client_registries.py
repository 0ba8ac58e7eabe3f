"""What a client does with registries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from containerd_aio._client_base import ClientBase

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Mapping

    from containerd_aio.distribution._selection import PlatformChoice
    from containerd_aio.distribution.fetch import FetchLimits
    from containerd_aio.distribution.hosts import HostsFunction
    from containerd_aio.distribution.keychain import Credentials, Keychain
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.distribution.remote import Via
    from containerd_aio.image import Image
    from containerd_aio.services.descriptor import Descriptor, Platform


class RegistryVerbs(ClientBase):
    """The verbs about images at registries."""

    async def pull(
        self,
        name: str,
        *,
        platform: Platform | str | None = None,
        unpack: bool = True,
        snapshotter: str | None = None,
        keychain: Keychain | Credentials | None = None,
        hosts_dir: str | os.PathLike[str] | None = None,
        hosts: HostsFunction | None = None,
        plain_http: bool = False,
        labels: Mapping[str, str] | None = None,
        all_metadata: bool = False,
        discard_layers: bool = False,
        convert_schema1: bool = False,
        limits: FetchLimits | None = None,
        handler: Callable[[Descriptor], Awaitable[object]] | None = None,
        progress: ProgressCallback | None = None,
        via: Via = "auto",
    ) -> Image:
        """Pull an image from a registry: fetch it, unpack it, and give it its name (Go: ``Client.Pull``).

        A pull that was broken off is resumed by the next one. Several pulls of one process fetch and unpack what they
        have in common once.

        Args:
            name: Name of the image, as Docker's users write it too: ``busybox`` is ``docker.io/library/busybox:latest``.
            platform: Of an image with several platforms take the one that suits this best; by default this machine's.
            unpack: Unpack it as well; without, the first container will.
            snapshotter: Where to; by default the namespace's default, else ``overlayfs``.
            keychain: Knows credentials; or the credentials themselves. Default: what Docker and Podman have stored.
            hosts_dir: Directory with a ``hosts.toml`` for each registry; by default ``/etc/containerd/certs.d``, else
                ``/etc/docker/certs.d``.
            hosts: Returns the hosts of a registry, instead of those files.
            plain_http: Do not encrypt where nothing is configured.
            labels: Labels of the image; by default it keeps those it has.
            all_metadata: Fetch manifests and configs for the other platforms as well, without layers.
            discard_layers: Do not keep the packed layers once they are unpacked. Such an image runs, but it can be
                neither exported nor pushed.
            convert_schema1: Convert a manifest of Docker's schema 1, of before 2016, instead of refusing it.
            limits: How much is done at the same time.
            handler: Awaited with each object before it is fetched.
            progress: Called with each step; a `distribution.progress.Progress` can be iterated.
            via: Who moves the bytes: ``client``, this process; ``daemon``, containerd with its own settings for
                registries (1.7 and later); ``auto``, the daemon where it can and nothing is asked for, or set up on this
                machine, that it does not know of.

        Raises:
            NotFound: There is no such image, or it has nothing for the platform.
            Unauthenticated: Credentials are missing or refused.
            PermissionDenied: They are not enough.
            ResourceExhausted: The registry asks for more patience than there is.
            Unavailable: The registry or the daemon cannot be reached.
            DataLoss: What was sent is not what was announced.
            Unimplemented: The daemon is to do it, and has no transfer service (containerd 1.6).
            InvalidArgument: An argument, or a file with hosts or credentials, is malformed.
        """
        from containerd_aio.distribution.remote import Remote, pull_image
        from containerd_aio.image import Image

        record, chosen = await pull_image(
            self.services,
            Remote(name, keychain=keychain, hosts_dir=hosts_dir, hosts=hosts, plain_http=plain_http),
            platform=platform,
            unpack=unpack,
            snapshotter=snapshotter,
            labels=labels,
            all_metadata=all_metadata,
            discard_layers=discard_layers,
            convert_schema1=convert_schema1,
            limits=limits,
            handler=handler,
            progress=progress,
            via=via,
        )
        return Image(self.services, record, platform=chosen)

    async def fetch(
        self,
        name: str,
        *,
        platform: PlatformChoice = None,
        all_platforms: bool = False,
        keychain: Keychain | Credentials | None = None,
        hosts_dir: str | os.PathLike[str] | None = None,
        hosts: HostsFunction | None = None,
        plain_http: bool = False,
        labels: Mapping[str, str] | None = None,
        all_metadata: bool = False,
        limits: FetchLimits | None = None,
        handler: Callable[[Descriptor], Awaitable[object]] | None = None,
        progress: ProgressCallback | None = None,
    ) -> Image:
        """Fetch an image from a registry without unpacking it, for several platforms if you like (Go: ``Client.Fetch``).

        Arguments and errors are those of `pull`, but for:

        Args:
            name: Name of the image.
            platform: Of an image with several platforms take what suits any of these; by default this machine's.
            all_platforms: Take all of them.
            keychain: See `pull`, as the others.
            hosts_dir: As above.
            hosts: As above.
            plain_http: As above.
            labels: As above.
            all_metadata: As above.
            limits: As above.
            handler: As above.
            progress: As above.
        """
        from containerd_aio.distribution.remote import Remote, fetch_image
        from containerd_aio.image import Image

        record, chosen = await fetch_image(
            self.services,
            Remote(name, keychain=keychain, hosts_dir=hosts_dir, hosts=hosts, plain_http=plain_http),
            platform=platform,
            all_platforms=all_platforms,
            labels=labels,
            all_metadata=all_metadata,
            limits=limits,
            handler=handler,
            progress=progress,
        )
        return Image(self.services, record, platform=chosen)

    async def push(
        self,
        name: str,
        image: Image | Descriptor | None = None,
        *,
        platform: Platform | str | None = None,
        keychain: Keychain | Credentials | None = None,
        hosts_dir: str | os.PathLike[str] | None = None,
        hosts: HostsFunction | None = None,
        plain_http: bool = False,
        max_uploads: int = 5,
        chunk_size: int | None = None,
        skip_non_distributable: bool = True,
        progress: ProgressCallback | None = None,
        via: Via = "client",
    ) -> Descriptor:
        """Push an image to a registry: what it lacks of it, the name at the very end (Go: ``Client.Push``).

        Args:
            name: What it is to be called there.
            image: The image; by default the one of that name.
            platform: Of an image with several platforms push only the variant that suits this best: its manifest alone,
                which is what the name names there then, without the index (as ``ctr images push --platform`` does). By
                default all of it is pushed, which needs all of it to be here.
            keychain: See `pull`, as the next three.
            hosts_dir: As above; of the hosts, the first that takes pushes is used.
            hosts: As above.
            plain_http: As above.
            max_uploads: Blobs at the same time (Docker: ``max-concurrent-uploads``).
            chunk_size: Send blobs in requests of at most so many bytes, for registries behind something that limits
                them.
            skip_non_distributable: Leave out layers that must not be passed on.
            progress: Called with each step.
            via: Who moves the bytes: ``client``, this process; ``daemon``, containerd with its own settings for
                registries (1.7 and later); ``auto``, the daemon on the same conditions as for a `pull`.

        Returns:
            What the name names there.

        Raises:
            NotFound: There is no such image, or some of its content is not here.
            Unauthenticated: Credentials are missing or refused.
            PermissionDenied: They are not enough.
            Unavailable: The registry or the daemon cannot be reached.
            Unimplemented: The daemon is to do it, and has no transfer service (containerd 1.6).
            InvalidArgument: An argument, or a file with hosts or credentials, is malformed; or the daemon is to do what
                it cannot.
        """
        from containerd_aio.distribution.remote import Remote, push_image
        from containerd_aio.image import Image

        remote = Remote(name, keychain=keychain, hosts_dir=hosts_dir, hosts=hosts, plain_http=plain_http)
        if image is None:
            image = await Image.get(self.services, str(remote.reference))
        return await push_image(
            self.services,
            remote,
            image.target if isinstance(image, Image) else image,
            source=image.name if isinstance(image, Image) else None,
            platform=platform,
            max_uploads=max_uploads,
            chunk_size=chunk_size,
            skip_non_distributable=skip_non_distributable,
            progress=progress,
            via=via,
        )
