"""OCI descriptors and platforms: how content names other content."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from containerd_aio.api.containerd.types import Descriptor as RawDescriptor
    from containerd_aio.api.containerd.types import Platform as RawPlatform

# The algorithms registered by the OCI image specification, and how many hex digits each has.
_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
_LARGEST = 2**63 - 1  # an int64 to containerd
_DIGEST = re.compile(r"([a-z0-9]+(?:[.+_-][a-z0-9]+)*):([a-f0-9]+)")


def check_digest(text: str) -> str:
    """Return `text` if it is a digest such as ``sha256:<64 hex digits>``.

    Raises:
        InvalidArgument: It is not, or its algorithm is not sha256, sha384 or sha512.
    """
    found = _DIGEST.fullmatch(text)
    if found is None:
        raise InvalidArgument(
            f"{text!r} is not a digest; expected <algorithm>:<hex>, such as sha256:<64 hex digits>"
        )
    algorithm, digits = found.groups()
    expected = _HEX_DIGITS.get(algorithm)
    if expected is None:
        raise InvalidArgument(
            f"digest {text!r}: algorithm {algorithm!r} is not one of {', '.join(_HEX_DIGITS)}"
        )
    if len(digits) != expected:
        raise InvalidArgument(f"digest {text!r}: {algorithm} has {expected} hex digits, not {len(digits)}")
    return text


@dataclass(frozen=True, slots=True)
class Platform:
    """An operating system and a processor, as OCI images name them.

    Attributes:
        os: Operating system in Go's words, such as ``linux``.
        architecture: Processor in Go's words, such as ``amd64``.
        variant: Variant of the processor, such as ``v7``; empty if there is none.
        os_version: Version of the operating system; used by Windows images.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read the ``platform`` of an OCI descriptor, or the same fields of an image config."""
        return cls(
            os=str(value.get("os", "")),
            architecture=str(value.get("architecture", "")),
            variant=str(value.get("variant") or ""),
            os_version=str(value.get("os.version") or ""),
        )

    def to_json(self) -> dict[str, str]:
        """Return the OCI JSON form."""
        value = {"architecture": self.architecture, "os": self.os}
        if self.variant:
            value["variant"] = self.variant
        if self.os_version:
            value["os.version"] = self.os_version
        return value

    @classmethod
    def from_raw(cls, raw: RawPlatform) -> Self:
        """Take over containerd's message."""
        return cls(raw.os, raw.architecture, raw.variant, raw.os_version)

    def to_raw(self) -> RawPlatform:
        """Return containerd's message."""
        from containerd_aio.api.containerd.types import Platform as RawPlatform

        return RawPlatform(
            os=self.os, architecture=self.architecture, variant=self.variant, os_version=self.os_version
        )

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A piece of content: what it is, its digest and its size (OCI image specification, "descriptor").

    Attributes:
        media_type: Media type of the content.
        digest: Digest, such as ``sha256:...``.
        size: Size in bytes.
        annotations: Annotations of this reference.
        platform: In an index: what the manifest is for.
        urls: Places from which the content may be fetched.
        data: The content itself, when it is embedded.
        artifact_type: Type of an artifact, when the manifest is not an image.
    """

    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    urls: tuple[str, ...] = ()
    data: bytes | None = None
    artifact_type: str = ""

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Read the OCI JSON form.

        Raises:
            InvalidArgument: It is not a descriptor.
        """
        try:
            size = value["size"]
            if type(size) is not int or not 0 <= size <= _LARGEST:
                raise InvalidArgument(f"a descriptor has the size {size!r}")  # noqa: TRY301 - one except for all
            data = value.get("data")
            platform = value.get("platform")
            return cls(
                media_type=str(value.get("mediaType") or ""),
                digest=check_digest(value["digest"]),
                size=size,
                annotations={str(k): str(v) for k, v in (value.get("annotations") or {}).items()},
                platform=None if platform is None else Platform.from_json(platform),
                urls=tuple(str(url) for url in value.get("urls") or ()),
                data=None if data is None else base64.b64decode(data, validate=True),
                artifact_type=str(value.get("artifactType") or ""),
            )
        except InvalidArgument:
            raise
        except (KeyError, TypeError, AttributeError, binascii.Error) as exc:
            raise InvalidArgument(f"not an OCI descriptor ({exc!r}): {str(value)[:200]}") from exc

    def to_json(self) -> dict[str, Any]:
        """Return the OCI JSON form."""
        value: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.urls:
            value["urls"] = list(self.urls)
        if self.annotations:
            value["annotations"] = dict(self.annotations)
        if self.data is not None:
            value["data"] = base64.b64encode(self.data).decode()
        if self.platform is not None:
            value["platform"] = self.platform.to_json()
        if self.artifact_type:
            value["artifactType"] = self.artifact_type
        return value

    @classmethod
    def from_raw(cls, raw: RawDescriptor | None) -> Self:
        """Take over containerd's message; an unset one becomes an empty descriptor."""
        if raw is None:
            return cls("", "", 0)
        return cls(raw.media_type, raw.digest, raw.size, dict(raw.annotations))

    def to_raw(self) -> RawDescriptor:
        """Return containerd's message, which has no platform, URLs or data."""
        from containerd_aio.api.containerd.types import Descriptor as RawDescriptor

        return RawDescriptor(
            media_type=self.media_type,
            digest=self.digest,
            size=self.size,
            annotations=dict(self.annotations),
        )
