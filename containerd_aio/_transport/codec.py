"""Messages to bytes and back, by functions compiled once per message class.

betterproto2 interprets its metadata field by field; here the same metadata is turned into straight-line Python the
first time a class is met, which is about nine times faster (benchmarks/bench_decode.py). The classes, their meaning and the
bytes are unchanged; a class with a kind of field that is not handled below goes through betterproto2 itself.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, TypeVar

import betterproto2 as bp
from grpclib.encoding.base import CodecBase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Decoder = Callable[[bytes, int, int], Any]
    Encoder = Callable[[Any], bytes]
    Pieces = Callable[[Any], list[bytes]]

M = TypeVar("M", bound=bp.Message)

_SIGNED = {bp.TYPE_INT32, bp.TYPE_INT64}
_VARINT = _SIGNED | {bp.TYPE_UINT32, bp.TYPE_UINT64, bp.TYPE_BOOL, bp.TYPE_ENUM}
_LENGTH = {bp.TYPE_STRING, bp.TYPE_BYTES, bp.TYPE_MESSAGE}
_DOUBLE = struct.Struct("<d")
_NUMBERS = _VARINT | {bp.TYPE_DOUBLE}


def read_varint(buf: bytes | memoryview, pos: int) -> tuple[int, int]:
    """Return the varint at `pos` and the position behind it."""
    result = shift = 0
    while True:
        byte = buf[pos]
        pos += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, pos
        shift += 7
        if shift > 63:
            raise ValueError("a varint is longer than 64 bits")


def write_varint(value: int) -> bytes:
    """Return `value` as a varint; negative numbers in two's complement of 64 bits."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _skip(buf: bytes, pos: int, wire_type: int) -> int:
    match wire_type:
        case 0:
            return read_varint(buf, pos)[1]
        case 1:
            return pos + 8
        case 2:
            size, pos = read_varint(buf, pos)
            return pos + size
        case 5:
            return pos + 4
        case _:
            raise ValueError(f"wire type {wire_type} is not used by proto3")


def _metadata(cls: type[bp.Message]) -> bp.ProtoClassMetadata:
    metadata: bp.ProtoClassMetadata = getattr(cls, "_betterproto")  # noqa: B009
    return metadata


def _supported(cls: type[bp.Message], seen: set[type]) -> bool:
    """Tell whether every field of `cls`, and of the messages in it, is of a kind compiled below."""
    if cls in seen:
        return True
    seen.add(cls)
    meta = _metadata(cls)
    for name, field in meta.meta_by_field_name.items():
        kind, inner = field.proto_type, meta.cls_by_field[name]
        if field.group or field.unwrap:
            return False
        if kind == bp.TYPE_MAP:
            assert field.map_meta is not None
            key, kind = (m.proto_type for m in field.map_meta)
            inner = meta.cls_by_field[name + ".value"]
            if key != bp.TYPE_STRING or kind not in _LENGTH:
                return False
        elif kind not in _NUMBERS | _LENGTH:
            return False
        if kind == bp.TYPE_MESSAGE and not _supported(inner, seen):
            return False
    return True


# --- decoding -----------------------------------------------------------------------------------------------------

_decoders: dict[type[bp.Message], Decoder] = {}


def decoder_for(cls: type[bp.Message]) -> Decoder:
    """Return ``decode(buffer, start, end) -> message`` for `cls`, compiled on first use."""
    decoder = _decoders.get(cls)
    if decoder is None:
        decoder = _decoders[cls] = (
            _compile_decoder(cls) if _supported(cls, set()) else lambda buf, p, end: cls.parse(buf[p:end])
        )
    return decoder


def _compile_decoder(cls: type[bp.Message]) -> Decoder:
    # A class may contain itself: until it is compiled, calls are forwarded.
    _decoders[cls] = lambda buf, pos, end: _decoders[cls](buf, pos, end)  # noqa: PLW0108
    meta = _metadata(cls)
    env: dict[str, Any] = {
        "cls": cls,
        "new": cls.__new__,
        "varint": read_varint,
        "skip": _skip,
        "DOUBLE": _DOUBLE,
    }
    lines = ["def decode(buf, pos, end):", " unknown = b''"]
    for name in meta.meta_by_field_name:
        env["default_" + name] = meta.default_gen[name]
        lines.append(f" f_{name} = default_{name}()")
    lines += [
        " while pos < end:",
        "  start = pos; tag = buf[pos]; pos += 1",
        "  if tag >= 0x80: tag, pos = varint(buf, start)",
        "  if False: pass",
    ]
    for name in meta.sorted_field_names:
        lines += _decode_field(meta, name, env)
    lines += [
        "  else: pos = skip(buf, pos, tag & 7); unknown += buf[start:pos]",
        " if pos != end: raise ValueError('a field reaches over the end of its message')",
        " message = new(cls)",
        " message.__dict__ = {"
        + "".join(f"{name!r}: f_{name}, " for name in meta.meta_by_field_name)
        + "'_unknown_fields': unknown}",
        " return message",
    ]
    exec("\n".join(lines), env)  # noqa: S102 - the text is made of field names of our own generated classes
    decoder: Decoder = env["decode"]
    return decoder


