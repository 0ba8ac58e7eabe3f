"""The compiled codec: the same bytes and the same meaning as betterproto2's own, for every message of the API."""

from __future__ import annotations

import random
from importlib import import_module
from typing import Any

import betterproto2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio._transport.codec import Codec, bytes_field, decode, encode, read_varint, write_varint
from containerd_aio.api.containerd.events import TaskExit
from containerd_aio.api.containerd.services.content.v1 import ReadContentResponse
from containerd_aio.api.containerd.services.images.v1 import DeleteImageRequest
from containerd_aio.api.containerd.types import Descriptor
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.api.message_types import MESSAGE_TYPES

EXTREMES: dict[str, list[Any]] = {
    betterproto2.TYPE_INT32: [0, 1, -1, 2**31 - 1, -(2**31)],
    betterproto2.TYPE_INT64: [0, 1, -1, 2**63 - 1, -(2**63)],
    betterproto2.TYPE_UINT32: [0, 1, 127, 128, 2**32 - 1],
    betterproto2.TYPE_UINT64: [0, 1, 127, 128, 2**64 - 1],
    betterproto2.TYPE_BOOL: [False, True],
    betterproto2.TYPE_DOUBLE: [0.0, 1.5, -2.25, 1e300],
    betterproto2.TYPE_STRING: ["", "a", "ünïcödé", "x" * 200],
    betterproto2.TYPE_BYTES: [b"", b"\0\xff", b"y" * 300],
}


def _class_of(name: str) -> type[betterproto2.Message]:
    module, cls = MESSAGE_TYPES[name]
    found: type[betterproto2.Message] = getattr(import_module(f"containerd_aio.api.{module}"), cls)
    return found


def _value(rng: random.Random, kind: str, cls: type, depth: int) -> Any:
    if kind == betterproto2.TYPE_MESSAGE:
        return _message(rng, cls, depth + 1)
    if kind == betterproto2.TYPE_ENUM:
        return cls(rng.choice([*(int(v) for v in cls), 77]))  # type: ignore[attr-defined, call-arg]
    return rng.choice(EXTREMES[kind])


def _message(rng: random.Random, cls: type[betterproto2.Message], depth: int = 0) -> betterproto2.Message:
    meta: Any = cls._betterproto
    values: dict[str, Any] = {}
    for name, field in meta.meta_by_field_name.items():
        if rng.random() < 0.35 or depth > 3:
            continue
        if field.proto_type == betterproto2.TYPE_MAP:
            kind, value_class = field.map_meta[1].proto_type, meta.cls_by_field[name + ".value"]
            keys = rng.sample(["", "k", "key" * 50], rng.randint(0, 3))
            values[name] = {key: _value(rng, kind, value_class, depth) for key in keys}
        elif field.repeated:
            values[name] = [
                _value(rng, field.proto_type, meta.cls_by_field[name], depth)
                for _ in range(rng.randint(0, 3))
            ]
        else:
            values[name] = _value(rng, field.proto_type, meta.cls_by_field[name], depth)
    return cls(**values)


@pytest.mark.parametrize("name", sorted(MESSAGE_TYPES))
def test_every_message_is_written_and_read_as_betterproto2_does(name: str) -> None:
    cls, rng = _class_of(name), random.Random(name)
    for _ in range(20):
        message = _message(rng, cls)
        data = encode(message)
        assert cls.parse(data) == message
        assert decode(cls, bytes(message)) == message
        assert decode(cls, data) == message
        assert len(data) == len(bytes(message))


def test_every_message_class_is_compiled() -> None:
    from containerd_aio._transport.codec import _supported

    assert [name for name in MESSAGE_TYPES if not _supported(_class_of(name), set())] == []


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63, 2**64 - 1])
def test_varints(value: int) -> None:
    data = write_varint(value)
    assert read_varint(b"x" + data, 1) == (value, 1 + len(data))


def test_negative_numbers_take_ten_bytes() -> None:
    assert read_varint(write_varint(-1), 0) == (2**64 - 1, 10)


def test_unknown_fields_are_kept() -> None:
    data = bytes(TaskExit(container_id="c", exit_status=3)) + b"\xfa\x06\x03new" + b"\x80\x07\x05"
    message = decode(TaskExit, data)
    assert message.container_id == "c"
    assert encode(message).endswith(b"\xfa\x06\x03new" + b"\x80\x07\x05")


def test_a_repeated_single_message_keeps_the_last_one() -> None:
    first, second = bytes(TaskExit(exit_status=1)), bytes(TaskExit(exit_status=2))
    assert decode(TaskExit, first + second).exit_status == 2


def test_absent_and_empty_messages_differ() -> None:
    assert decode(TaskExit, b"").exited_at is None
    assert decode(TaskExit, b"\x2a\x00").exited_at == Timestamp()
    assert encode(TaskExit(exited_at=Timestamp())) == b"\x2a\x00"
    assert decode(DeleteImageRequest, b"").target is None
    assert decode(DeleteImageRequest, encode(DeleteImageRequest(target=Descriptor()))).target == Descriptor()


def test_nanoseconds_and_the_year_1_survive() -> None:
    for at in (Timestamp(seconds=1, nanos=123_456_789), Timestamp(seconds=-62_135_596_800)):
        assert decode(TaskExit, encode(TaskExit(exited_at=at))).exited_at == at


@pytest.mark.parametrize(
    "data", [b"\x0a", b"\x0a\x05ab", b"\x18", b"\xff" * 11, b"\x0b", b"\x2a\x02\x08", b"\x0a\x01\xff"]
)
def test_garbage_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(TaskExit, data)


def test_random_bytes_never_raise_anything_else() -> None:
    rng = random.Random(0)
    classes = [_class_of(name) for name in MESSAGE_TYPES]
    for _ in range(5000):
        try:
            decode(rng.choice(classes), rng.randbytes(rng.randint(0, 40)))
        except ValueError:
            continue


def test_the_codec_leaves_bytes_alone() -> None:
    assert Codec().decode(b"abc", bytes) == b"abc"


@given(st.integers(0, 2**62), st.binary(max_size=200), st.lists(st.integers(1, 60)))
def test_a_field_of_a_message_in_pieces(offset: int, data: bytes, cuts: list[int]) -> None:
    """The same as from the whole message, wherever it is cut, and whatever stands behind it."""
    for unknown in (b"", b"\x78\x05"):
        encoded = encode(ReadContentResponse(offset=offset, data=data)) + unknown
        pieces: list[bytes | memoryview] = []
        at = 0
        for cut in cuts:
            pieces.append(memoryview(encoded)[at : at + cut])
            at += cut
        pieces.append(encoded[at:])
        assert bytes_field(ReadContentResponse, "data", pieces) == data
    with pytest.raises(ValueError, match=r"cut short|reaches over"):
        bytes_field(ReadContentResponse, "data", [b"\x12\x05ab"])
