"""Archives are hostile input: whatever is in one, it is imported whole or refused whole, with an error of ours."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerd_aio.distribution._compression import compress
from containerd_aio.distribution._tar import EndFinder
from containerd_aio.distribution.build import Variant, build_index, layer_tar
from containerd_aio.errors import InvalidArgument, NotFound, ResourceExhausted
from containerd_aio.services.content import ContentStore
from containerd_aio.services.leases import Leases
from tests.unit.fake_support import World, world

REFUSED = (InvalidArgument, NotFound, ResourceExhausted)
NAME = "example.com/app:1"
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

OCI = build_index(
    *(Variant([{"etc/x": b"1" * 900, "p": p.encode()}], platform=p) for p in ("linux/amd64", "linux/arm64"))
)
ARCHIVE = OCI.archive(NAME)
LAYER = layer_tar({"file": b"1"})


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as new:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return out.getvalue()


async def check_import(w: World, archive: bytes, **options: Any) -> str | None:
    """Import an archive; return why it was refused, having looked that nothing of it is left."""
    try:
        images = await w.client.import_archive(io.BytesIO(archive), all_platforms=True, **options)
    except REFUSED as exc:
        assert await w.client.images() == []
        assert await ContentStore(w.client.services).statuses() == []
        assert await Leases(w.client.services).list() == []
        return str(exc)
    assert images
    content = ContentStore(w.client.services)
    for image in images:
        assert image.name.isprintable()
        assert digest(await content.read_all(image.target.digest)) == image.target.digest
        assert (await content.info(image.target.digest)).size == image.target.size
    return None


# -- bytes ------------------------------------------------------------------------------------------------------


@given(data=st.data(), how=st.sampled_from(["none", "gzip", "zstd"]))
@FEW
async def test_damaged_bytes(data: st.DataObject, how: str) -> None:
    spoilt = bytearray(compress(ARCHIVE, how))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(spoilt) - 1, 0)))
        match data.draw(st.sampled_from(["flip", "cut", "drop", "repeat"])):
            case "flip" if spoilt:
                spoilt[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del spoilt[at:]
            case "drop":
                del spoilt[at : at + data.draw(st.integers(1, 2000))]
            case "repeat":
                spoilt[at:at] = spoilt[at : at + data.draw(st.integers(1, 2000))]
    async with world() as w:
        await check_import(w, bytes(spoilt))


# -- documents --------------------------------------------------------------------------------------------------

STRANGE = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.just(2**63),
        st.just(10**400),
        st.floats(),
        st.text(st.characters(codec=None), max_size=8),
        st.sampled_from(
            ["\ud800", "../../etc/passwd", "\x1b[2J", "sha256:" + "0" * 64, "sha512:" + "0" * 128, ""]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a document."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(copy[path[0]], path[1:], new)
    return copy


def spoilt(data: st.DataObject, document: Any) -> bytes:
    path = data.draw(st.sampled_from(list(places(document))))
    return json.dumps(replaced(document, path, data.draw(STRANGE))).encode()


def with_spoilt(data: st.DataObject, which: str) -> bytes:
    """An OCI archive of which one document is spoilt, and everything above it is right again."""
    manifest = json.loads(next(d for d in OCI.blobs.values() if b'"layers":[' in d))
    config = json.loads(OCI.blobs[manifest["config"]["digest"]])
    blobs = dict(OCI.blobs)

    def add(body: bytes, old: dict[str, Any]) -> dict[str, Any]:
        blobs[digest(body)] = body
        return {**old, "digest": digest(body), "size": len(body)}

    if which == "config":
        manifest["config"] = add(spoilt(data, config), manifest["config"])
    body = spoilt(data, manifest) if which == "manifest" else json.dumps(manifest).encode()
    inner = {"schemaVersion": 2, "mediaType": OCI.target.media_type}
    inner["manifests"] = [add(body, {"mediaType": manifest["mediaType"]})]
    body = spoilt(data, inner) if which == "index" else json.dumps(inner).encode()
    top = add(body, {"mediaType": OCI.target.media_type, "annotations": {"io.containerd.image.name": NAME}})
    listing = {"schemaVersion": 2, "manifests": [top]}
    files = {f"blobs/{d.replace(':', '/')}": b for d, b in blobs.items()}
    layout = {"imageLayoutVersion": "1.0.0"}
    return tar(
        {
            "oci-layout": spoilt(data, layout) if which == "oci-layout" else json.dumps(layout).encode(),
            "index.json": spoilt(data, listing) if which == "index.json" else json.dumps(listing).encode(),
            **files,
        }
    )


@pytest.mark.parametrize("which", ["oci-layout", "index.json", "index", "manifest", "config"])
@given(data=st.data())
@settings(FEW, max_examples=20)
async def test_spoilt_documents_of_an_oci_layout(which: str, data: st.DataObject) -> None:
    archive = with_spoilt(data, which)
    async with world() as w:
        await check_import(w, archive)


@given(data=st.data(), compressed=st.booleans())
@FEW
async def test_spoilt_documents_of_a_docker_archive(data: st.DataObject, compressed: bool) -> None:
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]},
    }
    listing = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": ["a/layer.tar"]}]
    which = data.draw(st.sampled_from(["config", "listing"]))
    files = {
        "a/layer.tar": LAYER,
        "c.json": spoilt(data, config) if which == "config" else json.dumps(config).encode(),
        "manifest.json": spoilt(data, listing) if which == "listing" else json.dumps(listing).encode(),
    }
    async with world() as w:
        await check_import(w, tar(files), compress=compressed)


# -- what has been thought of -----------------------------------------------------------------------------------


def linked(*members: tuple[str, bytes, str, bytes]) -> bytes:
    """A tar of members, each a path, a type, a link's target and data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as new:
        for name, kind, link, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, len(data)
            new.addfile(member, io.BytesIO(data))
    return out.getvalue()


