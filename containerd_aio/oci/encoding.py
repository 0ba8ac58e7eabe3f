"""OCI types as JSON, byte for byte as Go's ``encoding/json`` writes the OCI Go types.

containerd stores a spec as the JSON its client sent, so equal specs should be equal bytes whoever sent them. Go writes
fields in the order of the struct, drops ``omitempty`` fields that are zero, sorts the keys of maps, and escapes
``<``, ``>``, ``&``, U+2028 and U+2029 inside strings. Order and kinds come from `containerd_aio.oci.types`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, Required, get_args, get_origin, get_type_hints, is_typeddict

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci.types import Spec
from containerd_aio.oci.types.marks import ALWAYS, POINTER

#: None of these can stand outside a string in JSON, so the finished text may be translated as a whole.
_GO_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_ZERO = {str: "", int: 0, bool: False}
_NAMES = {str: "a string", int: "an integer", bool: "true or false"}


class _Form(Enum):
    STRUCT = "struct"
    LIST = "list"
    MAP = "map"
    SCALAR = "scalar"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a value is written: its form, and the type it is, or is made of."""

    form: _Form
    of: Any


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    shape: _Shape
    always: bool
    kept: bool
    pointer: bool


def to_json(
    value: Mapping[str, Any],
    *,
    kind: type[Any] = Spec,
    indent: int | None = None,
) -> bytes:
    r"""Encode an OCI object the way Go's client does.

    Fields that the specification does not know are kept, after the known ones. Only the control characters backspace
    and form feed depend on the Go release: before 1.22 it wrote ``\u0008`` and ``\u000c``; here they are ``\b``, ``\f``.

    Args:
        value: The object, a plain dict. None counts as absent.
        kind: Its type: `Spec` (default), `Process`, `LinuxResources`, or another type of the specification.
        indent: Spaces per level; None writes the compact form that container records hold. ``ctr oci spec`` uses 4.

    Raises:
        InvalidArgument: A known field has a value of the wrong kind, a name or text is not valid Unicode, or a value
            can't be written as JSON. The text names the field.
    """
    ordered = _struct(kind, value, kind.__name__)
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        text = json.dumps(ordered, ensure_ascii=False, allow_nan=False, separators=separators, indent=indent)
        return text.translate(_GO_ESCAPES).encode()
    except (TypeError, ValueError) as exc:  # only what sits in unknown fields gets this far unchecked
        raise InvalidArgument(f"the {kind.__name__} can't be written as JSON: {exc}") from exc


@cache
def _fields(kind: Any) -> dict[str, _Field]:
    return {name: _field(name, hint) for name, hint in get_type_hints(kind, include_extras=True).items()}


def _field(name: str, hint: Any) -> _Field:
    required = get_origin(hint) is Required
    if required:
        (hint,) = get_args(hint)
    marks: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        marks = tuple(rest)
    shape, always, pointer = _shape(hint), required or ALWAYS in marks, POINTER in marks
    # Go has structs behind pointers, and an interface is dropped only when it is nil.
    kept = always or pointer or shape.form in {_Form.STRUCT, _Form.FREE}
    return _Field(name, shape, always=always, kept=kept, pointer=pointer)


@cache
def _shape(hint: Any) -> _Shape:
    if is_typeddict(hint):
        return _Shape(_Form.STRUCT, hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is list:
        return _Shape(_Form.LIST, _shape(args[0]))
    if origin is dict:
        return _Shape(_Form.MAP, _shape(args[1]))
    if hint is Any:
        return _Shape(_Form.FREE, None)
    # Any text will do for a Literal: a newer runtime may know more values than we do.
    return _Shape(_Form.SCALAR, str if origin is Literal else hint)


def _struct(kind: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, "an object", value)
    fields = _fields(kind)
    out: dict[str, Any] = {}
    for name, field in fields.items():
        given = value.get(name)
        if given is None:
            if field.always:
                out[name] = None if field.pointer else _zero(field.shape)
            continue
        encoded = _encode(field.shape, given, f"{path}.{name}")
        if field.kept or encoded:
            out[name] = encoded
    for name, given in value.items():
        if name not in fields:
            # In the order it has: what a newer Go client wrote is written again as it was.
            out[_text(name, path)] = _free(given, f"{path}.{name}", order=list)
    return out


def _encode(shape: _Shape, value: Any, path: str) -> Any:
    match shape.form:
        case _Form.SCALAR:
            # bool is an int to Python, not to JSON
            if not isinstance(value, shape.of) or isinstance(value, bool) is not (shape.of is bool):
                raise _wrong(path, _NAMES[shape.of], value)
            return _text(value, path) if shape.of is str else value
        case _Form.STRUCT:
            return _struct(shape.of, value, path)
        case _Form.LIST:
            if isinstance(value, str | bytes) or not isinstance(value, Sequence):
                raise _wrong(path, "a list", value)
            return [_encode(shape.of, each, f"{path}[{at}]") for at, each in enumerate(value)]
        case _Form.MAP:
            if not isinstance(value, Mapping):
                raise _wrong(path, "an object", value)
            for name in value:
                _text(name, path)
            return {name: _encode(shape.of, value[name], f"{path}[{name!r}]") for name in sorted(value)}
        case _Form.FREE:
            return _free(value, path)


def _zero(shape: _Shape) -> Any:
    """Return what Go writes for a field that has no ``omitempty`` and is not set."""
    if shape.form is _Form.STRUCT:
        return _struct(shape.of, {}, shape.of.__name__)
    return _ZERO.get(shape.of)


def _free(value: Any, path: str, *, order: Callable[[Iterable[str]], list[str]] = sorted) -> Any:
    """Check a value whose type is not known; objects are ordered by key, as Go does with an ``interface{}``."""
    if isinstance(value, Mapping):
        for name in value:
            _text(name, path)
        return {name: _free(value[name], f"{path}.{name}", order=order) for name in order(value)}
    if isinstance(value, list | tuple):
        return [_free(each, f"{path}[{at}]", order=order) for at, each in enumerate(value)]
    return _text(value, path) if isinstance(value, str) else value


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise _wrong(f"a name in {path}", "a string", value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(
                f"{path} is not valid Unicode: {value!r} holds bytes that are not UTF-8; decode them first"
            ) from None
    return value


def _wrong(path: str, wanted: str, value: object) -> InvalidArgument:
    return InvalidArgument(f"{path} must be {wanted}, not {value!r} ({type(value).__name__})")
