"""Names of images: ``registry/repository:tag@digest`` (Go: github.com/distribution/reference)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import check_digest

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

_MAX_NAME = 255
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[A-Fa-f0-9:.]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed name of an image.

    Attributes:
        registry: Host, with port if there is one, such as ``docker.io``.
        repository: Path within the registry, such as ``library/busybox``.
        tag: Tag; empty if there is none.
        digest: Digest; empty if there is none.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The short form that Docker shows: ``busybox:latest``."""
        name = self.name
        if self.registry == DEFAULT_REGISTRY:
            name = self.repository
            rest = name.removeprefix("library/")
            # "library/a/b" is a repository of its own: only the official images lose their prefix.
            name = name if "/" in rest else rest
        return name + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix


def parse_familiar(text: str) -> Reference:
    """Read a name as Docker's users write it, filling in what is left out.

    ``busybox`` is ``docker.io/library/busybox:latest``. A name with a digest gets no tag.

    Raises:
        InvalidArgument: It is not a name of an image; the text says what is wrong with it.
    """
    name, tag, digest = _split(text)
    registry, slash, repository = name.partition("/")
    if not slash or not (
        set(".:") & set(registry) or registry == "localhost" or registry.lower() != registry
    ):
        registry, repository = DEFAULT_REGISTRY, name
    registry = DEFAULT_REGISTRY if registry == "index.docker.io" else registry
    if registry == DEFAULT_REGISTRY and "/" not in repository:
        repository = f"library/{repository}"
    return _checked(text, Reference(registry, repository, tag or ("" if digest else DEFAULT_TAG), digest))


def parse_reference(text: str) -> Reference:
    """Read a full name, as containerd takes it: with a registry, and nothing is filled in (Go: reference.Parse).

    What Go's parser lets through and no registry accepts (upper case, a query, a short digest) is refused.

    Raises:
        InvalidArgument: It is not such a name; the text says what is wrong with it.
    """
    name, tag, digest = _split(text)
    registry, slash, repository = name.partition("/")
    if not slash or not registry:
        raise InvalidArgument(
            f"image name {text!r}: {name!r} names no registry; the full form is registry/repository:tag"
        )
    return _checked(text, Reference(registry, repository, tag, digest))


def _split(text: str) -> tuple[str, str, str]:
    """Return name, tag and digest; the last two are empty where there is none."""
    if "://" in text:
        raise InvalidArgument(
            f"image name {text!r}: {text.partition('://')[0]!r} is a scheme, which names of images do not have"
        )
    rest, at, digest = text.partition("@")
    if at:
        check_digest(digest)
    name, colon, tag = rest.rpartition(":")
    if not colon or "/" in tag:  # that colon belongs to a port
        return rest, "", digest
    if not _TAG.fullmatch(tag):
        raise InvalidArgument(f"image name {text!r}: {tag!r} is not a tag")
    return name, tag, digest


def _checked(text: str, reference: Reference) -> Reference:
    repository = reference.repository
    if not _is_host(reference.registry):
        raise InvalidArgument(f"image name {text!r}: {reference.registry!r} is not a host")
    if not _REPOSITORY.fullmatch(repository):
        hint = "; it must be in lower case" if repository.lower() != repository else ""
        raise InvalidArgument(f"image name {text!r}: {repository!r} is not a repository{hint}")
    if len(repository) > _MAX_NAME:
        raise InvalidArgument(
            f"image name {text!r}: {repository[:40]!r}... has {len(repository)} characters; "
            f"a repository has at most {_MAX_NAME}"
        )
    return reference


def _is_host(text: str) -> bool:
    try:
        urlsplit(f"//{text}").port  # noqa: B018 - refuses ports that there are not, and what is no IPv6 address
    except ValueError:
        return False
    return _REGISTRY.fullmatch(text) is not None


def normalize_name(text: str) -> str:
    """Return the full form of a name as Docker's users write it.

    Raises:
        InvalidArgument: It is not a name of an image.
    """
    return str(parse_familiar(text))
