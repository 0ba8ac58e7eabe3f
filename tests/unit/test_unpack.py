"""Manifests and chain ids: what unpacking goes by."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from containerd_aio.distribution.manifests import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    chain_id,
    chain_ids,
    check_unambiguous,
    children,
    diff_ids,
    gc_labels,
    is_index,
    is_layer,
    is_manifest,
    parse_json,
)
from containerd_aio.distribution.unpack import snapshot_gc_label
from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import Descriptor, Platform, check_digest


def digest(text: str) -> str:
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


A, B, C = digest("a"), digest("b"), digest("c")


def test_chain_ids() -> None:
    assert chain_ids([]) == []
    assert chain_id([]) == ""
    assert chain_ids([A]) == [A]
    assert chain_ids([A, B]) == [A, digest(f"{A} {B}")]
    assert chain_ids([A, B, C]) == [A, digest(f"{A} {B}"), digest(f"{digest(f'{A} {B}')} {C}")]
    assert chain_id([A, B, C]) == chain_ids([A, B, C])[-1]
    assert chain_id([A, B]) != chain_id([B, A])


def test_a_known_chain_id() -> None:
    """As ``opencontainers/image-spec`` computes it for these two layers."""
    first = "sha256:" + "1" * 64
    second = "sha256:" + "2" * 64
    expected = hashlib.sha256(b"sha256:" + b"1" * 64 + b" sha256:" + b"2" * 64).hexdigest()
    assert chain_id([first, second]) == f"sha256:{expected}"


@pytest.mark.parametrize(
    ("config", "layers", "text"),
    [
        ({}, 1, "no rootfs.diff_ids"),
        ({"rootfs": None}, 1, "no rootfs.diff_ids"),
        ({"rootfs": []}, 1, "no rootfs.diff_ids"),
        ({"rootfs": {"diff_ids": "x"}}, 1, "no rootfs.diff_ids"),
        ({"rootfs": {"diff_ids": [1]}}, 1, "no rootfs.diff_ids"),
        ({"rootfs": {"diff_ids": [A]}}, 2, "2 layers and the config 1 diff ids"),
    ],
)
def test_bad_diff_ids(config: dict[str, Any], layers: int, text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"image x: .*{text}"):
        diff_ids(config, layers, "image x")


def test_labels() -> None:
    kept = [Descriptor("x", d, 1) for d in (A, B, C)]
    assert gc_labels(OCI_MANIFEST, kept) == {
        "containerd.io/gc.ref.content.config": A,
        "containerd.io/gc.ref.content.l.0": B,
        "containerd.io/gc.ref.content.l.1": C,
    }
    assert gc_labels(DOCKER_INDEX, kept[:2]) == {
        "containerd.io/gc.ref.content.m.0": A,
        "containerd.io/gc.ref.content.m.1": B,
    }
    assert snapshot_gc_label("overlayfs") == "containerd.io/gc.ref.snapshot.overlayfs"


def test_media_types() -> None:
    assert [is_index(t) for t in (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, "")] == [True, True, False, False]
    assert [is_manifest(t) for t in (OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX)] == [True, True, False]
    assert is_layer(OCI_LAYER_GZIP)
    assert is_layer("application/vnd.docker.image.rootfs.diff.tar.gzip")
    assert not is_layer(OCI_CONFIG)
    assert not is_layer("application/vnd.in-toto+json")


def test_children() -> None:
    config = {"mediaType": OCI_CONFIG, "digest": A, "size": 1}
    layer = {"mediaType": OCI_LAYER_GZIP, "digest": B, "size": 2}
    found = children({"config": config, "layers": [layer]}, OCI_MANIFEST, "m")
    assert [d.digest for d in found] == [A, B]
    assert children({"config": config}, OCI_MANIFEST, "m") == [Descriptor(OCI_CONFIG, A, 1)]
    (entry,) = children(
        {"manifests": [{**config, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}]},
        OCI_INDEX,
        "i",
    )
    assert entry.platform == Platform("linux", "arm", "v7")
    assert children({}, "text/plain", "t") == []
    malformed: list[dict[str, Any]] = [
        {},
        {"config": {}},
        {"config": config, "layers": {}},
        {"config": config, "layers": [1]},
    ]
    for bad in malformed:
        with pytest.raises(InvalidArgument):
            children(bad, OCI_MANIFEST, "m")


@pytest.mark.parametrize(
    ("value", "media_type"),
    [
        ({"manifests": []}, OCI_MANIFEST),
        ({"config": {}, "manifests": []}, OCI_INDEX),
        ({"layers": []}, DOCKER_INDEX),
        ({"mediaType": OCI_INDEX}, OCI_MANIFEST),
    ],
)
def test_ambiguous_documents_are_refused(value: dict[str, Any], media_type: str) -> None:
    with pytest.raises(InvalidArgument, match="m "):
        check_unambiguous(value, media_type, "m")


def test_json() -> None:
    assert parse_json(b'{"a": 1}', "x") == {"a": 1}
    with pytest.raises(InvalidArgument, match="x is not JSON"):
        parse_json(b"\xff", "x")
    with pytest.raises(InvalidArgument, match="x is not a JSON object"):
        parse_json(b"[]", "x")


def test_descriptors_there_and_back() -> None:
    value = {
        "mediaType": OCI_MANIFEST,
        "digest": A,
        "size": 3,
        "urls": ["https://example.com"],
        "annotations": {"a": "b"},
        "data": "YWJj",
        "platform": {"architecture": "amd64", "os": "windows", "os.version": "10.0.1"},
        "artifactType": "application/x",
    }
    descriptor = Descriptor.from_json(value)
    assert descriptor.data == b"abc"
    assert descriptor.to_json() == value
    assert Descriptor.from_raw(descriptor.to_raw()) == Descriptor(OCI_MANIFEST, A, 3, {"a": "b"})
    assert Descriptor.from_raw(None) == Descriptor("", "", 0)
    assert Platform.from_raw(Platform("linux", "arm", "v7", "x").to_raw()) == Platform(
        "linux", "arm", "v7", "x"
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "x",
        {},
        {"digest": A},
        {"digest": A, "size": "1"},
        {"digest": A, "size": -1},
        {"digest": A, "size": True},
        {"digest": 5, "size": 1},
        {"digest": A, "size": 1, "data": "%"},
        {"digest": A, "size": 1, "platform": 3},
        {"digest": A, "size": 1, "annotations": [1]},
    ],
)
def test_what_is_no_descriptor(value: Any) -> None:
    with pytest.raises(InvalidArgument):
        Descriptor.from_json(value)


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:xyz", "sha256:" + "A" * 64, A + "0", "md5:" + "0" * 32, A + "\n"]
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidArgument):
        check_digest(text)
    assert check_digest("sha512:" + "0" * 128)
