"""Images made over on real daemons, and manifests of schema 1."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio import Client, DataLoss, Image, InvalidArgument, NotFound
from containerd_aio.distribution._compression import compress, zstd
from containerd_aio.distribution.build import Variant, build_index, layer_tar
from containerd_aio.distribution.manifests import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    gc_labels,
)
from containerd_aio.distribution.schema1 import convert_schema1
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.images import ImageStore
from containerd_aio.services.leases import lease
from tests.integration.image_support import LAYERS, CancelAt, collect_garbage, eventually, leftovers

if TYPE_CHECKING:
    from containerd_aio.daemon import Daemon

PLATFORMS = ("linux/amd64", "linux/arm64")
NAME = "example.com/app:1"


@pytest.fixture
async def client(daemon: Daemon, namespace: str) -> AsyncIterator[Client]:
    async with Client(daemon.address, namespace=namespace) as opened:
        yield opened


async def put(
    client: Client, media_type: str, data: bytes, labels: dict[str, str] | None = None
) -> Descriptor:
    digest = await ContentStore(client.services).write(
        f"put-{hashlib.sha256(data).hexdigest()}", data, labels=labels
    )
    return Descriptor(media_type, digest, len(data))


async def docker_image(client: Client, name: str = NAME) -> Image:
    """What `docker push` of some years ago left in a registry: Docker's own media types, on both platforms."""
    async with client.lease():
        manifests = []
        for platform in PLATFORMS:
            system, _, architecture = platform.partition("/")
            tars = [layer_tar(layer) for layer in (*LAYERS, {"arch": platform.encode()})]
            diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
            config = {
                "os": system,
                "architecture": architecture,
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }
            below = [
                await put(client, DOCKER_CONFIG, json.dumps(config).encode()),
                *[await put(client, DOCKER_LAYER_GZIP, gzip.compress(tar, mtime=0)) for tar in tars],
            ]
            document = {
                "schemaVersion": 2,
                "mediaType": DOCKER_MANIFEST,
                "config": below[0].to_json(),
                "layers": [layer.to_json() | {"x-unknown": "kept"} for layer in below[1:]],
            }
            labels = gc_labels(DOCKER_MANIFEST, below) | {
                "containerd.io/distribution.source.example.com": "app"
            }
            manifest = await put(client, DOCKER_MANIFEST, json.dumps(document).encode(), labels)
            manifests.append((manifest, {"os": system, "architecture": architecture}))
        document = {
            "schemaVersion": 2,
            "mediaType": DOCKER_INDEX,
            "manifests": [{**m.to_json(), "platform": p} for m, p in manifests],
        }
        labels = gc_labels(DOCKER_INDEX, [m for m, _ in manifests])
        target = await put(client, DOCKER_INDEX, json.dumps(document).encode(), labels)
        await ImageStore(client.services).create(name, target, labels={"mine": "yes"})
    return await client.image(name)


async def document_of(client: Client, target: Descriptor) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(await ContentStore(client.services).read_all(target.digest))
    return value


@pytest.mark.shows("go:TestConvert")
async def test_docker_to_oci_and_uncompressed(client: Client) -> None:
    old = await docker_image(client)
    chain = await old.unpack()
    new = await client.convert_image(NAME, "example.com/app:oci", oci=True, compression="none")
    assert new.labels == {"mine": "yes"}
    await old.delete()
    await collect_garbage(client.services)
    assert new.target.media_type == OCI_INDEX
    index = await document_of(client, new.target)
    assert index["mediaType"] == OCI_INDEX
    [entry] = index["manifests"]
    assert (entry["mediaType"], entry["platform"]["architecture"]) == (OCI_MANIFEST, "amd64")
    manifest = await new.manifest()
    assert manifest.document["mediaType"] == OCI_MANIFEST
    assert manifest.config.media_type == OCI_CONFIG
    assert [layer.media_type for layer in manifest.layers] == [OCI_LAYER] * 4
    assert [layer.digest for layer in manifest.layers] == await new.rootfs()
    assert {layer["x-unknown"] for layer in manifest.document["layers"]} == {"kept"}
    info = await ContentStore(client.services).info(manifest.target.digest)
    assert info.labels["containerd.io/distribution.source.example.com"] == "app"
    assert (await new.check()).complete
    assert await new.is_unpacked(), "the snapshots are the same"
    assert await new.unpack() == chain
    assert len(await ContentStore(client.services).list()) == 7
    assert await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}


