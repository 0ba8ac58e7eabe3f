"""Reading tar streams, and what an archive's images are called."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import pytest

from containerd_aio.distribution import _compression
from containerd_aio.distribution._compression import compress, decompressed, detect
from containerd_aio.distribution._docker_archive import Blob, _find, _parse, _platform
from containerd_aio.distribution._names import Naming, add_prefix, filter_prefix, name_images
from containerd_aio.distribution._tar import Member, TarReader, clean_path
from containerd_aio.distribution.archive import digest_of_path
from containerd_aio.distribution.reference import parse_familiar
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor, Platform

LONG = "/".join(["directory" * 5] * 5) + "/file"
FILES = {"a": b"1" * 700, "empty": b"", "b/c": b"2" * 512, LONG: b"3" * 5000, "ünï": b"4"}


def make_tar(format_: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        for name, data in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mtime = 1.5 if format_ == tarfile.PAX_FORMAT else 1
            tar.addfile(member, io.BytesIO(data))
        directory = tarfile.TarInfo("dir/")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, LONG
        tar.addfile(link)
    return out.getvalue()


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


async def read(data: bytes, size: int = 1000, *, want: bool = True) -> dict[str, tuple[Member, bytes]]:
    found: dict[str, tuple[Member, bytes]] = {}
    async with aclosing(decompressed(chunks(data, size))) as plain:
        reader = TarReader(plain)
        async with aclosing(reader.members()) as members:
            async for member in members:
                body = b"".join([c async for c in reader.data()]) if want and member.is_file else b""
                found[member.path] = (member, body)
    return found


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
@pytest.mark.parametrize("size", [1, 511, 512, 513, 100_000])
@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, partial(compress, compression="zstd")], ids=["plain", "gzip", "zstd"]
)
async def test_members_and_their_data(format_: int, size: int, pack: Callable[[bytes], bytes]) -> None:
    found = await read(pack(make_tar(format_)), size)
    assert {path: body for path, (member, body) in found.items() if member.is_file} == FILES
    assert found["link"][0].link == LONG
    assert not found["dir"][0].is_file
    assert [path for path, (member, _) in found.items() if member.size != len(FILES.get(path, b""))] == []


async def test_what_is_not_read_is_skipped() -> None:
    assert list(await read(make_tar(), want=False)) == [*FILES, "dir", "link"]


async def test_gzip_of_several_members_and_padding() -> None:
    data = make_tar()
    packed = gzip.compress(data[:3000]) + gzip.compress(data[3000:]) + bytes(100)
    assert list(await read(packed)) == [*FILES, "dir", "link"]


@pytest.mark.parametrize("pack", [gzip.compress, partial(compress, compression="zstd")], ids=["gzip", "zstd"])
async def test_many_small_frames(pack: Callable[[bytes], bytes]) -> None:
    data = make_tar()
    packed = b"".join(pack(data[at : at + 100]) for at in range(0, len(data), 100)) + pack(b"") * 500
    for size in (7, 1000, len(packed)):
        assert list(await read(packed, size)) == [*FILES, "dir", "link"]


async def test_of_many_members_not_all_that_is_left_is_copied_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, real = 0, zlib.decompressobj

    class Counting:
        def __init__(self, **options: Any) -> None:
            self._inner = real(**options)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def decompress(self, part: bytes, limit: int) -> bytes:
            nonlocal given
            given += len(part)
            return self._inner.decompress(part, limit)

    packed = gzip.compress(b"") * 20_000
    monkeypatch.setattr(_compression.zlib, "decompressobj", Counting)
    decoder = _compression._Gunzip("it")
    assert list(decoder.feed(packed)) == []
    assert given < len(packed) + 20_000 * (17 << 10)


async def test_a_gzip_bomb_is_unpacked_piece_by_piece() -> None:
    member = tarfile.TarInfo("big")
    member.size = 300 << 20
    packed = gzip.compress(member.tobuf() + bytes(1 << 20), compresslevel=9)
    largest = 0
    async with aclosing(decompressed(chunks(packed, len(packed)))) as plain:
        async for piece in plain:
            largest = max(largest, len(piece))
    assert largest <= 1 << 20


def extended(record: bytes) -> bytes:
    """A PAX header for the member that follows."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(record)
    return header.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512)


