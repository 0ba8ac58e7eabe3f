"""Images to archives and back, by us and by containerd's own client."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from containerd_aio import Client, InvalidArgument, NotFound
from containerd_aio.distribution.archive import add_prefix
from containerd_aio.distribution.export import ExportOptions, open_export
from containerd_aio.distribution.progress import Action, ProgressEvent
from containerd_aio.errors import DataLoss
from containerd_aio.services.content import ContentStore
from containerd_aio.testing.images import Variant, build_image_archive, build_index_archive
from tests.integration.image_support import LAYERS, NAME, bytes_of, collect_garbage, leftovers

if TYPE_CHECKING:
    from containerd_aio.daemon import Daemon
    from tests.integration.daemon_view import Ctr

MULTI = "example.com/multi:2"


@pytest.fixture
async def empty(daemon: Daemon, namespace: str) -> AsyncIterator[Client]:
    async with Client(daemon.address, namespace=namespace) as opened:
        yield opened


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return build_image_archive(tmp_path / "sample.tar", NAME, layers=LAYERS, config={"Cmd": ["/x"]})


@pytest.fixture
def multi(tmp_path: Path) -> Path:
    return build_index_archive(
        tmp_path / "multi.tar",
        MULTI,
        *(Variant([{"arch": p.encode()}, LAYERS[0]], platform=p) for p in ("linux/amd64", "linux/arm64/v9")),
        Variant([{"arch": b"s390x"}], platform="linux/s390x"),
    )


def contents(data: bytes | Path) -> dict[str, bytes]:
    source = io.BytesIO(data) if isinstance(data, bytes) else None
    name = data if isinstance(data, Path) else None
    with tarfile.open(name, fileobj=source) as tar:
        return {m.name: f.read() for m in tar if (f := tar.extractfile(m)) is not None}


def blobs(data: bytes | Path) -> set[str]:
    return {f"sha256:{n.rpartition('/')[2]}" for n in contents(data) if n.startswith("blobs/")}


async def exported(client: Client, *names: str, **options: Any) -> bytes:
    async with client.open_export(*names, **options) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def start_afresh(client: Client) -> None:
    for image in await client.images():
        await image.delete()
    await collect_garbage(client.services)
    assert await ContentStore(client.services).list() == []


@pytest.mark.shows(
    "go:TestExportAndImport",
    "go:TestExportAndImportMultiLayer",
    "seed:containerd.Client.Export",
    "seed:containerd.WithOCIExportFormat",
    "seed:containerd.Client.Import",
    "seed:containerd.WithOCIImportFormat",
    "seed:containerd.ExportOpt",
    "seed:containerd.ImportOpt",
)
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_an_export_is_what_was_imported(
    empty: Client, archive: Path, tmp_path: Path, compression: str
) -> None:
    [image] = await empty.import_archive(archive)
    await image.tag("docker.io/library/other:1")
    out = tmp_path / "out.tar"
    size = await empty.export_archive(out, NAME, "docker.io/library/other:1", compression=compression)
    assert size == out.stat().st_size
    before = {info.digest for info in await ContentStore(empty.services).list()}
    await start_afresh(empty)
    one, two = await empty.import_archive(out)
    assert (one.name, two.name) == (NAME, "docker.io/library/other:1")
    assert one.target.digest == two.target.digest == image.target.digest
    assert await one.unpack() == await image.chain_id()
    await collect_garbage(empty.services)
    assert {info.digest for info in await ContentStore(empty.services).list()} == before
    assert await leftovers(empty.services) == {"leases": [], "ingests": [], "active": []}


async def test_the_archive_in_detail(empty: Client, archive: Path) -> None:
    [image] = await empty.import_archive(archive)
    content = ContentStore(empty.services)
    source = {"containerd.io/distribution.source.example.com": "team/app"}
    await content.update_labels(image.target.digest, source)
    data = await exported(empty, NAME)
    assert data == await exported(empty, NAME)
    files = contents(data)
    [entry] = json.loads(files["index.json"])["manifests"]
    assert entry == {
        "mediaType": image.target.media_type,
        "digest": image.target.digest,
        "size": image.target.size,
        "annotations": {
            **source,
            "io.containerd.image.name": NAME,
            "org.opencontainers.image.ref.name": "1.0",
        },
    }
    manifest = await image.manifest()
    path = "blobs/sha256/{}".format
    assert json.loads(files["manifest.json"]) == [
        {
            "Config": path(manifest.config.digest[7:]),
            "RepoTags": ["sample:1.0"],
            "Layers": [path(layer.digest[7:]) for layer in manifest.layers],
        }
    ]
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.isdir(), m.mode, m.mtime) for m in members} == {(True, 0o755, 0), (False, 0o444, 0)}
    assert "manifest.json" not in contents(await exported(empty, NAME, docker_manifest=False))


@pytest.mark.shows("go:TestExportAllCases")
async def test_platforms_of_an_export(empty: Client, multi: Path) -> None:
    [image] = await empty.import_archive(multi, all_platforms=True)
    everything = {info.digest for info in await ContentStore(empty.services).list()}
    assert blobs(await exported(empty, MULTI, all_platforms=True)) == everything
    one = await exported(empty, MULTI, platform="linux/s390x")
    assert len(blobs(one)) == 4  # index, manifest, config, layer
    assert len(blobs(await exported(empty, MULTI, platform=["linux/s390x", "linux/amd64"]))) == 8
    assert json.loads(contents(one)["index.json"])["manifests"][0]["digest"] == image.target.digest
    assert json.loads(contents(one)["manifest.json"])[0]["RepoTags"] == ["example.com/multi:2"]
    with pytest.raises(NotFound, match=r"has nothing .* linux/amd64, linux/arm64/v9, linux/s390x"):
        await exported(empty, MULTI, platform="windows/amd64")
    with pytest.raises(InvalidArgument, match="not both"):
        await exported(empty, MULTI, platform="linux/s390x", all_platforms=True)
    with pytest.raises(InvalidArgument, match="at least one image"):
        await exported(empty)


@pytest.mark.shows("go:TestExportAllCases")
async def test_missing_content(empty: Client, multi: Path, tmp_path: Path) -> None:
    await empty.import_archive(multi, platform="linux/s390x")
    await collect_garbage(empty.services)
    out = tmp_path / "out.tar"
    out.write_bytes(b"as it was")
    with pytest.raises(NotFound, match="is not in the content store"):
        await empty.export_archive(out, MULTI, all_platforms=True)
    with pytest.raises(NotFound):
        await empty.export_archive(out, "no such image")
    assert out.read_bytes() == b"as it was"
    await empty.export_archive(out, MULTI, all_platforms=True, skip_missing=True)
    assert len(blobs(out)) == 4
    await start_afresh(empty)
    with pytest.raises(InvalidArgument, match="is missing"):
        await empty.import_archive(out, all_platforms=True)
    [image] = await empty.import_archive(out, all_platforms=True, skip_missing=True)
    await collect_garbage(empty.services)
    assert len(await ContentStore(empty.services).list()) == 4
    assert not (await image.check()).complete


async def test_damage_is_found_and_a_half_written_file_removed(
    empty: Client, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await empty.import_archive(archive)
    read = ContentStore._read

    async def damaged(self: ContentStore, digest: str, offset: int, size: int | None) -> AsyncIterator[bytes]:
        async with aclosing(read(self, digest, offset, size)) as chunks:
            async for chunk in chunks:
                yield chunk[:-1] + bytes([chunk[-1] ^ 1]) if len(chunk) > 100_000 else chunk

    monkeypatch.setattr(ContentStore, "_read", damaged)
    out = tmp_path / "out.tar"
    with pytest.raises(DataLoss, match="is damaged in the store"):
        await empty.export_archive(out, NAME)
    assert not out.exists()


async def test_progress(empty: Client, archive: Path, tmp_path: Path) -> None:
    steps: list[ProgressEvent] = []
    [image] = await empty.import_archive(archive, progress=steps.append)
    assert {(s.action, s.name) for s in steps} == {
        (Action.READING, str(archive)),
        (Action.DONE, str(archive)),
    }
    size = archive.stat().st_size
    assert (steps[-2].offset, steps[-2].total, steps[-1].action) == (size, size, Action.DONE)
    steps.clear()
    async with await anyio.open_file(archive, "rb") as file:
        await empty.import_archive(file, progress=steps.append)
    assert steps[-1] == ProgressEvent(Action.DONE, "archive")
    steps.clear()
    await empty.export_archive(tmp_path / "out.tar", NAME, progress=steps.append)
    manifest = await image.manifest()
    parts = {d.digest: d.size for d in (image.target, manifest.config, *manifest.layers)}
    assert {s.name: s.total for s in steps} == parts
    done = [s for s in steps if s.action is Action.DONE]
    assert {s.name: s.offset for s in done} == parts


async def test_images_may_go_while_they_are_exported(empty: Client, archive: Path) -> None:
    [image] = await empty.import_archive(archive)
    whole = await exported(empty, NAME)
    async with empty.open_export(NAME) as chunks:
        await image.delete(sync=True)
        assert b"".join([chunk async for chunk in chunks]) == whole
    await collect_garbage(empty.services)
    assert await ContentStore(empty.services).list() == []


async def test_every_kind_of_source_and_sink(empty: Client, archive: Path, tmp_path: Path) -> None:
    await empty.import_archive(archive)
    whole = await exported(empty, NAME)

    class Sender:
        def __init__(self) -> None:
            self.sent = b""

        async def send(self, item: bytes) -> None:
            self.sent += item

    sender, memory = Sender(), io.BytesIO()
    assert await empty.export_archive(sender, NAME) == len(whole)
    await empty.export_archive(memory, NAME)
    async with await anyio.open_file(tmp_path / "one.tar", "wb") as file:
        await empty.export_archive(file, NAME)
    with (tmp_path / "two.tar").open("wb") as plain:
        await empty.export_archive(plain, NAME)
    assert [
        sender.sent,
        memory.getvalue(),
        bytes_of(tmp_path / "one.tar"),
        bytes_of(tmp_path / "two.tar"),
    ] == [whole] * 4
    with pytest.raises(InvalidArgument, match="cannot export to a int"):
        await empty.export_archive(3, NAME)  # type: ignore[arg-type]
    async with await anyio.open_file(tmp_path / "one.tar", "rb") as file:
        [first] = await empty.import_archive(file)
    with (tmp_path / "two.tar").open("rb") as plain:
        [second] = await empty.import_archive(plain)
    assert first.target == second.target
    with (tmp_path / "two.tar").open("r", encoding="latin-1") as text:
        with pytest.raises(InvalidArgument, match="text mode"):
            await empty.import_archive(text)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="cannot import from a int"):
        await empty.import_archive(3)  # type: ignore[arg-type]


async def test_a_cancelled_export_leaves_nothing(empty: Client, archive: Path, tmp_path: Path) -> None:
    await empty.import_archive(archive)
    out = tmp_path / "out.tar"

    class Sender:
        async def send(self, item: bytes) -> None:
            scope.cancel()
            await anyio.lowlevel.checkpoint()

    with anyio.CancelScope() as scope:
        await empty.export_archive(Sender(), NAME)
    assert scope.cancelled_caught
    real = anyio.AsyncFile.write

    async def cancelling(self: Any, data: Any) -> int:
        again.cancel()
        return await real(self, data)

    with pytest.MonkeyPatch.context() as patch, anyio.CancelScope() as again:
        patch.setattr(anyio.AsyncFile, "write", cancelling)
        await empty.export_archive(out, NAME)
    assert again.cancelled_caught
    assert not out.exists()
    assert await leftovers(empty.services) == {"leases": [], "ingests": [], "active": []}


@pytest.mark.shows("go:TestExportAndImport")
async def test_ctr_reads_ours_and_we_read_its(
    empty: Client,
    daemon: Daemon,
    ctr: Ctr,
    archive: Path,
    multi: Path,
    tmp_path: Path,
    containerd_version: str,
) -> None:
    own, ours, theirs = empty.namespace, tmp_path / "ours.tar", tmp_path / "theirs.tar"
    before = {i.name: i.target.digest for a in (archive, multi) for i in await empty.import_archive(a)}
    await empty.export_archive(ours, NAME, MULTI)
    await start_afresh(empty)
    await ctr(daemon, "--namespace", own, "images", "import", "--no-unpack", str(ours))
    assert {i.name: i.target.digest for i in await empty.images()} == before
    assert await (await empty.image(NAME)).unpack()
    # By the transfer service, ctr may end before it has written the last of it.
    local = ["--local"] if containerd_version >= "2" else []
    await ctr(daemon, "--namespace", own, "images", "export", *local, str(theirs), NAME, MULTI)
    await start_afresh(empty)
    await empty.import_archive(theirs, unpack=True)
    assert {i.name: i.target.digest for i in await empty.images()} == before
    await collect_garbage(empty.services)
    assert all([(await image.check()).complete for image in await empty.images()])


async def test_targets_without_a_name(empty: Client, archive: Path) -> None:
    [image] = await empty.import_archive(archive)
    options = ExportOptions(skip_non_distributable=True)
    async with open_export(empty.services, [("", image.target)], options) as chunks:
        data = b"".join([chunk async for chunk in chunks])
    await start_afresh(empty)
    with pytest.raises(InvalidArgument, match="give name="):
        await empty.import_archive(io.BytesIO(data))
    named = await empty.import_archive(io.BytesIO(data), digest_names="by", names=add_prefix("app"))
    assert [i.name for i in named] == [f"by@{image.target.digest}"]
    with pytest.raises(InvalidArgument, match="neither a manifest nor an index"):
        async with open_export(empty.services, [("", (await image.manifest()).config)]):
            pass


async def test_discarded_layers_leave_an_image_that_runs(empty: Client, archive: Path) -> None:
    [image] = await empty.import_archive(archive, unpack=True, discard_layers=True)
    await collect_garbage(empty.services)
    assert await image.is_unpacked()
    check = await image.check()
    assert (len(check.present), len(check.missing)) == (1, 3)
    with pytest.raises(NotFound, match="pull the image again"):
        await exported(empty, NAME)
    with pytest.raises(InvalidArgument, match="needs unpack=True"):
        await empty.import_archive(archive, discard_layers=True)
