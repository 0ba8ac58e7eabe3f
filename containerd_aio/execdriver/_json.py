"""Dataclasses as the JSON of Docker's structs, both ways.

A field is written under the name its metadata has, or its own; one with an empty name is not written. Lists that are
empty are null, as those of Go are that nobody has set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from containerd_aio.errors import InvalidArgument

T = TypeVar("T")

#: Types of fields that are not written; they are imported for type checkers alone.
_NOT_WRITTEN = {"Terminal": object, "IOCreator": object}


def named(name: str) -> dict[str, str]:
    """Return metadata of a dataclass field that has another name in JSON; an empty one keeps it out."""
    return {"json": name}


def _name(of: Field[Any]) -> str:
    name: str = of.metadata.get("json", of.name)
    return name


def to_json(value: Any) -> dict[str, Any]:
    """Return the JSON object of a dataclass."""
    return {_name(each): _encode(getattr(value, each.name)) for each in fields(value) if _name(each)}


def _encode(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_encode(each) for each in value] or None
    if is_dataclass(value):
        own = getattr(value, "to_json", None)
        return own() if own is not None else to_json(value)
    return value


def from_json(cls: type[T], value: Any, path: str = "") -> T:
    """Make a dataclass of its JSON object; what is absent or null has its default, what is not known is left out.

    Raises:
        InvalidArgument: A value is of the wrong kind; the text names the field.
    """
    path = path or cls.__name__
    if not isinstance(value, Mapping):
        raise InvalidArgument(f"{path} must be an object, not {value!r}")
    hints = get_type_hints(cls, localns=_NOT_WRITTEN)
    given: dict[str, Any] = {}
    for each in fields(cls):  # type: ignore[arg-type]
        name = _name(each)
        if name and value.get(name) is not None:
            given[each.name] = _decode(hints[each.name], value[name], f"{path}.{name}")
    return cls(**given)


def _decode(hint: Any, value: Any, path: str) -> Any:
    args = get_args(hint)
    if type(None) in args:  # X | None
        hint = next(each for each in args if each is not type(None))
        args = get_args(hint)
    if args:  # list[X]
        if not isinstance(value, list):
            raise InvalidArgument(f"{path} must be a list, not {value!r}")
        return [_decode(args[0], each, f"{path}[{at}]") for at, each in enumerate(value)]
    if isinstance(hint, type) and is_dataclass(hint):
        own = getattr(hint, "from_json", None)
        return own(value) if own is not None else from_json(hint, value, path)
    if not isinstance(value, hint) or isinstance(value, bool) is not (hint is bool):
        raise InvalidArgument(f"{path} must be of type {hint.__name__}, not {value!r}")
    return value
