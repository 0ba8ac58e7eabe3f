"""What the images of an archive are called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from containerd_aio.distribution.reference import Reference, parse_familiar
from containerd_aio.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

    from containerd_aio.services.descriptor import Descriptor

NAME_ANNOTATION = "io.containerd.image.name"
"""Annotation in an archive's index: full name of the image."""

REF_NAME_ANNOTATION = "org.opencontainers.image.ref.name"
"""Annotation in an archive's index: often only a tag."""

_LONGEST_NAME = 1024


def add_prefix(image: str) -> Callable[[str], str | None]:
    """Return a translator: a mere tag becomes ``image:tag``, a full name stays (Go: archive.AddRefPrefix)."""

    def translate(found: str) -> str | None:
        return found if set(found) & set("/:@") else f"{image}:{found}"

    return translate


def filter_prefix(image: str) -> Callable[[str], str | None]:
    """Return a translator as `add_prefix`, for which full names outside of `image` do not count (Go: FilterRefPrefix)."""
    within = add_prefix(image)

    def translate(found: str) -> str | None:
        name = within(found)
        if name is None or not name.startswith(image):
            return None
        return name if name == image or name[len(image)] in "/:@" else None  # not part of a word

    return translate


@dataclass(frozen=True, slots=True)
class Naming:
    """How images get their names.

    Attributes:
        given: What the caller called the image.
        tagged: The caller gave a tag, too.
        translate: What makes a name of an annotation for tags; None for the default.
        digests: Each manifest also gets the name ``digests@digest``; empty for none.
        skip_digest_of_named: ... unless it has a name already.
        required: Refuse an archive of which no image gets a name.
    """

    given: Reference | None = None
    tagged: bool = False
    translate: Callable[[str], str | None] | None = None
    digests: str = ""
    skip_digest_of_named: bool = False
    required: bool = True

    def of(self, entry: Descriptor) -> list[str]:
        """Return the names of one image: the full name in the archive counts; else a name in the annotation for tags, if
        it is more than a tag; else what the caller gave, with the archive's tag if the caller gave none.
        """  # noqa: D205 - one sentence
        name: str | None = entry.annotations.get(NAME_ANNOTATION, "")
        ref_name = entry.annotations.get(REF_NAME_ANNOTATION, "")
        if name:
            _check_name(name)
        elif self.translate is not None:
            name = self.translate(_check_name(ref_name)) if ref_name else None
        elif "/" in ref_name:
            name = str(parse_familiar(ref_name))
        elif self.given is not None:
            tag = self.given.tag if self.tagged or not ref_name else ref_name
            # Written and read again: a tag from the archive may be anything.
            name = str(parse_familiar(str(Reference(self.given.registry, self.given.repository, tag))))
        names = [name] if name else []
        if self.digests and not (names and self.skip_digest_of_named):
            names.append(f"{self.digests}@{entry.digest}")
        return names


def _check_name(name: str) -> str:
    """Return a name found in an archive if it is fit for a record and for a terminal; containerd takes any text."""
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise InvalidArgument(f"the archive names an image {name[:80]!r}, which is no name")
    return name


def name_images(entries: list[Descriptor], naming: Naming) -> list[tuple[str, Descriptor]]:
    """Return the names of the images to be made, and what each names.

    Args:
        entries: What the archive's index lists.
        naming: How they get their names.

    Raises:
        InvalidArgument: No image has a name, a name is malformed, or several would get the same.
    """
    named: dict[str, Descriptor] = {}
    twice: set[str] = set()
    for entry in entries:
        target = replace(entry, annotations={}, platform=None, urls=(), data=None, artifact_type="")
        for name in naming.of(entry):
            if named.setdefault(name, target) != target:
                twice.add(name)
    if naming.required and not named:
        raise InvalidArgument(
            "the archive does not name its image; give name=, such as docker.io/library/app:1.0"
        )
    if twice:
        raise InvalidArgument(f"several images of the archive would get the name {', '.join(sorted(twice))}")
    return list(named.items())
