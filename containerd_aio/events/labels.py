"""Labels of containers, for subscriptions that select by them, at the cost of no call per event.

A subscription has the containers of its namespace listed once, and again after a break. From then on events keep the
labels up to date: ``/containers/update`` carries them, ``/containers/create`` does not, so that a new container is asked
for once, when the first event about it comes. Until the answer is there, that event and those behind it are held.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import anyio

from containerd_aio._transport.connections import NamespacedChannel
from containerd_aio.api.containerd.services.containers.v1 import (
    ContainersStub,
    GetContainerRequest,
    ListContainersRequest,
)
from containerd_aio.api.containerd.services.namespaces.v1 import ListNamespacesRequest, NamespacesStub
from containerd_aio.errors import ContainerdError
from containerd_aio.events.model import ContainerCreate, ContainerDelete, ContainerUpdate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping

    from containerd_aio._transport.connections import Connections
    from containerd_aio.events.model import Event

    Key = tuple[str, str]
    Spawn = Callable[[Callable[[Any], Coroutine[Any, Any, None]], Any], None]

# Containers that were deleted but whose labels are kept for events that come late.
KEEP_DELETED = 1000
# Calls at the same time.
AT_ONCE = 16
# Seconds for one; events are held meanwhile.
ASK_LIMIT = 5.0


class Labels:
    """The labels of a container at one time.

    Attributes:
        settled: Whether the daemon has answered.
        labels: The labels; None while not settled, and when they could not be learnt.
    """

    __slots__ = ("labels", "settled")

    def __init__(self) -> None:
        self.settled = False
        self.labels: Mapping[str, str] | None = None


class LabelCache:
    """What is known of the labels of containers.

    Args:
        connections: The connections of the client.
        spawn: Runs an async function with one argument in the background.
    """

    def __init__(self, connections: Connections, spawn: Spawn) -> None:
        self._connections = connections
        self._spawn = spawn
        self._known: dict[Key, Labels] = {}
        self._former: dict[Key, Labels] = {}  # from before the last break
        self._deleted: deque[tuple[Key, Labels]] = deque()
        self._listing: set[str] = set()
        self._users: dict[Callable[[], None], str | None] = {}
        self._limit = anyio.Semaphore(AT_ONCE)
        self._generation = 0

    def __len__(self) -> int:
        """Return of how many containers something is known."""
        return len(self._known)

    # --- who uses it --------------------------------------------------------------------------------------------------

    def use(self, namespace: str | None, on_answer: Callable[[], None]) -> None:
        """Keep the labels of `namespace`, or of all for None, and call `on_answer` whenever something was learnt."""
        listed = None in self._users.values() or namespace in self._users.values()
        self._users[on_answer] = namespace
        if not listed:
            self._list(namespace)

    def leave(self, on_answer: Callable[[], None]) -> None:
        """Take back `use`; without users nothing is kept."""
        self._users.pop(on_answer, None)
        if not self._users:
            self._forget()

    def _forget(self) -> None:
        self._known, self._former = {}, {}
        self._deleted.clear()
        self._listing.clear()
        self._generation += 1

    # --- what is known ------------------------------------------------------------------------------------------------

    def of(self, namespace: str, container_id: str) -> Labels:
        """Return the labels of a container, or what will become them; it never waits."""
        key = namespace, container_id
        labels = self._known.get(key)
        if labels is None:
            labels = self._known[key] = Labels()
            if namespace not in self._listing:
                self._spawn(self._look_up, (key, labels))
        return labels

    def note(self, event: Event) -> None:
        """Take an event about a container, before subscribers get it."""
        if not self._users:
            return
        match event:
            case ContainerCreate(id=container_id):
                key = event.namespace, container_id
                self._former.pop(key, None)
                if key in self._known and self._known[key].settled:
                    del self._known[key]  # they were another's
            case ContainerUpdate(id=container_id):
                key = event.namespace, container_id
                if key in self._known:
                    self._settle(self._known[key], event.labels)
                self._known[key] = Labels()
                self._settle(self._known[key], event.labels)
            case ContainerDelete(id=container_id):
                key = event.namespace, container_id
                if key in self._known:
                    self._forget_later(key, self._known[key])
            case _:
                pass

    def _forget_later(self, key: Key, labels: Labels) -> None:
        """Forget a container that is gone, but not at once."""
        self._deleted.append((key, labels))
        if len(self._deleted) > KEEP_DELETED:
            key, labels = self._deleted.popleft()
            if self._known.get(key) is labels:  # else there is a new container of that name
                del self._known[key]

    def reload(self) -> None:
        """Take it that events were missed: what was known may have changed."""
        if not self._users:
            return
        former = self._known
        self._forget()
        self._former = {key: labels for key, labels in former.items() if labels.settled}
        self._known = {key: labels for key, labels in former.items() if not labels.settled}
        wanted = set(self._users.values())
        for namespace in {None} if None in wanted else wanted:
            self._list(namespace)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _list(self, namespace: str | None) -> None:
        if namespace is None:
            self._spawn(self._list_all, self._generation)
        else:
            self._listing.add(namespace)
            self._spawn(self._list_one, (namespace, self._generation))

    async def _list_all(self, generation: int) -> None:
        try:
            reply = await NamespacesStub(self._channel("default")).list(ListNamespacesRequest())
        except ContainerdError:
            return  # each will be looked up
        if generation == self._generation:
            for namespace in reply.namespaces:
                self._list(namespace.name)

    async def _list_one(self, job: tuple[str, int]) -> None:
        namespace, generation = job
        try:
            stub = ContainersStub(self._channel(namespace))
            stream = cast("AsyncGenerator[Any]", stub.list_stream(ListContainersRequest()))
            async with aclosing(stream) as replies:
                async for reply in replies:
                    if generation != self._generation:
                        return
                    if reply.container is not None:
                        labels = self._known.setdefault((namespace, reply.container.id), Labels())
                        self._settle(labels, reply.container.labels)
        except ContainerdError:
            pass  # the rest will be looked up
        if generation == self._generation:
            self._listing.discard(namespace)
            for key, labels in self._known.items():
                if key[0] == namespace and not labels.settled:
                    self._spawn(self._look_up, (key, labels))

    async def _look_up(self, job: tuple[Key, Labels]) -> None:
        key, labels = job
        if labels.settled:
            return
        namespace, container_id = key
        found: Mapping[str, str] | None
        async with self._limit:
            try:
                stub = ContainersStub(self._channel(namespace))
                reply = await stub.get(GetContainerRequest(id=container_id), timeout=ASK_LIMIT)
                found = reply.container.labels if reply.container is not None else None
            except ContainerdError:
                former = self._former.get(key)
                found = former.labels if former is not None else None
                self._forget_later(key, labels)
        self._settle(labels, found)

    def _settle(self, labels: Labels, found: Mapping[str, str] | None) -> None:
        if not labels.settled:
            labels.settled, labels.labels = True, found
            for on_answer in list(self._users):
                on_answer()

    def _channel(self, namespace: str) -> Any:
        return NamespacedChannel(self._connections, self._connections.rpc, namespace)
