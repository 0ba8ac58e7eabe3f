"""The images that are made in Python."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any, Literal

import pytest

from containerd_aio.distribution._compression import zstd
from containerd_aio.errors import InvalidArgument
from containerd_aio.testing.images import (
    Compression,
    Entry,
    Layer,
    Variant,
    build_image_archive,
    build_index_archive,
    busybox_image,
    find_busybox,
    layer_tar,
)


def contents(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: f.read() for m in tar if (f := tar.extractfile(m)) is not None}


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    data = files["blobs/" + descriptor["digest"].replace(":", "/")]
    assert descriptor["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert descriptor["size"] == len(data)
    return data


@pytest.mark.parametrize("compression", ["gzip", "none", "zstd"])
def test_an_archive_is_an_oci_layout(tmp_path: Path, compression: Compression) -> None:
    layers: list[Layer] = [
        {"a": b"1", "dir": Entry(directory=True, mode=0o700)},
        {"l": Entry(link="a"), "b": b"2" * 2000},
    ]
    path = build_image_archive(
        tmp_path / "i.tar",
        "docker.io/library/x:1",
        layers=layers,
        config={"Cmd": ["sh"]},
        platform="linux/arm64",
        compression=compression,
    )
    files = contents(path)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {
        "io.containerd.image.name": "docker.io/library/x:1",
        "org.opencontainers.image.ref.name": "1",
    }
    manifest = json.loads(blob(files, entry))
    config = json.loads(blob(files, manifest["config"]))
    assert (config["os"], config["architecture"], config["config"]) == ("linux", "arm64", {"Cmd": ["sh"]})
    for descriptor, diff_id, expected in zip(
        manifest["layers"], config["rootfs"]["diff_ids"], layers, strict=True
    ):
        data = blob(files, descriptor)
        assert descriptor["mediaType"].endswith(
            {"gzip": ".tar+gzip", "none": ".tar", "zstd": ".tar+zstd"}[compression]
        )
        plain = {"gzip": gzip.decompress, "zstd": zstd().decompress, "none": bytes}[compression](data)
        assert diff_id == f"sha256:{hashlib.sha256(plain).hexdigest()}"
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            assert tar.getnames() == sorted(expected)


def test_an_archive_is_the_same_every_time(tmp_path: Path) -> None:
    kwargs = {"layers": [{"b": b"2", "a": b"1"}], "config": {"Env": ["A=1"]}}
    one = build_image_archive(tmp_path / "1.tar", "x:1", **kwargs)  # type: ignore[arg-type]
    two = build_image_archive(tmp_path / "2.tar", "x:1", **kwargs)  # type: ignore[arg-type]
    assert one.read_bytes() == two.read_bytes()


def test_several_platforms_make_an_index(tmp_path: Path) -> None:
    path = build_index_archive(
        tmp_path / "i.tar",
        "x:1",
        Variant([{"a": b"1"}], platform="linux/amd64"),
        Variant([{"a": b"2"}], platform="linux/arm/v7"),
    )
    files = contents(path)
    (entry,) = json.loads(files["index.json"])["manifests"]
    index = json.loads(blob(files, entry))
    assert [m["platform"] for m in index["manifests"]] == [
        {"os": "linux", "architecture": "amd64"},
        {"os": "linux", "architecture": "arm", "variant": "v7"},
    ]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../b", ""])
def test_paths_that_lead_outside_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="relative"):
        layer_tar({path: b""})


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="at least one variant"):
        build_index_archive(tmp_path / "x", "x")
    with pytest.raises(InvalidArgument, match="is not one of gzip, none, zstd"):
        build_image_archive(tmp_path / "x", "x", layers=[{}], compression="bzip2")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="platform"):
        build_image_archive(tmp_path / "x", "x", layers=[{}], platform="nonsense")
    assert not (tmp_path / "x").exists()


def elf(*segments: int, wide: bool = True) -> bytes:
    """An ELF header with program headers of these types."""
    order: Literal["little"] = "little"
    entry = 56 if wide else 32
    head = bytearray(64 if wide else 52)
    head[:6] = b"\x7fELF" + bytes([2 if wide else 1, 1])
    table, size, count = (0x20, 0x36, 0x38) if wide else (0x1C, 0x2A, 0x2C)
    head[table : table + 4] = len(head).to_bytes(4, order)
    head[size : size + 2] = entry.to_bytes(2, order)
    head[count : count + 2] = len(segments).to_bytes(2, order)
    return bytes(head) + b"".join(kind.to_bytes(4, order) + bytes(entry - 4) for kind in segments)


@pytest.mark.parametrize("wide", [True, False])
def test_a_busybox_must_be_static(tmp_path: Path, wide: bool) -> None:
    binary = tmp_path / "busybox"
    with pytest.raises(InvalidArgument, match=r"there is no busybox .* busybox-static"):
        find_busybox(binary)
    for data in (b"#!/bin/sh\n", b"\x7fELF", elf(1, 3, 1, wide=wide)):
        binary.write_bytes(data)
        with pytest.raises(InvalidArgument, match=r"not a statically linked .* busybox-static"):
            find_busybox(binary)
    binary.write_bytes(elf(1, 1, wide=wide))
    assert find_busybox(binary) == binary


def test_a_busybox_image(tmp_path: Path) -> None:
    binary = tmp_path / "busybox"
    binary.write_bytes(elf(1))
    path = busybox_image(
        tmp_path / "i.tar", extra_layers=[{"x": b"y"}], config={"Cmd": ["true"]}, busybox=binary
    )
    files = contents(path)
    manifest = json.loads(blob(files, json.loads(files["index.json"])["manifests"][0]))
    config = json.loads(blob(files, manifest["config"]))["config"]
    assert config["Cmd"] == ["true"]
    assert config["Env"][0].startswith("PATH=")
    assert len(manifest["layers"]) == 2
    with tarfile.open(fileobj=io.BytesIO(blob(files, manifest["layers"][0]))) as tar:
        members = {member.name: member for member in tar}
    assert members["bin/busybox"].mode == 0o755
    assert members["bin/sh"].linkname == "busybox"
    assert members["tmp"].mode == 0o1777
