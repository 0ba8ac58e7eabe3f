"""Messages of the daemon to the types of this package: the same names, field by field."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

T = TypeVar("T")


def read(cls: type[T], raw: Any) -> T:
    """Return the dataclass `cls` with what the message `raw` has under the same names."""
    shape: Any = cls
    return cls(**{name: _value(item, getattr(raw, name)) for name, item in _fields(shape)})


@cache
def _fields(cls: type[Any]) -> list[tuple[str, type[Any] | None]]:
    """Return each field and, where it holds messages, which type they become."""
    hints = get_type_hints(cls)
    return [(field.name, _item(hints[field.name])) for field in fields(cls)]


def _item(hint: Any) -> type[Any] | None:
    parts = get_args(hint) if isinstance(hint, UnionType) or get_args(hint) else (hint,)
    return next((part for part in parts if is_dataclass(part) and isinstance(part, type)), None)


def _value(item: type[Any] | None, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value if item is None else (read(item, each) for each in value))
    return value if item is None or value is None else read(item, value)
