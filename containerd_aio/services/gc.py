"""The labels by which containerd's garbage collector knows what refers to what.

It keeps what an image, a container, a lease or a `ROOT_LABEL` leads to; from content and snapshots it goes on along labels
whose keys begin as below. Of the rest of a key it takes no notice: it makes several of a kind possible.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from containerd_aio.errors import InvalidArgument
from containerd_aio.services.descriptor import check_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT_LABEL = "containerd.io/gc.root"
"""Content or a snapshot with this label is kept, and what it refers to; any value will do, a time is usual."""

CONTENT_LABEL = "containerd.io/gc.ref.content"
"""Begins the key of a label whose value is the digest of content to keep."""

SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot"
"""Begins, with the name of the snapshotter after a dot, the key of a label whose value is the name of a snapshot to keep."""

IMAGE_LABEL = "containerd.io/gc.ref.image"
"""Begins the key of a label whose value is the name of an image to keep (containerd 2.0 and later)."""


def reference_labels(
    *,
    content: Iterable[str] = (),
    snapshots: Mapping[str, Iterable[str]] | None = None,
    images: Iterable[str] = (),
    root: bool = False,
) -> dict[str, str]:
    """Return the labels that keep things for as long as what bears the labels is kept.

    Args:
        content: Digests.
        snapshots: Names of snapshots, by snapshotter.
        images: Names of images; releases before 2.0 take no notice.
        root: Keep the bearer of the labels itself whatever happens, until the label is removed.

    Raises:
        InvalidArgument: One of `content` is not a digest, or a name is empty.
    """
    labels = {f"{CONTENT_LABEL}.{n}": check_digest(digest) for n, digest in enumerate(content)}
    for snapshotter, names in (snapshots or {}).items():
        if not snapshotter:
            raise InvalidArgument("the name of a snapshotter is empty")
        labels |= {f"{SNAPSHOT_LABEL}.{snapshotter}/{n}": name for n, name in enumerate(names)}
    labels |= {f"{IMAGE_LABEL}.{n}": name for n, name in enumerate(images)}
    if empty := [key for key, value in labels.items() if not value]:
        raise InvalidArgument(f"the label {empty[0]} would refer to nothing: a name is empty")
    if root:
        labels[ROOT_LABEL] = datetime.now(UTC).isoformat(timespec="seconds")
    return labels
