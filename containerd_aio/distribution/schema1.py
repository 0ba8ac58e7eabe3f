"""Docker's image manifests of schema 1, as registries gave them until 2016 (Go: remotes/docker/schema1).

Such a manifest lists the layers from the top down, beside each a JSON text that was the config of the image up to there,
and is signed within itself. containerd can't run it: it is converted to an OCI manifest when the image is pulled.
"""

from __future__ import annotations

import base64
import hashlib
import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containerd_aio.distribution._compression import decompressed
from containerd_aio.distribution._layers import UNCOMPRESSED_LABEL, compression_of
from containerd_aio.distribution.manifests import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    gc_labels,
    parse_json,
)
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor, check_digest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from containerd_aio.services.content import ContentStore

__all__ = [
    "CONVERTED_LABEL",
    "DOCKER_SCHEMA1",
    "DOCKER_SCHEMA1_SIGNED",
    "Schema1Layer",
    "Schema1Manifest",
    "convert_schema1",
    "is_schema1",
    "parse_schema1",
    "schema1_payload",
]

DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

CONVERTED_LABEL = "io.containerd.image/converted-docker-schema1"
"""Label of an image that was converted: the digest of the manifest of schema 1."""

_LAYER_TYPES = {"none": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}

# What an OCI config takes over from the text of the topmost layer.
_CONFIG_FIELDS = ("created", "author", "architecture", "os", "os.version", "variant", "config")

_BLOCK = 512
_MOST_LAYERS = 2000


def is_schema1(media_type: str) -> bool:
    """Tell whether this is the media type of a manifest of schema 1."""
    return media_type in {DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED}


@dataclass(frozen=True, slots=True)
class Schema1Layer:
    """A layer of a manifest of schema 1.

    Attributes:
        digest: Digest of the blob.
        config: What was the image's config up to this layer.
    """

    digest: str
    config: Mapping[str, Any]

    @property
    def throwaway(self) -> bool:
        """The step changed no file; its blob is of no use."""
        return bool(self.config.get("throwaway"))


@dataclass(frozen=True, slots=True)
class Schema1Manifest:
    """A manifest of schema 1.

    Attributes:
        name: Repository it was pushed to.
        tag: Tag it was pushed with.
        architecture: Processor it is for.
        digest: Digest of what is signed, by which registries know it.
        layers: From the bottom up, other than in the manifest.
    """

    name: str
    tag: str
    architecture: str
    digest: str
    layers: tuple[Schema1Layer, ...]


def schema1_payload(data: bytes) -> bytes:
    """Return what is signed of a manifest: all of it but the signatures (libtrust: ParsePrettySignature).

    The signatures are not verified: they are by keys that nobody knows, and a digest says more.

    Raises:
        InvalidArgument: It is malformed.
    """
    signatures = parse_json(data, "the manifest of schema 1").get("signatures")
    if signatures is None:
        return data
    try:
        protected = json.loads(_unpadded(signatures[0]["protected"]))
        length, tail = protected["formatLength"], _unpadded(protected["formatTail"])
        if type(length) is not int or not 0 < length <= len(data):
            raise ValueError(f"formatLength is {length!r}")  # noqa: TRY301 - one except for all
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        raise InvalidArgument(f"the manifest of schema 1 has a malformed signature: {exc!r}") from exc
    return data[:length] + tail


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parse_schema1(data: bytes) -> Schema1Manifest:
    """Return the manifest in `data`, signed or not.

    Raises:
        InvalidArgument: It is malformed.
    """
    payload = schema1_payload(data)
    document = parse_json(payload, "the manifest of schema 1")
    if document.get("schemaVersion") != 1:
        raise InvalidArgument(f"the manifest has the schema {document.get('schemaVersion')!r}, not 1")
    blobs, texts = document.get("fsLayers"), document.get("history")
    if not (isinstance(blobs, list) and isinstance(texts, list) and 0 < len(blobs) == len(texts)):
        raise InvalidArgument("the manifest of schema 1 has not as many layers as it has configs, or none")
    if len(blobs) > _MOST_LAYERS:
        raise InvalidArgument(f"the manifest of schema 1 has {len(blobs)} layers, which is absurd")
    try:
        layers = [
            Schema1Layer(
                check_digest(blob["blobSum"]),
                parse_json(text["v1Compatibility"].encode(), "a config in the manifest of schema 1"),
            )
            for blob, text in zip(blobs, texts, strict=True)
        ]
    except (TypeError, KeyError, AttributeError, UnicodeError) as exc:
        raise InvalidArgument(f"the manifest of schema 1 is malformed: {exc!r}") from exc
    return Schema1Manifest(
        name=str(document.get("name") or ""),
        tag=str(document.get("tag") or ""),
        architecture=str(document.get("architecture") or ""),
        digest=f"sha256:{hashlib.sha256(payload).hexdigest()}",
        layers=tuple(reversed(layers)),
    )


