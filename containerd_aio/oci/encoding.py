"""OCI types as JSON, byte for byte as Go's ``encoding/json`` writes the OCI Go types.

containerd stores a spec as the JSON its client sent, so equal specs should be equal bytes whoever sent them. Go writes
fields in the order of the struct, drops ``omitempty`` fields that are zero, sorts the keys of maps, and escapes
``<``, ``>``, ``&``, U+2028 and U+2029 inside strings. Order and kinds come from `containerd_aio.oci.types`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Required, get_args, get_origin, get_type_hints, is_typeddict

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci.types import Spec
from containerd_aio.oci.types.marks import ALWAYS, POINTER

#: None of these can stand outside a string in JSON, so the finished text may be translated as a whole.
_GO_ESCAPES = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"})
_ZERO = {str: "", int: 0, bool: False}
_NAMES = {str: "a string", int: "an integer", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    type: Any
    always: bool
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
def _fields(kind: Any) -> tuple[_Field, ...]:
    return tuple(_field(name, hint) for name, hint in get_type_hints(kind, include_extras=True).items())


def _field(name: str, hint: Any) -> _Field:
    required = get_origin(hint) is Required
    if required:
        (hint,) = get_args(hint)
    marks: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        marks = tuple(rest)
    return _Field(name, hint, always=required or ALWAYS in marks, pointer=POINTER in marks)


def _struct(kind: Any, value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(path, "an object", value)
    fields = _fields(kind)
    out: dict[str, Any] = {}
    for field in fields:
        given = value.get(field.name)
        if given is None:
            if field.always:
                out[field.name] = None if field.pointer else _zero(field.type)
            continue
        encoded = _encode(field.type, given, f"{path}.{field.name}")
        if field.always or field.pointer or is_typeddict(field.type) or field.type is Any or encoded:
            out[field.name] = encoded
    known = {field.name for field in fields}
    for name, given in value.items():
        if name not in known:
            # In the order it has: what a newer Go client wrote is written again as it was.
            out[_text(name, path)] = _free(given, f"{path}.{name}", order=list)
    return out


def _encode(kind: Any, value: Any, path: str) -> Any:
    if is_typeddict(kind):
        return _struct(kind, value, path)
    if get_origin(kind) is list:
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            raise _wrong(path, "a list", value)
        (item,) = get_args(kind)
        return [_encode(item, each, f"{path}[{at}]") for at, each in enumerate(value)]
    if get_origin(kind) is dict:
        if not isinstance(value, Mapping):
            raise _wrong(path, "an object", value)
        _, item = get_args(kind)
        for name in value:
            _text(name, path)
        return {name: _encode(item, value[name], f"{path}[{name!r}]") for name in sorted(value)}
    if kind is Any:
        return _free(value, path)
    if get_origin(kind) is Literal:  # a newer runtime may know more values than we do
        kind = str
    # bool is an int to Python, not to JSON
    if not isinstance(value, kind) or isinstance(value, bool) is not (kind is bool):
        raise _wrong(path, _NAMES[kind], value)
    return _text(value, path) if kind is str else value


def _zero(kind: Any) -> Any:
    """Return what Go writes for a field that has no ``omitempty`` and is not set."""
    if is_typeddict(kind):
        return _struct(kind, {}, kind.__name__)
    return "" if get_origin(kind) is Literal else _ZERO.get(kind)


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
