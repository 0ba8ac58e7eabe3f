"""Image archives on real daemons: what is imported, and that a bad archive leaves nothing."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from containerd_aio._transport.connections import Connections
from containerd_aio._transport.dial import Address
from containerd_aio.daemon import Daemon
from containerd_aio.distribution.archive import add_prefix, filter_prefix, import_archive
from containerd_aio.distribution.build import Entry, build_image, layer_tar
from containerd_aio.distribution.manifests import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.image import Image
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor, Platform
from containerd_aio.services.images import ImageStore
from containerd_aio.services.stubs import Services
from containerd_aio.testing.images import (
    Variant,
    build_image_archive,
    build_index_archive,
)
from tests.integration.image_support import (
    LAYERS,
    NAME,
    bytes_of,
    collect_garbage,
    import_one,
    in_chunks,
    leftovers,
)


@pytest.fixture
async def services(daemon: Daemon, namespace: str) -> AsyncIterator[Services]:
    connections = Connections(Address.parse(daemon.address), timeout=30, connect_timeout=10)
    yield Services(connections, namespace)
    connections.close()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return build_image_archive(tmp_path / "sample.tar", NAME, layers=LAYERS)


# -- import -----------------------------------------------------------------------------------------------------


async def test_import_makes_a_record_and_labels_the_content(services: Services, archive: Path) -> None:
    image = await import_one(services, archive, labels={"a": "b"})
    assert image.name == NAME
    assert image.labels == {"a": "b"}
    assert image.created_at is not None
    assert image.target.media_type == OCI_MANIFEST
    manifest = await image.manifest()
    labels = (await ContentStore(services).info(image.target.digest)).labels
    assert labels == {
        "containerd.io/gc.ref.content.config": manifest.config.digest,
        **{f"containerd.io/gc.ref.content.l.{i}": layer.digest for i, layer in enumerate(manifest.layers)},
    }
    await collect_garbage(services)
    digests = {info.digest for info in await ContentStore(services).list()}
    assert digests == {image.target.digest, manifest.config.digest, *(d.digest for d in manifest.layers)}
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}
    assert not await image.is_unpacked()


async def test_import_from_a_stream_of_bytes_and_from_gzip(
    services: Services, archive: Path, tmp_path: Path
) -> None:
    packed = tmp_path / "sample.tar.gz"
    packed.write_bytes(gzip.compress(bytes_of(archive)))
    image = await import_one(services, in_chunks(archive, 777))
    assert (await import_one(services, packed)).target == image.target
    assert (await import_one(services, in_chunks(packed, 1))).target == image.target


async def test_import_again_changes_nothing(services: Services, archive: Path) -> None:
    first = await import_one(services, archive, labels={"keep": "me"})
    before = {info.digest: info.labels for info in await ContentStore(services).list()}
    second = await import_one(services, archive)
    assert second.target == first.target
    assert second.labels == {"keep": "me"}
    assert {info.digest: info.labels for info in await ContentStore(services).list()} == before


async def test_import_by_many_at_once(services: Services, archive: Path) -> None:
    targets: list[Descriptor] = []

    async def work() -> None:
        image = await import_one(services, archive)
        await image.unpack()
        targets.append(image.target)

    async with anyio.create_task_group() as group:
        for _ in range(6):
            group.start_soon(work)
    assert len(targets) == 6
    assert len(set(map(str, targets))) == 1
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}


async def test_import_picks_the_platform(services: Services, tmp_path: Path) -> None:
    archive = build_index_archive(
        tmp_path / "multi.tar",
        NAME,
        Variant([{"a": b"amd64"}], platform="linux/amd64"),
        Variant([{"a": b"arm64"}], platform="linux/arm64"),
        Variant([{"a": b"s390x"}], platform="linux/s390x"),
    )
    image = await import_one(services, archive, platform=Platform("linux", "arm64"))
    assert image.target.media_type == OCI_INDEX
    assert list(map(str, await image.platforms())) == ["linux/amd64", "linux/arm64", "linux/s390x"]
    await collect_garbage(services)
    assert len(await ContentStore(services).list()) == 4  # index, manifest, config, layer
    arm = await Image.get(services, NAME, platform=Platform("linux", "arm64"))
    assert (await arm.config())["architecture"] == "arm64"
    assert await arm.unpack()
    with pytest.raises(NotFound):
        await (await Image.get(services, NAME, platform=Platform("linux", "s390x"))).manifest()
    with pytest.raises(NotFound, match="linux/amd64, linux/arm64, linux/s390x"):
        await (await Image.get(services, NAME, platform=Platform("linux", "riscv64"))).manifest()
    await import_archive(services, archive, all_platforms=True)
    await collect_garbage(services)
    assert len(await ContentStore(services).list()) == 10
    with pytest.raises(NotFound, match="nothing for this platform"):
        await import_archive(services, archive, platform=Platform("windows", "amd64"))


async def test_import_of_an_index_under_a_name_of_its_own(services: Services, archive: Path) -> None:
    index, image = await import_archive(services, archive, index_name="whole")
    assert (index.name, image.name) == ("whole", NAME)
    assert index.target.media_type == OCI_INDEX
    await ImageStore(services).delete(NAME)
    await collect_garbage(services)
    assert (await Image(services, index).manifest()).target.digest == image.target.digest


def docker_archive(path: Path) -> Path:
    """What `docker save` wrote before version 25: layers by directory, one of them a link to another image's."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("file"))
    digest = "sha256:" + hashlib.sha256(layer.getvalue()).hexdigest()
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest, digest]}}
    ).encode()
    manifest = [
        {"Config": "c.json", "RepoTags": ["old:2", "old:3"], "Layers": ["a/layer.tar", "b/layer.tar"]}
    ]
    with tarfile.open(path, mode="w") as tar:
        for name, data in (
            ("a/layer.tar", layer.getvalue()),
            ("a/VERSION", b"1.0"),
            ("c.json", config),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("b/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(link)
    return path


async def test_import_of_an_old_docker_archive(services: Services, tmp_path: Path) -> None:
    records = await import_archive(services, docker_archive(tmp_path / "docker.tar"))
    assert [r.name for r in records] == ["docker.io/library/old:2", "docker.io/library/old:3"]
    await collect_garbage(services)
    image = Image(services, records[0])
    assert len(await image.rootfs()) == 2
    assert await image.unpack() == await image.chain_id()


@pytest.mark.shows("go:TestImport", "seed:containerd.WithRefObject")
async def test_names_are_made_or_filtered(services: Services, tmp_path: Path) -> None:
    """Go: OCI, OCIPrefixName, OCIPrefixName2, OCI-Labels."""
    tags = ("latest", "example.com/app:2", "example.com/apple:1")
    archive = oci_archive(
        *(entry_of(n, {"org.opencontainers.image.ref.name": tag}) for n, tag in enumerate(tags))
    )

    async def names(**options: Any) -> list[str]:
        return [
            r.name for r in await import_archive(services, io.BytesIO(archive), labels={"a": "b"}, **options)
        ]

    assert await names(names=add_prefix("example.com/app")) == [
        "example.com/app:latest",
        "example.com/app:2",
        "example.com/apple:1",
    ]
    assert await names(names=filter_prefix("example.com/app")) == [
        "example.com/app:latest",
        "example.com/app:2",
    ]
    assert await names(names=lambda found: "chosen" if found == "latest" else None) == ["chosen"]
    by_digest = await names(
        names=filter_prefix("example.com/app"), digest_names="by", skip_digest_of_named=True
    )
    assert by_digest[:2] == ["example.com/app:latest", "example.com/app:2"]
    assert [name[:10] for name in by_digest[2:]] == ["by@sha256:"]
    with pytest.raises(InvalidArgument, match="not both"):
        await names(name="app", names=add_prefix("app"))
    assert {r.labels["a"] for r in await ImageStore(services).list()} == {"b"}


@pytest.mark.shows("go:TestImport")
async def test_an_index_that_lists_what_is_missing(services: Services) -> None:
    """Go: OCI-IndexWithoutAnyManifest, OCI-IndexWithMissingManifestDescendants, OCI-BadFormat."""
    with pytest.raises(NotFound, match="no image at all"):
        await import_archive(services, io.BytesIO(oci_archive()))
    absent = {"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 3}
    there, blobs = entry_of(0, {})
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [there, absent]}).encode()
    digest = f"sha256:{hashlib.sha256(index).hexdigest()}"
    top = {"mediaType": OCI_INDEX, "digest": digest, "size": len(index)}
    archive = oci_archive((top, {**blobs, digest: index}))
    with pytest.raises(InvalidArgument, match=f"{absent['digest']} is missing"):
        await import_archive(services, io.BytesIO(archive), name=NAME)
    [record] = await import_archive(services, io.BytesIO(archive), name=NAME, skip_missing=True)
    await collect_garbage(services)
    assert record.target.digest == digest
    assert len(await ContentStore(services).list()) == 4
    assert await Image(services, record).unpack()
    with pytest.raises(InvalidArgument, match=r"version '2\.0\.0'"):
        await import_archive(services, io.BytesIO(oci_archive(version="2.0.0")))


@pytest.mark.shows("go:TestImport")
async def test_plain_layers_of_an_old_docker_archive_are_packed(services: Services, tmp_path: Path) -> None:
    """Go: DockerV2.0, DockerV2.1 and WithImportCompression."""
    path = docker_archive(tmp_path / "docker.tar")
    packed, _ = await import_archive(services, path, compress=True)
    manifest = await Image(services, packed).manifest()
    assert {layer.media_type for layer in manifest.layers} == {OCI_LAYER_GZIP}
    assert await Image(services, packed).unpack()
    again, _ = await import_archive(services, path, compress=True)
    assert again.target == packed.target, "what is packed already is not packed again"
    await collect_garbage(services)
    assert len(await ContentStore(services).list()) == 3


def entry_of(number: int, annotations: dict[str, str]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """An entry of an index and its blobs."""
    image = build_image(layers=[{"number": b"%d" % number}])
    return {**image.target.to_json(), "annotations": annotations}, dict(image.blobs)


def oci_archive(*entries: tuple[dict[str, Any], dict[str, bytes]], version: str = "1.0.0") -> bytes:
    files: dict[str, bytes | Entry] = {
        "oci-layout": json.dumps({"imageLayoutVersion": version}).encode(),
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry for entry, _ in entries]}).encode(),
    }
    for _, blobs in entries:
        files |= {f"blobs/{digest.replace(':', '/')}": data for digest, data in blobs.items()}
    return layer_tar(files)