async def convert_schema1(
    content: ContentStore,
    manifest: bytes,
    fetch: Callable[[str], AsyncGenerator[bytes, None]],
    *,
    digest: str | None = None,
) -> Descriptor:
    """Fetch the layers of a manifest of schema 1 and write an OCI manifest and config for them.

    Hold a lease. The result depends on nothing but the manifest and its layers.

    Args:
        content: Where everything goes.
        manifest: The manifest, signed or not.
        fetch: Gives the bytes of a blob by its digest, as an asynchronous generator; blobs that are there are not fetched.
        digest: Digest of the manifest, if it is known; checked.

    Returns:
        The OCI manifest. Label the image with `CONVERTED_LABEL`.

    Raises:
        InvalidArgument: The manifest is malformed or has another digest, or a layer is damaged.
    """
    parsed = parse_schema1(manifest)
    if digest not in {None, parsed.digest, f"sha256:{hashlib.sha256(manifest).hexdigest()}"}:
        raise InvalidArgument(f"the manifest of schema 1 has the digest {parsed.digest}, not {digest}")
    layers: list[Descriptor] = []
    diffs: list[str] = []
    history: list[dict[str, Any]] = []
    for layer in parsed.layers:
        found = None if layer.throwaway else await _layer(content, layer.digest, fetch)
        history.append(_history(layer.config, empty=found is None))
        if found is not None:
            layers.append(found[0])
            diffs.append(found[1])
    config = _config(parsed, diffs, history)
    config_digest = await content.write(f"schema1-config-{parsed.digest}", config)
    config_target = Descriptor(OCI_CONFIG, config_digest, len(config))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config_target.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    data = _json(document)
    labels = gc_labels(OCI_MANIFEST, [config_target, *layers])
    written = await content.write(f"schema1-manifest-{parsed.digest}", data, labels=labels)
    return Descriptor(OCI_MANIFEST, written, len(data))


async def _layer(
    content: ContentStore, digest: str, fetch: Callable[[str], AsyncGenerator[bytes, None]]
) -> tuple[Descriptor, str] | None:
    """Fetch a layer; return it and its diff id, or None for one without files."""
    if not await content.exists(digest):
        async with aclosing(fetch(digest)) as blob:
            await content.write(f"layer-{digest}", blob, expected=digest)
    info = await content.info(digest)
    hasher = hashlib.sha256()
    head = b""
    async with (
        aclosing(content.read(digest)) as packed,
        aclosing(decompressed(packed, what=f"layer {digest}")) as plain,
    ):
        async for chunk in plain:
            hasher.update(chunk)
            head += chunk[: _BLOCK - len(head)]
    if not head.strip(b"\0"):  # a tar that begins with its end
        return None
    diff_id = f"sha256:{hasher.hexdigest()}"
    await content.update_labels(digest, {UNCOMPRESSED_LABEL: diff_id})
    media_type = _LAYER_TYPES[await compression_of(content, digest)]
    return Descriptor(media_type, digest, info.size), diff_id


def _history(config: Mapping[str, Any], *, empty: bool) -> dict[str, Any]:
    made_by = config.get("container_config")
    command = made_by.get("Cmd") if isinstance(made_by, dict) else None
    entry = {
        "created": config.get("created"),
        "author": config.get("author"),
        "created_by": " ".join(map(str, command)) if isinstance(command, list) else None,
        "comment": config.get("comment"),
        "empty_layer": empty,
    }
    return {key: value for key, value in entry.items() if value}


def _config(manifest: Schema1Manifest, diffs: list[str], history: list[dict[str, Any]]) -> bytes:
    top = manifest.layers[-1].config
    config = {key: top[key] for key in _CONFIG_FIELDS if top.get(key)}
    config.setdefault("architecture", manifest.architecture)
    config.setdefault("os", "linux")
    return _json({**config, "rootfs": {"type": "layers", "diff_ids": diffs}, "history": history})


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