async def test_a_pax_size_counts() -> None:
    member = tarfile.TarInfo("f")
    member.size = 0
    header = member.tobuf(tarfile.USTAR_FORMAT)
    data = extended(b"9 size=3\n") + header + b"abc".ljust(512, b"\0")
    assert (await read(data + bytes(1024)))["f"][1] == b"abc"


@pytest.mark.parametrize(
    "pack", [bytes, gzip.compress, partial(compress, compression="zstd")], ids=["plain", "gzip", "zstd"]
)
async def test_cut_anywhere_it_is_an_error_or_a_part(pack: Callable[[bytes], bytes]) -> None:
    """Never another exception, never wrong bytes; at the border of a member the rest may simply be missing."""
    whole = pack(make_tar())
    for end in range(0, len(whole), 97):
        try:
            found = await read(whole[:end])
        except InvalidArgument as exc:
            assert "cut short" in str(exc) or "empty" in str(exc) or "damaged" in str(exc)  # noqa: PT017
        else:
            assert all(FILES[path] == body for path, (member, body) in found.items() if member.is_file)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty"),
        (b"\x1f\x8b" + b"x" * 600, "gzip compression is damaged"),
        (b"not a tar at all" * 100, "no tar archive"),
        (b"\x28\xb5\x2f\xfd\xff" + bytes(600), "zstd compression is damaged"),
        (compress(make_tar(), "zstd")[:-9], "zstd stream does not end"),
        (b"\xfd7zXZ\0" + bytes(600), "with xz"),
        (b"BZh9" + bytes(600), "with bzip2"),
        (make_tar(tarfile.GNU_FORMAT)[:1536] + b"x" * 512, "damaged: no tar header at byte"),
        (make_tar()[:200], "cut short"),
    ],
)
async def test_what_is_no_archive(data: bytes, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        await read(data)


async def test_hostile_headers() -> None:
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(InvalidArgument, match="extended header of"):
        await read(huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    for record in (b"x", b"5 a=b", b"99 a=b\n", b"0 a=b\n", b"6 a-b\n", b"9" * 5000 + b" a=b\n"):
        with pytest.raises(InvalidArgument, match="malformed extended header"):
            await read(extended(record) + bytes(1024))
    for size in ("9" * 4500, str(1 << 63), "-1", "x"):
        record = f"{len(size) + 11} size={size}\n".rjust(len(size) + 11, "0").encode()
        with pytest.raises(InvalidArgument, match=r"damaged at byte .* size"):
            await read(extended(record) + make_tar())
    wide = tarfile.TarInfo("x")
    wide.size = 1 << 70
    with pytest.raises(InvalidArgument, match="a member of 1180591620717411303424 bytes"):
        await read(wide.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    sparse = tarfile.TarInfo("x")
    sparse.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(InvalidArgument, match="sparse"):
        await read(sparse.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("a/b", "a/b"),
        ("./a", "a"),
        ("/a//b/", "a/b"),
        ("a/../b", "b"),
        ("../../a", "a"),
        ("a/..", ""),
        ("", ""),
    ],
)
def test_paths_are_cleaned(path: str, clean: str) -> None:
    assert clean_path(path) == clean


def test_digests_of_paths() -> None:
    assert digest_of_path("blobs/sha256/" + "a" * 64) == "sha256:" + "a" * 64
    assert digest_of_path("index.json") is None
    assert digest_of_path("abc/layer.tar") is None
    assert digest_of_path("blobs/sha256") is None
    with pytest.raises(InvalidArgument):
        digest_of_path("blobs/sha256/nonsense")
    with pytest.raises(InvalidArgument, match="sha256 digests only"):
        digest_of_path("blobs/sha512/" + "a" * 128)


def entry(letter: str = "a", **annotations: str) -> Descriptor:
    names = {"name": "io.containerd.image.name", "ref": "org.opencontainers.image.ref.name"}
    return Descriptor("m", "sha256:" + letter * 64, 1, {names[k]: v for k, v in annotations.items()})


@pytest.mark.parametrize(
    ("entries", "given", "expected"),
    [
        ([entry(name="x/y:1", ref="1")], None, ["x/y:1"]),
        ([entry(name="anything goes")], "ours", ["anything goes"]),
        ([entry(ref="docker.io/a/b:2")], None, ["docker.io/a/b:2"]),
        ([entry(ref="a/b")], None, ["docker.io/a/b:latest"]),
        ([entry(ref="2")], "app", ["docker.io/library/app:2"]),
        ([entry(ref="2")], "example.com:5000/app", ["example.com:5000/app:2"]),
        ([entry(ref="2")], "app:3", ["docker.io/library/app:3"]),
        ([entry()], "app", ["docker.io/library/app:latest"]),
        (
            [entry(ref="1"), entry("b", ref="2")],
            "app",
            ["docker.io/library/app:1", "docker.io/library/app:2"],
        ),
        ([entry(name="a"), entry("b")], None, ["a"]),
        ([entry(name="a"), entry(name="a")], None, ["a"]),
    ],
)
def test_names(entries: list[Descriptor], given: str | None, expected: list[str]) -> None:
    reference = None if given is None else parse_familiar(given)
    tagged = given is not None and ":" in given.rpartition("/")[2]
    naming = Naming(given=reference, tagged=tagged)
    assert [name for name, _ in name_images(entries, naming)] == expected


def test_names_that_are_missing_or_not_unique() -> None:
    with pytest.raises(InvalidArgument, match="give name="):
        name_images([entry(ref="latest")], Naming())
    assert name_images([entry()], Naming(required=False)) == []
    with pytest.raises(InvalidArgument, match=r"several images .*app:1"):
        name_images([entry(), entry("b")], Naming(given=parse_familiar("app:1"), tagged=True))


@pytest.mark.parametrize(
    ("ref", "added", "filtered"),
    [
        ("latest", "example.com/app:latest", "example.com/app:latest"),
        ("example.com/app:1", "example.com/app:1", "example.com/app:1"),
        ("example.com/app/part:1", "example.com/app/part:1", "example.com/app/part:1"),
        ("example.com/apple:1", "example.com/apple:1", None),
        ("other:1", "other:1", None),
    ],
)
@pytest.mark.shows("go:TestImport")
def test_translated_names(ref: str, added: str, filtered: str | None) -> None:
    assert add_prefix("example.com/app")(ref) == added
    assert filter_prefix("example.com/app")(ref) == filtered
    naming = Naming(translate=filter_prefix("example.com/app"), required=False)
    assert [name for name, _ in name_images([entry(ref=ref)], naming)] == ([filtered] if filtered else [])
    assert [n for n, _ in name_images([entry(ref=ref, name="full")], naming)] == ["full"]


def test_names_by_digest() -> None:
    digest = "sha256:" + "a" * 64
    named, unnamed = entry(name="x:1"), entry("b")
    every = name_images([named, unnamed], Naming(digests="by"))
    assert [name for name, _ in every] == ["x:1", f"by@{digest}", f"by@{unnamed.digest}"]
    some = name_images([named, unnamed], Naming(digests="by", skip_digest_of_named=True))
    assert [name for name, _ in some] == ["x:1", f"by@{unnamed.digest}"]


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\n", "\ud800", "a" * 2000])
def test_hostile_names(name: str) -> None:
    with pytest.raises(InvalidArgument, match="which is no name"):
        name_images([entry(name=name)], Naming())
    with pytest.raises(InvalidArgument):
        name_images([entry(ref=name)], Naming(given=parse_familiar("app")))


def test_docker_manifests() -> None:
    (item,) = _parse(b'[{"Config":"c","RepoTags":null,"Layers":["l"]}]')
    assert (item.config, item.layers, item.tags) == ("c", ("l",), ())
    for bad in (b"{", b"{}", b"[1]", b'[{"Config":"c"}]', b"3"):
        with pytest.raises(InvalidArgument, match=r"manifest\.json"):
            _parse(bad)


def test_links_between_layers() -> None:
    blob = Blob("sha256:x", 1)
    links: dict[str, str] = {"b/layer.tar": "../a/layer.tar", "loop": "loop", "out": "nowhere"}
    files: dict[str, Any] = {"a/layer.tar": blob}
    assert _find("b/layer.tar", files, links) is blob
    assert _find("./a/layer.tar", files, links) is blob
    for missing in ("loop", "out", "no"):
        with pytest.raises(InvalidArgument, match="incomplete"):
            _find(missing, files, links)


@pytest.mark.parametrize(
    ("magic", "expected"), [(b"\x1f\x8b\x08", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"bin/", "none")]
)
def test_how_a_layer_is_compressed(magic: bytes, expected: str) -> None:
    assert detect(magic) == expected


@pytest.mark.shows("go:TestImport")
def test_platforms_of_old_archives() -> None:
    assert _platform({"os": "Linux", "architecture": "AMD64"}) == Platform("linux", "amd64")
    assert _platform({}) is None
