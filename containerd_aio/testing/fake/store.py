"""What the fake keeps: the records of each namespace, and the content that namespaces share."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containerd_aio.api.containerd.services.containers.v1 import Container
    from containerd_aio.api.containerd.services.images.v1 import Image
    from containerd_aio.testing.fake.content import Blob, Ingest
    from containerd_aio.testing.fake.leases import LeaseRecord
    from containerd_aio.testing.fake.snapshots import Snapshot


@dataclass(slots=True)
class NamespaceRecords:
    """The records of one namespace, by their names.

    Attributes:
        labels: Labels of the namespace.
        containers: Container records.
        images: Image records.
        leases: Leases.
        blobs: Content, by digest.
        ingests: Content that is coming in, by ref.
        snapshots: By snapshotter, then by key or name.
    """

    labels: dict[str, str] = field(default_factory=dict)
    containers: dict[str, Container] = field(default_factory=dict)
    images: dict[str, Image] = field(default_factory=dict)
    leases: dict[str, LeaseRecord] = field(default_factory=dict)
    blobs: dict[str, Blob] = field(default_factory=dict)
    ingests: dict[str, Ingest] = field(default_factory=dict)
    snapshots: defaultdict[str, dict[str, Snapshot]] = field(default_factory=lambda: defaultdict(dict))

    def contents(self) -> list[str]:
        """Name the kinds of records there are, for the refusal to delete the namespace."""
        kinds = [("images", self.images), ("blobs", self.blobs), ("containers", self.containers)]
        found = [name for name, records in kinds if records]
        return found + [f'snapshots on "{name}" snapshotter' for name, keys in self.snapshots.items() if keys]


class Store:
    """Every namespace.

    Attributes:
        namespaces: Those that exist: created, or written to.
        data: The bytes of all content, by digest.
    """

    def __init__(self) -> None:
        self.namespaces: dict[str, NamespaceRecords] = {}
        self.data: dict[str, bytes] = {}

    def look(self, namespace: str) -> NamespaceRecords:
        """Return the records of a namespace for reading; that of an unknown one is empty."""
        return self.namespaces.get(namespace) or NamespaceRecords()

    def change(self, namespace: str) -> NamespaceRecords:
        """Return the records of a namespace for writing, which brings it into being."""
        return self.namespaces.setdefault(namespace, NamespaceRecords())

    def drop_unreferenced_data(self) -> None:
        """Forget bytes that no namespace has any more."""
        kept = {digest for records in self.namespaces.values() for digest in records.blobs}
        for digest in self.data.keys() - kept:
            del self.data[digest]
