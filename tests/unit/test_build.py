"""Images built in Python: layers of files and directories, deterministic digests."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import tarfile
from pathlib import Path

import pytest

from containerd_aio.distribution.build import (
    Entry,
    Layer,
    Variant,
    build_image,
    build_index,
    directory_layer,
    layer_tar,
)
from containerd_aio.distribution.manifests import OCI_INDEX, OCI_MANIFEST
from containerd_aio.errors import InvalidArgument


def tree(folder: Path) -> Path:
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "file").write_bytes(b"content")
    (folder / "run.sh").write_bytes(b"#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    (folder / "link").symlink_to("sub/file")
    (folder / "outside").symlink_to("/etc/passwd")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "ünï").write_bytes(b"4")
    return folder


def members(layer: Layer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer_tar(layer))) as tar:
        return {member.name: member for member in tar}


def test_a_directory_becomes_a_layer(tmp_path: Path) -> None:
    found = members(directory_layer(tree(tmp_path)))
    assert sorted(found) == ["dangling", "link", "outside", "run.sh", "sub", "sub/deep", "sub/file", "ünï"]
    assert (found["run.sh"].mode, found["sub/file"].size) == (0o755, 7)
    assert (found["link"].issym(), found["link"].linkname) == (True, "sub/file")
    assert found["outside"].linkname == "/etc/passwd", "taken as a link, not followed"
    assert {(m.uid, m.gid, m.mtime) for m in found.values()} == {(0, 0, 0)}


def test_a_directory_goes_where_it_should(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    os.utime(tmp_path / "a", (1, 1234))
    found = members(directory_layer(tmp_path, at="/opt/app/", uid=7, gid=8, mtime=None))
    assert list(found) == ["opt", "opt/app", "opt/app/a"]
    assert (found["opt/app/a"].uid, found["opt/app/a"].gid, found["opt/app/a"].mtime) == (7, 8, 1234)
    own = members(directory_layer(tmp_path, uid=None, gid=None))["a"]
    assert (own.uid, own.gid) == (os.getuid(), os.getgid())


def test_what_no_layer_can_have(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidArgument, match="is no directory"):
        directory_layer(tmp_path / "file")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidArgument, match="pipe is a device, socket or pipe"):
        directory_layer(tmp_path)
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        with pytest.raises(InvalidArgument, match="sock is a device, socket or pipe"):
            directory_layer(tmp_path)


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_digests_are_those_of_the_bytes_and_always_the_same(tmp_path: Path, compression: str) -> None:
    one, two = tree(tmp_path / "one"), tree(tmp_path / "two")
    images = [
        build_image(layers=[{"a": b"1"}, folder], config={"Cmd": ["/run.sh"]}, compression=compression)
        for folder in (one, two)
    ]
    assert images[0] == images[1]
    image = images[0]
    for digest, data in image.blobs.items():
        assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert len(image.blobs) == 4
    assert list(image.blobs)[-1] == image.target.digest, "what refers to others comes after them"
    assert image.target.media_type == OCI_MANIFEST
    assert image.archive("x:1") == images[1].archive("x:1")
    assert build_image(layers=[{"a": b"2"}, one]).target != image.target


def test_pinned_digests() -> None:
    """Plain layers do not depend on a compressing library: these digests are the same everywhere, for ever."""
    image = build_image(
        layers=[{"etc/motd": b"hello\n", "bin": Entry(directory=True, mode=0o755)}],
        config={"Cmd": ["/bin/true"]},
        platform="linux/amd64",
        compression="none",
    )
    assert image.target.digest == "sha256:b899baec32f885de33c46fa9e862e04e457e8f3f810b2d8a46a7380992b506ea"


def test_several_platforms_and_labels() -> None:
    image = build_index(*(Variant([{"p": p.encode()}], platform=p) for p in ("linux/amd64", "linux/arm/v7")))
    assert image.target.media_type == OCI_INDEX
    index = json.loads(image.blobs[image.target.digest])
    assert [m["platform"] for m in index["manifests"]] == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm", "variant": "v7"},
    ]
    assert sorted(image.labels[image.target.digest].values()) == sorted(
        m["digest"] for m in index["manifests"]
    )


def test_bad_arguments() -> None:
    with pytest.raises(InvalidArgument, match="at least one variant"):
        build_index()
    with pytest.raises(InvalidArgument, match="compression 'lz4' is not one of gzip, none, zstd"):
        build_image(layers=[], compression="lz4")
    with pytest.raises(InvalidArgument, match="platform"):
        build_image(layers=[], platform="a/b/c/d")
    with pytest.raises(InvalidArgument, match="relative"):
        build_image(layers=[{"/abs": b""}])