_READ_SIZE = [
    "   size = buf[pos]; pos += 1",
    "   if size >= 0x80: size, pos = varint(buf, pos - 1)",
    "   stop = pos + size",
    "   if stop > end: raise ValueError('a field reaches over the end of its message')",
]


def _decode_field(meta: bp.ProtoClassMetadata, name: str, env: dict[str, Any]) -> list[str]:
    field = meta.meta_by_field_name[name]
    kind, cls = field.proto_type, meta.cls_by_field[name]
    if kind in _NUMBERS:
        return _decode_number(meta, name, env)
    lines = [f"  elif tag == {field.number << 3 | 2}:", *_READ_SIZE]
    if kind == bp.TYPE_MAP:
        value_cls = meta.cls_by_field[name + ".value"]
        value_kind = field.map_meta[1].proto_type if field.map_meta else ""
        value = _length_value(name, value_kind, value_cls, env)
        empty = f"decode_{name}(b'', 0, 0)" if value_kind == bp.TYPE_MESSAGE else f"{_EMPTY[value_kind]}"
        return [
            *lines,
            f"   key = ''; value = {empty}; last = stop",
            "   while pos < last:",
            "    tag = buf[pos]; pos += 1; size, pos = varint(buf, pos); stop = pos + size",
            "    if tag == 10: key = buf[pos:stop].decode()",
            f"    elif tag == 18: value = {value}",
            "    pos = stop",
            f"   f_{name}[key] = value; pos = last",
        ]
    value = _length_value(name, kind, cls, env)
    return [
        *lines,
        f"   f_{name}.append({value}); pos = stop"
        if field.repeated
        else f"   f_{name} = {value}; pos = stop",
    ]


_EMPTY = {bp.TYPE_STRING: "''", bp.TYPE_BYTES: "b''"}


def _length_value(name: str, kind: str, cls: type, env: dict[str, Any]) -> str:
    if kind == bp.TYPE_STRING:
        return "buf[pos:stop].decode()"
    if kind == bp.TYPE_BYTES:
        return "buf[pos:stop]"
    env["decode_" + name] = decoder_for(cls)
    return f"decode_{name}(buf, pos, stop)"


def _decode_number(meta: bp.ProtoClassMetadata, name: str, env: dict[str, Any]) -> list[str]:
    field = meta.meta_by_field_name[name]
    kind, number = field.proto_type, field.number
    if kind == bp.TYPE_DOUBLE:
        wire, read = 1, ["value = DOUBLE.unpack_from(buf, pos)[0]; pos += 8"]
    else:
        wire, read = 0, ["value = buf[pos]; pos += 1", "if value >= 0x80: value, pos = varint(buf, pos - 1)"]
        if kind in {bp.TYPE_INT32, bp.TYPE_UINT32}:
            read.append("value &= 0xFFFFFFFF")
        if kind in _SIGNED or kind == bp.TYPE_ENUM:
            bits = 32 if kind == bp.TYPE_INT32 else 64
            read.append(f"if value >= {1 << (bits - 1)}: value -= {1 << bits}")
        if kind == bp.TYPE_BOOL:
            read.append("value = value != 0")
        elif kind == bp.TYPE_ENUM:
            env["enum_" + name] = meta.cls_by_field[name]
            read.append(f"value = enum_{name}(value)")
    head = f"  elif tag == {number << 3 | wire}:"
    if not field.repeated:
        return [head, *("   " + line for line in read), f"   f_{name} = value"]
    # Packed is what proto3 writes; single elements must be understood as well.
    return [
        head,
        *("   " + line for line in read),
        f"   f_{name}.append(value)",
        f"  elif tag == {number << 3 | 2}:",
        *_READ_SIZE,
        "   while pos < stop:",
        *("    " + line for line in read),
        f"    f_{name}.append(value)",
    ]


# --- encoding -----------------------------------------------------------------------------------------------------

_pieces: dict[type[bp.Message], Pieces] = {}


def pieces_for(cls: type[bp.Message]) -> Pieces:
    """Return ``encode(message) -> list of bytes`` for `cls`, compiled on first use.

    The list's concatenation is the wire form; a ``bytes`` field of the message stands in it as it is.
    """
    encoder = _pieces.get(cls)
    if encoder is None:
        encoder = _pieces[cls] = (
            _compile_encoder(cls) if _supported(cls, set()) else lambda message: [bytes(message)]
        )
    return encoder


def _encoder_for(cls: type[bp.Message]) -> Encoder:
    """Return ``encode(message) -> bytes`` for a class that is part of another."""
    pieces = pieces_for(cls)
    return lambda message: b"".join(pieces(message))


