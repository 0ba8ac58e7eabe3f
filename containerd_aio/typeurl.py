"""``google.protobuf.Any`` to Python and back, by containerd's rules.

containerd names a message by its bare full name (``containerd.runc.v1.Options``; no ``type.googleapis.com/`` in front),
and keeps the OCI types as JSON under ``types.containerd.io/opencontainers/runtime-spec/1/<Type>`` (Go: package typeurl).
"""

from __future__ import annotations

import json
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from containerd_aio._transport.codec import decode, encode
from containerd_aio.api.message_types import MESSAGE_TYPES
from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from betterproto2 import Message

    from containerd_aio.api.google.protobuf import Any as AnyMessage

_OCI = "types.containerd.io/opencontainers/runtime-spec/1/"

SPEC = _OCI + "Spec"
PROCESS = _OCI + "Process"
LINUX_RESOURCES = _OCI + "LinuxResources"
WINDOWS_RESOURCES = _OCI + "WindowsResources"


@cache
def _names_by_class() -> dict[tuple[str, str], str]:
    return {home: name for name, home in MESSAGE_TYPES.items()}


@cache
def _class_of(name: str) -> type[Message] | None:
    home = MESSAGE_TYPES.get(name)
    if home is None:
        return None
    cls: type[Message] = getattr(import_module("containerd_aio.api." + home[0]), home[1])
    return cls


def full_name(cls: type[Message]) -> str:
    """Return the protobuf name of a generated class, such as ``containerd.runc.v1.Options``.

    Raises:
        InvalidArgument: `cls` is not one of ``containerd_aio.api``.
    """
    home = (cls.__module__.removeprefix("containerd_aio.api."), cls.__name__)
    try:
        return _names_by_class()[home]
    except KeyError:
        raise InvalidArgument(
            f"{cls.__module__}.{cls.__qualname__} is not a message of containerd_aio.api"
        ) from None


def pack(value: Message | dict[str, Any] | list[Any] | bytes, type_url: str | None = None) -> AnyMessage:
    """Put `value` into an ``Any``.

    Args:
        value: A message of ``containerd_aio.api``; or a JSON-able dict or list, or bytes that are encoded already.
        type_url: Type URL; needed for all but messages, whose own name is the default.

    Raises:
        InvalidArgument: `type_url` is missing, or `value` is none of these.
    """
    from betterproto2 import Message

    from containerd_aio.api.google.protobuf import Any as AnyMessage

    if isinstance(value, Message):
        return AnyMessage(type_url=type_url or full_name(type(value)), value=encode(value))
    if type_url is None:
        raise InvalidArgument("a type_url is needed to pack JSON or bytes; for an OCI spec use typeurl.SPEC")
    if isinstance(value, bytes):
        return AnyMessage(type_url=type_url, value=value)
    if isinstance(value, dict | list):
        data = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
        return AnyMessage(type_url=type_url, value=data)
    raise InvalidArgument(f"cannot pack a {type(value).__name__}; give a message, a dict, a list or bytes")


def unpack(value: AnyMessage) -> Any:
    """Take out what is in an ``Any``.

    Returns:
        A message of ``containerd_aio.api`` for a protobuf type (a prefix up to the last slash is ignored), the parsed
        JSON for an OCI type, and `value` itself when the type is not known.

    Raises:
        InvalidArgument: The bytes are not what the type URL says.
    """
    try:
        if value.type_url.startswith("types.containerd.io/"):
            return json.loads(value.value)
        cls = _class_of(value.type_url.rpartition("/")[2])
        return value if cls is None else decode(cls, value.value)
    except ValueError as exc:
        raise InvalidArgument(f"the bytes are not a {value.type_url}: {exc}") from exc
