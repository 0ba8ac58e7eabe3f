"""The garbage collector: what nothing refers to goes, a moment after the next deletion, as in containerd."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from containerd_aio.api.containerd.events import SnapshotRemove

if TYPE_CHECKING:
    from containerd_aio.testing.fake.store import NamespaceRecords
    from containerd_aio.testing.fake.world import World

# Seconds after a deletion.
_DELAY = 0.25
_GC = "containerd.io/gc."
_SNAPSHOTS = "snapshots/"

Node = tuple[str, str]
"""What may be collected, as leases name it: type (``content``, ``snapshots/overlayfs``...) and id."""


class Collector:
    """Collects in all namespaces."""

    def __init__(self) -> None:
        self._timer: asyncio.TimerHandle | None = None

    def deleted(self, world: World) -> None:
        """Take it that something was deleted: a collection follows."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_DELAY, self.collect, world)

    def collect(self, world: World) -> None:
        """Collect now."""
        self.stop()
        for namespace, records in world.store.namespaces.items():
            _drop_expired_leases(world, records)
            marked = _mark(records)
            records.blobs = {
                digest: blob for digest, blob in records.blobs.items() if ("content", digest) in marked
            }
            for snapshotter in records.snapshots:
                _sweep_snapshots(world, namespace, snapshotter, marked)
        world.store.drop_unreferenced_data()

    def stop(self) -> None:
        """Forget the collection that is to come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _drop_expired_leases(world: World, records: NamespaceRecords) -> None:
    now = datetime.fromtimestamp(world.clock.now_ns() / 1e9, UTC)
    for lease_id, record in list(records.leases.items()):
        try:
            expires = datetime.fromisoformat(record.lease.labels.get(_GC + "expire", ""))
        except ValueError:  # none, or none that can be read
            continue
        if expires < now:
            del records.leases[lease_id]


def _mark(records: NamespaceRecords) -> set[Node]:
    marked: set[Node] = set()
    pending = [*_roots(records)]
    while pending:
        node = pending.pop()
        if node not in marked:
            marked.add(node)
            pending.extend(_references(records, node))
    return marked


def _roots(records: NamespaceRecords) -> Iterator[Node]:
    for lease in records.leases.values():
        yield from lease.resources
    for image in records.images:
        yield "images", image
    for container in records.containers.values():
        if container.snapshot_key:
            yield _SNAPSHOTS + container.snapshotter, container.snapshot_key
        yield from _labelled(container.labels)
    for digest, blob in records.blobs.items():
        if _GC + "root" in blob.labels:
            yield "content", digest
    for snapshotter, snapshots in records.snapshots.items():
        for key, snapshot in snapshots.items():
            if _GC + "root" in snapshot.labels:
                yield _SNAPSHOTS + snapshotter, key


def _references(records: NamespaceRecords, node: Node) -> Iterable[Node]:
    kind, name = node
    if kind == "images" and name in records.images:
        target = records.images[name].target
        return [("content", target.digest)] if target else []
    if kind == "content" and name in records.blobs:
        return _labelled(records.blobs[name].labels)
    if kind.startswith(_SNAPSHOTS):
        snapshot = records.snapshots.get(kind.removeprefix(_SNAPSHOTS), {}).get(name)
        if snapshot is not None:
            parent = [(kind, snapshot.parent)] if snapshot.parent else []
            return [*parent, *_labelled(snapshot.labels)]
    return []


def _labelled(labels: Mapping[str, str]) -> Iterator[Node]:
    for key, value in labels.items():
        if key.startswith(_GC + "ref.content"):
            yield "content", value
        elif key.startswith(_GC + "ref.snapshot."):
            snapshotter = key.removeprefix(_GC + "ref.snapshot.").partition(".")[0].partition("/")[0]
            yield _SNAPSHOTS + snapshotter, value


def _sweep_snapshots(world: World, namespace: str, snapshotter: str, marked: set[Node]) -> None:
    snapshots = world.store.namespaces[namespace].snapshots[snapshotter]
    doomed = [key for key in snapshots if (_SNAPSHOTS + snapshotter, key) not in marked]
    while doomed:
        parents = {snapshot.parent for snapshot in snapshots.values()}
        for key in [key for key in doomed if key not in parents]:
            doomed.remove(key)
            shutil.rmtree(snapshots.pop(key).path.parent, ignore_errors=True)
            if world.release.snapshotter_in_events:  # a 1.6 says nothing
                event = SnapshotRemove(key=key, snapshotter=snapshotter)
                world.exchange.publish(namespace, "/snapshot/remove", event)