def docker(*members: tuple[str, bytes, str, bytes], layers: list[str]) -> bytes:
    config = {
        "os": "linux",
        "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [digest(LAYER)]},
    }
    listing = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": layers}]
    return linked(
        ("c.json", tarfile.REGTYPE, "", json.dumps(config).encode()),
        ("manifest.json", tarfile.REGTYPE, "", json.dumps(listing).encode()),
        *members,
    )


FILE = ("real/layer.tar", tarfile.REGTYPE, "", LAYER)


@pytest.mark.parametrize(
    ("link", "kind", "fine"),
    [
        ("../real/layer.tar", tarfile.SYMTYPE, True),
        ("real/layer.tar", tarfile.LNKTYPE, True),
        ("real/layer.tar", tarfile.SYMTYPE, False),
        ("../../../../etc/passwd", tarfile.SYMTYPE, False),
        ("/etc/passwd", tarfile.SYMTYPE, False),
        ("layer.tar", tarfile.SYMTYPE, False),
        ("x", tarfile.CHRTYPE, False),
        ("x", tarfile.FIFOTYPE, False),
    ],
)
async def test_links(link: str, kind: bytes, fine: bool) -> None:
    archive = docker(FILE, ("a/layer.tar", kind, link, b""), layers=["a/layer.tar"])
    async with world() as w:
        refused = await check_import(w, archive)
    assert (refused is None) == fine
    assert fine or "which is not there" in str(refused)


async def test_a_file_twice_with_different_content() -> None:
    twice = docker(FILE, ("real/layer.tar", tarfile.REGTYPE, "", b"other"), layers=["real/layer.tar"])
    same = docker(FILE, FILE, layers=["real/layer.tar"])
    async with world() as w:
        assert "twice, with different content" in str(await check_import(w, twice))
        assert await check_import(w, same) is None


async def test_limits() -> None:
    async with world() as w:
        too_much = await check_import(w, compress(ARCHIVE, "zstd"), max_size=3000)
        assert "bytes that are allowed" in str(too_much)
        bomb = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
        bomb.size = 1 << 40
        assert "bytes that are allowed" in str(
            await check_import(w, bomb.tobuf() + bytes(1024), max_size=1 << 30)
        )
        document = tarfile.TarInfo("index.json")
        document.size = 1 << 30
        assert "which is absurd" in str(await check_import(w, document.tobuf() + bytes(1024)))
        assert await check_import(w, ARCHIVE, max_size=len(ARCHIVE)) is None


async def test_indexes_in_indexes() -> None:
    """Neither deep nor many: what is listed a million times is looked at once."""
    blobs = dict(OCI.blobs)
    entry = OCI.target.to_json()
    for width, levels, fine in ((300, 6, True), (1, 30, False)):
        top = entry
        for _ in range(levels):
            body = json.dumps(
                {"schemaVersion": 2, "mediaType": OCI.target.media_type, "manifests": [top] * width}
            )
            blobs[digest(body.encode())] = body.encode()
            top = {**entry, "digest": digest(body.encode()), "size": len(body)}
        top = {**top, "annotations": {"io.containerd.image.name": NAME}}
        archive = tar(
            {
                "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
                "index.json": json.dumps({"manifests": [top]}).encode(),
                **{f"blobs/{d.replace(':', '/')}": b for d, b in blobs.items()},
            }
        )
        async with world() as w:
            refused = await check_import(w, archive)
        assert (refused is None) == fine
        assert fine or "indexes in indexes" in str(refused)


async def test_json_too_deep_to_parse() -> None:
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": b"[" * 200_000}
    async with world() as w:
        assert "index.json is not JSON" in str(await check_import(w, tar(files)))
        assert "not Docker's list" in str(await check_import(w, tar({"manifest.json": b"[" * 200_000})))


# -- the end of an archive --------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=5),
    step=st.integers(1, 5000),
    zeros=st.booleans(),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    trailing=st.integers(0, 3),
)
def test_the_end_of_an_archive_is_found(
    sizes: list[int], step: int, zeros: bool, form: int, trailing: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as new:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{'long' * 60 if number % 2 else ''}{number}")
            member.size, member.mtime = size, number / 3
            new.addfile(member, io.BytesIO((b"\0" if zeros else b"x") * size))
        end = new.offset + 1024
    data = out.getvalue()[:end] + bytes(512 * trailing)
    finder, found = EndFinder(), None
    for at in range(0, len(data), step):
        if finder.feed(data[at : at + step]):
            found = at + step
            break
    assert found is not None
    assert found - step < end <= found


def test_the_size_of_a_huge_member_is_in_an_extended_header() -> None:
    member = tarfile.TarInfo("huge")
    member.size = 9 << 30
    finder = EndFinder()
    assert not finder.feed(member.tobuf(tarfile.PAX_FORMAT))
    for _ in range(2):
        assert not finder.feed(bytes(1 << 20))
    with pytest.raises(InvalidArgument):
        EndFinder().feed(b"garbage" * 100)