@pytest.mark.parametrize("compression", ["zstd", "gzip"])
async def test_packed_otherwise_and_back(client: Client, compression: str) -> None:
    old = await docker_image(client)
    zipped = await client.convert_image(
        old, "example.com/app:z", oci=True, compression="zstd", all_platforms=True
    )
    manifest = await zipped.manifest()
    content = ContentStore(client.services)
    for layer, diff_id in zip(manifest.layers, await zipped.rootfs(), strict=True):
        assert layer.media_type.endswith("+zstd")
        plain = zstd().decompress(await content.read_all(layer.digest))
        assert f"sha256:{hashlib.sha256(plain).hexdigest()}" == diff_id
        assert (await content.info(layer.digest)).labels["containerd.io/uncompressed"] == diff_id
    assert len((await document_of(client, zipped.target))["manifests"]) == 2
    assert await zipped.unpack() == await old.chain_id()
    again = await client.convert_image(
        zipped, "example.com/app:again", compression=compression, all_platforms=True
    )
    if compression == "zstd":
        assert again.target == zipped.target, "nothing to change"
    else:
        assert [layer.media_type for layer in (await again.manifest()).layers] == [OCI_LAYER_GZIP] * 4
        third = await client.convert_image(again, "example.com/app:3", compression="zstd", all_platforms=True)
        assert third.target == zipped.target, "and back"


async def test_pruning_alone(client: Client) -> None:
    old = await docker_image(client)
    new = await client.convert_image(NAME, NAME, platform="linux/arm64")
    assert new.target.media_type == DOCKER_INDEX
    assert list(map(str, await new.platforms())) == ["linux/arm64"]
    await collect_garbage(client.services)
    assert len(await ContentStore(client.services).list()) == 7
    assert (await client.convert_image(NAME, NAME, platform="linux/arm64")).target == new.target
    with pytest.raises(NotFound, match=r"nothing for this platform; it has linux/arm64"):
        await client.convert_image(NAME, NAME, platform="linux/s390x")
    with pytest.raises(NotFound):
        await client.convert_image(old, "x", all_platforms=True)
    with pytest.raises(InvalidArgument, match="compression 'lz4'"):
        await client.convert_image(NAME, "x", compression="lz4")
    with pytest.raises(NotFound):
        await client.image("x")


async def test_a_layer_that_is_not_what_the_config_says(client: Client) -> None:
    async with client.lease():
        tar = layer_tar({"a": b"1"})
        config = {
            "os": "linux",
            "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
        }
        below = [
            await put(client, OCI_CONFIG, json.dumps(config).encode()),
            await put(client, OCI_LAYER_GZIP, compress(tar, "gzip")),
        ]
        document = {"schemaVersion": 2, "config": below[0].to_json(), "layers": [below[1].to_json()]}
        target = await put(
            client, OCI_MANIFEST, json.dumps(document).encode(), gc_labels(OCI_MANIFEST, below)
        )
        await ImageStore(client.services).create(NAME, target)
    with pytest.raises(DataLoss, match="the image is inconsistent"):
        await client.convert_image(NAME, "x", compression="zstd")
    await collect_garbage(client.services)
    assert len(await ContentStore(client.services).list()) == 3
    assert await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}


async def test_a_conversion_cancelled_at_any_rpc_leaves_nothing(
    daemon: Daemon, namespace: str, containerd_version: str
) -> None:
    hook = CancelAt()
    # One RPC at its start, the next at its end; the other way round with 1.7.
    parity = int(containerd_version == "1.7")
    async with Client(daemon.address, namespace=namespace, hook=hook) as client:
        await docker_image(client)
        content = ContentStore(client.services)
        before = {info.digest for info in await content.list()}
        number, finished = 0, False
        while not finished:
            number += 1
            with anyio.CancelScope() as scope:
                hook.arm(number, scope, after=number % 2 == parity)
                await client.convert_image(NAME, "example.com/new:1", oci=True, compression="zstd")
            hook.scope = None
            finished = not scope.cancelled_caught

            async def clean() -> bool:
                return await leftovers(client.services) == {"leases": [], "ingests": [], "active": []}

            await eventually(clean)
            new = [image for image in await client.images() if image.name != NAME]
            await collect_garbage(client.services)
            if new:
                assert (await new[0].check()).complete, "whole, or not there at all"
                await new[0].delete(sync=True)
            assert {info.digest for info in await content.list()} == before
        assert number > 25