# -- what is no image -------------------------------------------------------------------------------------------


def with_member(archive: Path, name: str, data: bytes | None) -> bytes:
    """The archive with one member replaced, or left out."""
    out = io.BytesIO()
    with tarfile.open(archive) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            content = old.extractfile(member)
            if member.name != name:
                new.addfile(member, content)
            elif data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    return out.getvalue()


def a_layer(archive: Path) -> str:
    """Path of the biggest blob."""
    with tarfile.open(archive) as tar:
        return max((m for m in tar if m.isfile()), key=lambda m: m.size).name


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        pytest.param(lambda _: b"", "empty", id="empty"),
        pytest.param(lambda _: b"garbage" * 1000, "no tar archive", id="garbage"),
        pytest.param(lambda _: bytes(2048), "no image", id="zeros"),
        pytest.param(
            lambda _: b"\x28\xb5\x2f\xfd\xff" + bytes(600), "zstd compression is damaged", id="zstd"
        ),
        pytest.param(lambda _: b"BZh9" + bytes(600), "compressed with bzip2", id="bzip2"),
        pytest.param(lambda p: p.read_bytes()[:2000], "cut short", id="cut in the first blob"),
        pytest.param(
            lambda p: with_member(p, a_layer(p), b"x" * 300), f"digest sha256:{'[0-9a-f]' * 64}", id="damaged"
        ),
        pytest.param(lambda p: with_member(p, a_layer(p), None), "layer.* is missing", id="no layer"),
        pytest.param(lambda p: with_member(p, "index.json", None), "without index.json", id="no index"),
        pytest.param(lambda p: with_member(p, "oci-layout", None), "no image", id="no oci-layout"),
        pytest.param(
            lambda p: with_member(p, "oci-layout", b'{"imageLayoutVersion":"9"}'), "version '9'", id="version"
        ),
        pytest.param(lambda p: with_member(p, "index.json", b"{"), "index.json is not JSON", id="bad JSON"),
        pytest.param(
            lambda p: with_member(p, "index.json", b'{"manifests":[{"digest":"x","size":1}]}'),
            "not a digest",
            id="bad digest",
        ),
        pytest.param(lambda p: gzip.compress(p.read_bytes())[:900], "cut short|damaged", id="gzip cut short"),
    ],
)
async def test_a_spoilt_archive_is_refused_and_leaves_nothing(
    services: Services, archive: Path, tmp_path: Path, spoil: Callable[[Path], bytes], text: str
) -> None:
    spoilt = tmp_path / "spoilt.tar"
    spoilt.write_bytes(spoil(archive))
    with pytest.raises(InvalidArgument, match=text) as caught:
        await import_archive(services, spoilt)
    assert caught.value.method is None
    await collect_garbage(services)
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}
    assert await ContentStore(services).list() == []
    assert await ImageStore(services).list() == []


async def test_a_failing_source_is_reported_as_it_is_and_leaves_nothing(
    services: Services, archive: Path
) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield bytes_of(archive)[:3000]
        raise OSError("the disk is on fire")

    with pytest.raises(OSError, match="on fire"):
        await import_archive(services, breaks())
    await collect_garbage(services)
    assert await leftovers(services) == {"leases": [], "ingests": [], "active": []}
    assert await ContentStore(services).list() == []