def _compile_encoder(cls: type[bp.Message]) -> Pieces:
    # A class may contain itself: until it is compiled, calls are forwarded.
    _pieces[cls] = lambda message: _pieces[cls](message)  # noqa: PLW0108
    meta = _metadata(cls)
    env: dict[str, Any] = {"varint": write_varint, "DOUBLE": _DOUBLE}
    lines = ["def encode(message):", " out = []; put = out.append"]
    for name in meta.sorted_field_names:
        lines += _encode_field(meta, name, env)
    lines += [
        " if message._unknown_fields: put(message._unknown_fields)",
        " return out",
    ]
    exec("\n".join(lines), env)  # noqa: S102 - see _compile_decoder
    encoder: Pieces = env["encode"]
    return encoder


def _encode_field(meta: bp.ProtoClassMetadata, name: str, env: dict[str, Any]) -> list[str]:
    field = meta.meta_by_field_name[name]
    kind, cls = field.proto_type, meta.cls_by_field[name]
    get = f" value = message.{name}"
    if kind == bp.TYPE_MAP:
        value_kind = field.map_meta[1].proto_type if field.map_meta else ""
        tag = write_varint(field.number << 3 | 2)
        return [
            get,
            " for key, value in value.items():",
            f"  value = {_value_bytes(name, value_kind, meta.cls_by_field.get(name + '.value', cls), env)}",
            "  key = key.encode()",
            "  entry = b'\\n' + varint(len(key)) + key + b'\\x12' + varint(len(value)) + value",
            f"  put({tag!r}); put(varint(len(entry))); put(entry)",
        ]
    wire = 2 if kind in _LENGTH else 1 if kind == bp.TYPE_DOUBLE else 0
    tag = write_varint(field.number << 3 | wire)
    value = _value_bytes(name, kind, cls, env)
    if kind in _NUMBERS:
        if field.repeated:
            packed = write_varint(field.number << 3 | 2)
            return [
                get,
                f" if value: body = b''.join([{value} for value in value])",
                f" if value: put({packed!r}); put(varint(len(body))); put(body)",
            ]
        present = "value is not None" if field.optional else "value"
        return [get, f" if {present}: put({tag!r}); put({value})"]
    body = f"body = {value}; put({tag!r}); put(varint(len(body))); put(body)"
    if field.repeated:
        return [get, f" for value in value: {body}"]
    present = "value is not None" if kind == bp.TYPE_MESSAGE or field.optional else "value"
    return [get, f" if {present}: {body}"]


def _value_bytes(name: str, kind: str, cls: type, env: dict[str, Any]) -> str:
    if kind == bp.TYPE_STRING:
        return "value.encode()"
    if kind == bp.TYPE_BYTES:
        return "value"
    if kind == bp.TYPE_DOUBLE:
        return "DOUBLE.pack(value)"
    if kind in _VARINT:
        return "varint(int(value))"
    env["encode_" + name] = _encoder_for(cls)
    return f"encode_{name}(value)"


# --- the codec ----------------------------------------------------------------------------------------------------


def encode(message: bp.Message) -> bytes:
    """Return the wire form of `message`."""
    return b"".join(encode_pieces(message))


def encode_pieces(message: bp.Message) -> list[bytes]:
    """Return the wire form of `message` in pieces, so that what is large in it needs no copy."""
    return pieces_for(type(message))(message)


def decode(cls: type[M], data: bytes) -> M:
    """Read a message of class `cls`.

    Raises:
        ValueError: `data` is not such a message.
    """
    try:
        message: M = decoder_for(cls)(data, 0, len(data))
    except (IndexError, struct.error) as exc:
        raise ValueError(f"{cls.__name__}: the message is cut short") from exc
    return message


# What may stand before a large field: tags and varints, a few bytes each.
_HEAD = 32


def bytes_field(cls: type[bp.Message], name: str, pieces: Sequence[bytes | memoryview]) -> bytes:
    """Return a ``bytes`` field of a message that came in pieces, copied once if it is the last and only varints precede it.

    Args:
        cls: Class of the message.
        name: The field.
        pieces: The message.

    Raises:
        ValueError: It is not such a message.
    """
    first, size = pieces[0], sum(map(len, pieces))
    begin = _find(first, _metadata(cls).meta_by_field_name[name].number << 3 | 2, size)
    if begin is None:
        value: bytes = getattr(decode(cls, b"".join(pieces)), name)
        return value
    return b"".join([memoryview(first)[begin:], *pieces[1:]])


def _find(buf: bytes | memoryview, tag: int, size: int) -> int | None:
    """Return where the field begins that reaches from there to the end of a message of `size` bytes beginning with `buf`."""
    pos = 0
    try:
        while pos < min(len(buf), _HEAD):
            found = buf[pos]
            value, pos = read_varint(buf, pos + 1)
            if found == tag:
                return pos if pos + value == size else None
            if found & 0x87:  # no varint, or a tag of two bytes
                return None
    except (IndexError, ValueError):
        pass
    return None


class Codec(CodecBase):
    """The codec handed to grpclib."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:  # noqa: ARG002 - grpclib's signature
        """Return the wire form of `message`."""
        return encode(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        """Read a message of class `message_type`; ``bytes`` leaves it as it came."""
        return data if message_type is bytes else decode(message_type, data)