# -- schema 1 ---------------------------------------------------------------------------------------------------


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def schema1(blobs: list[bytes], throwaway: set[int]) -> bytes:
    """A signed manifest of these layers, given from the bottom up, as registries of 2015 had them."""
    layers, history = [], []
    for number, blob in enumerate(blobs):
        layers.insert(0, {"blobSum": f"sha256:{hashlib.sha256(blob).hexdigest()}"})
        config: dict[str, Any] = {
            "id": f"{number:064x}",
            "created": f"2015-01-0{number + 1}T00:00:00Z",
            "container_config": {"Cmd": ["/bin/sh", "-c", f"step {number}"]},
        }
        if number in throwaway:
            config["throwaway"] = True
        if number == len(blobs) - 1:
            config |= {"architecture": "amd64", "os": "linux", "author": "me", "config": {"Cmd": ["/top"]}}
        history.insert(0, {"v1Compatibility": json.dumps(config)})
    document = {
        "schemaVersion": 1,
        "name": "library/old",
        "tag": "1",
        "architecture": "amd64",
        "fsLayers": layers,
        "history": history,
    }
    text = json.dumps(document, indent=3)
    head, tail = text[:-2], text[-2:]
    protected = {"formatLength": len(head), "formatTail": _b64(tail.encode()), "time": "2015-01-01T00:00:00Z"}
    signature = {
        "header": {"alg": "ES256"},
        "signature": "x",
        "protected": _b64(json.dumps(protected).encode()),
    }
    return (head + ',\n   "signatures": ' + json.dumps([signature]) + tail).encode()


@pytest.mark.shows("seed:containerd.WithSchema1Conversion")
async def test_schema_1(client: Client) -> None:
    empty = gzip.compress(bytes(1024), mtime=0)
    blobs = [compress(layer_tar(LAYERS[0]), "gzip"), empty, compress(layer_tar(LAYERS[1]), "gzip"), empty]
    manifest = schema1(blobs, throwaway={1})
    by_digest = {f"sha256:{hashlib.sha256(blob).hexdigest()}": blob for blob in blobs}
    fetched: list[str] = []

    async def fetch(digest: str) -> AsyncGenerator[bytes, None]:
        fetched.append(digest)
        yield by_digest[digest]

    content = ContentStore(client.services)
    async with lease(client.services):
        target = await convert_schema1(content, manifest, fetch)
        await ImageStore(client.services).create(NAME, target)
    image = await client.image(NAME)
    await collect_garbage(client.services)
    assert len(await content.list()) == 4
    assert sorted(fetched) == sorted(by_digest), "each once"
    spec = await image.spec()
    assert (spec.cmd, spec.author, str(spec.platform)) == (("/top",), "me", "linux/amd64")
    assert [(h.created_by, h.empty_layer) for h in spec.history] == [
        ("/bin/sh -c step 0", False),
        ("/bin/sh -c step 1", True),
        ("/bin/sh -c step 2", False),
        ("/bin/sh -c step 3", True),
    ]
    assert await image.unpack() == await image.chain_id()
    async with lease(client.services):
        assert await convert_schema1(content, manifest, fetch) == target
        with pytest.raises(InvalidArgument, match="has the digest"):
            await convert_schema1(content, manifest, fetch, digest="sha256:" + "0" * 64)


async def test_an_index_of_ours_is_converted_as_well(client: Client) -> None:
    built = build_index(*(Variant([{"p": p.encode()}], platform=p) for p in PLATFORMS))
    await client.import_archive(io.BytesIO(built.archive(NAME)), all_platforms=True)
    assert (
        await client.convert_image(NAME, NAME, oci=True, all_platforms=True)
    ).target.digest == built.target.digest
