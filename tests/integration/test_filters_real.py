"""Filters: containerd's decisions and ours are the same (E3), on every release line."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import pytest

from containerd_aio import typeurl
from containerd_aio._transport.channel import Channel
from containerd_aio._transport.dial import Address
from containerd_aio.api.containerd import events as wire
from containerd_aio.api.containerd.events import ContainerCreateRuntime, TaskIo
from containerd_aio.api.containerd.services.events.v1 import EventsStub, PublishRequest, SubscribeRequest
from containerd_aio.api.containerd.services.images.v1 import ImageCreate, ImageDelete
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import Empty, Timestamp
from containerd_aio.daemon import Daemon
from containerd_aio.errors import InvalidArgument, Unknown
from containerd_aio.events.decode import EnvelopeView
from containerd_aio.events.filters import FilterSet

AT = Timestamp(seconds=1_795_000_000, nanos=7)
OPTIONS = AnyMessage(type_url="containerd.runc.v1.Options", value=b"")
LABELS = {"tier": "front", "containerd.io/gc.root": "yes", "a.b": "", "é": "ü", "": "no key"}

#: Topic, payload, whether it is published in a second namespace.
Published = list[tuple[str, AnyMessage, bool]]

PUBLISHED: Published = [
    (topic, payload if isinstance(payload, AnyMessage) else typeurl.pack(payload), second)
    for topic, payload, second in [
        ("/tasks/exit", wire.TaskExit(container_id="web-1", id="web-1", pid=42, exit_status=137, exited_at=AT), False),
        ("/tasks/exit", wire.TaskExit(container_id="db", id="exec.1", exited_at=AT), True),
        ("/tasks/create", wire.TaskCreate(container_id="web-1", bundle="/run/b", io=TaskIo(stdin="in", terminal=True)), False),
        ("/tasks/create", wire.TaskCreate(container_id="web-2", pid=9), False),
        ("/tasks/start", wire.TaskStart(container_id="web-1", pid=42), False),
        ("/tasks/delete", wire.TaskDelete(container_id="web-1", pid=42, exited_at=AT), True),
        ("/tasks/exec-added", wire.TaskExecAdded(container_id="web-1", exec_id="exec.1"), False),
        ("/tasks/oom", wire.TaskOom(container_id="db"), False),
        ("/containers/create", wire.ContainerCreate(id="c1", image="busybox:1", runtime=ContainerCreateRuntime(name="io.containerd.runc.v2", options=OPTIONS)), False),
        ("/containers/update", wire.ContainerUpdate(id="c1", image="busybox:1", labels=LABELS, snapshot_key="s"), False),
        ("/images/create", ImageCreate(name="docker.io/library/x:1", labels={"a": "1"}), False),
        ("/images/delete", ImageDelete(name="docker.io/library/x:1"), False),
        ("/namespaces/create", wire.NamespaceCreate(name="n"), False),
        ("/snapshot/prepare", wire.SnapshotPrepare(key="k", parent=""), False),
        ("/content/delete", wire.ContentDelete(digest="sha256:" + "0" * 64), False),
        ("/something/else", AnyMessage(type_url="com.example.Unheard", value=b"\n\x03abc"), False),
        ("/tasks/exit", AnyMessage(type_url="containerd.events.TaskExit", value=b"\n\x7fcut"), False),
        ("/tasks/exit", typeurl.pack(Empty()), False),
    ]
]  # fmt: skip

# Not among them: event.runtime.options.*, which kills containerd 1.6 as soon as a container without options is created.
VALID = [
    "", "topic", "namespace", "event", "timestamp", "event.container_id", "event.exec_id",
    'topic=="/tasks/exit"', 'topic!="/tasks/exit"', 'topic == "/tasks/exit"', ' topic=="/tasks/exit"',
    "topic~=/tasks/", "topic~=|^/tasks/|", 'topic~="^/(tasks|images)/"', r"topic~=/^\/tasks/", "topic~=exit$",
    "topic~=^./tasks", r"topic~=\bexit\b", "topic~=(?i)EXIT", "topic~=[[:upper:]]", r"topic~=\d", 'topic~=".{12,}"',
    'topic.whatever=="/tasks/oom"', '"topic"=="/tasks/oom"', 'topic=="/tasks/exit",event.container_id==web-1',
    'topic=="/tasks/exit",event.container_id!=web-1', "event.container_id==web-1", 'event.container_id=="web-1"',
    "event.container_id!=web-1", "event.container_id~=web", "event.container_id~=^$", "event.container_id.x==db",
    "event.id==web-1", "event.id~=^exec", 'event.id==""', 'event.id!=""', "event.pid", "event.pid==42", "event.pid!=42",
    "event.exit_status==137", "event.exited_at", 'event.bundle=="/run/b"', "event.bundle~=run", "event.io",
    "event.io.stdin==in", "event.io.stdout", "event.io.stdout!=x", "event.io.terminal", "event.io.terminal==true",
    "event.io.terminal==false", "event.io.terminal!=true", "event.io.nothing", "event.rootfs", "event.checkpoint",
    "event.image==busybox:1", "event.runtime", "event.runtime.name", "event.runtime.name~=runc", "event.name~=docker",
    "event.runtime.nothing!=x",
    "event.labels", 'event.labels=="no key"', "event.labels.tier", "event.labels.tier==front", "event.labels.tier!=x",
    'event.labels."containerd.io/gc.root"==yes', 'event.labels.containerd."io/gc".root==yes', "event.labels.a.b",
    'event.labels.a.b==""', 'event.labels.a.b!=""', 'event.labels."a.b"==""', 'event.labels."é"==ü', "event.labels.none",
    "event.labels.none!=x", 'event.labels.none~=".*"', "event.snapshot_key", "event.parent", "event.key==k",
    "event.digest~=^sha256", "event.digest==sha256:" + "0" * 64, "nonsense", "nonsense!=x", 'nonsense!=""', "nonsense~=^$",
    r'topic=="\x2ftasks\057oom"', r'topic=="\u002ftasks\U0000002foom"', r'topic=="\xff"', r'topic!="\ud800"',
    "topic=='/tasks/oom'", "topic~='/tasks/oom'", "namespace~=-b$", 'topic==a"b', "event.id~=exec.1,topic~=exit",
    "topic~=oom,topic", "9~=^$", "_", "topic==\u200bx",
]  # fmt: skip

INVALID = [
    " ", ",", "topic,", ",topic", "topic=x", "topic===x", "topic=~x", "topic==", "topic== ", "topic==/tasks/exit",
    "topic==|x|", "topic!=/x/", "namespace==a b", "namespace==.foo", "namespace===foo", "topic~=/tasks/.+", "topic~=/x",
    r"topic~=/\d/", r'topic=="\d"', r'topic=="\400"', r'topic=="\U00110000"', 'topic=="\n"', 'topic=="x"y', "topic ",
    "topic x", "event.labels.a-b", "event.labels.a/b==x", "event..id", "event.", ".event", "|topic|", "topic==\ufffd",
    "topic==x\0", "topic\0", '"topic', "topic==x,,topic", "é==x", "topic==,namespace", "topic==~x", "topic== =x",
]  # fmt: skip

#: Go's regexp would not compile them: containerd takes them and never matches, we refuse.
BAD_EXPRESSIONS = [
    "topic~=[bad",
    "topic~=a**",
    r'topic~="(?=x)"',
    r'topic~="\\1"',
    r'topic~="\\Z"',
    "topic~=a{1001}",
]


@dataclass
class Observed:
    """What one subscription was sent."""

    filters: list[str]
    ready: anyio.Event = field(default_factory=anyio.Event)
    received: list[tuple[str, str, bytes]] = field(default_factory=list)
    refused: str = ""


async def observe(stub: EventsStub, observed: Observed, namespaces: Sequence[str], topic: str) -> None:
    request = SubscribeRequest(filters=[*observed.filters, f'topic=="{topic}"', f'topic=="{topic}/end"'])
    stream = stub.subscribe(request)
    try:
        async for envelope in stream:
            if envelope.topic == topic:
                observed.ready.set()
            elif envelope.topic == f"{topic}/end":
                return
            elif envelope.namespace in namespaces and not envelope.topic.startswith("/containerd-aio/"):
                assert envelope.event is not None
                observed.received.append((envelope.topic, envelope.event.type_url, envelope.event.value))
    except Unknown as exc:
        observed.refused = exc.message
        observed.ready.set()
    finally:
        await stream.aclose()  # type: ignore[attr-defined]


async def ask(
    daemon: Daemon, namespace: str, filters: Sequence[list[str]], published: Published = PUBLISHED
) -> list[Observed]:
    """Subscribe once for every set of filters, publish, and return what each was sent."""
    namespaces = [namespace, f"{namespace}-b"]
    topic = f"/containerd-aio/sync/{namespace}"
    everything = [Observed(list(each)) for each in filters]

    async def publish(topic: str, event: AnyMessage, namespace: str = namespace) -> None:
        headers = {"containerd-namespace": namespace}
        await stub.publish(PublishRequest(topic=topic, event=event), metadata=headers)

    async with Channel(Address.parse(daemon.address), timeout=20, connect_timeout=5) as channel:
        stub = EventsStub(channel)
        async with anyio.create_task_group() as group:
            for observed in everything:
                group.start_soon(observe, stub, observed, namespaces, topic)
            for observed in everything:
                while (
                    not observed.ready.is_set()
                ):  # a subscription is not acknowledged: repeat until it is seen
                    await publish(topic, typeurl.pack(Empty()))
                    with anyio.move_on_after(0.05):
                        await observed.ready.wait()
            for event_topic, payload, second in published:
                await publish(event_topic, payload, namespaces[second])
            await publish(f"{topic}/end", typeurl.pack(Empty()))
    return everything


def ours(
    filters: Sequence[str], namespace: str, published: Published = PUBLISHED
) -> list[tuple[str, str, bytes]]:
    """What we would have let through."""
    wanted = FilterSet(filters)
    return [
        (topic, payload.type_url, payload.value)
        for topic, payload, second in published
        if wanted.matches(EnvelopeView(namespace + "-b" * second, topic, 1, payload.type_url, payload.value))
    ]


def mutations(count: int, seed: int) -> list[str]:
    """Filters of the list above, each with something put in or cut out."""
    source = random.Random(seed)
    pieces = [
        *'".,=!~/|\\ \t-_é',
        "==",
        "~=",
        "event.",
        "topic",
        "x",
        '""',
        r"\x41",
        r"\u00e9",
        "web-1",
        "\u3000",
        "'",
    ]
    made: list[str] = []
    while len(made) < count:
        text = ",".join(source.choices([f for f in VALID if f], k=source.randint(1, 2)))
        for _ in range(source.randint(1, 2)):
            place = source.randint(0, len(text))
            text = text[:place] + source.choice(pieces) + text[place + source.randint(0, 2) :]
        made.append(text)
    return made


def verdict(filters: Sequence[str]) -> str:
    try:
        FilterSet(filters)
    except InvalidArgument as exc:
        return "expression" if "regular expression" in exc.message else "refused"
    return "taken"


async def test_every_decision_is_containerds(daemon: Daemon, namespace: str) -> None:
    several = [
        ["topic~=oom", "event.name"],
        ["nonsense", "topic~=start"],
        ["", "nonsense"],
        ["nonsense", "nothing"],
    ]
    for observed in await ask(daemon, namespace, [*([f] for f in VALID), *several]):
        assert observed.refused == "", observed.filters
        assert observed.received == ours(observed.filters, namespace), observed.filters


async def test_e3_what_we_refuse_containerd_refuses(daemon: Daemon, namespace: str) -> None:
    for observed in await ask(daemon, namespace, [[f] for f in INVALID]):
        assert "failed parsing subscription filters" in observed.refused, observed.filters
        assert verdict(observed.filters) == "refused", observed.filters


async def test_expressions_that_containerd_takes_and_never_matches_are_refused_by_us(
    daemon: Daemon, namespace: str
) -> None:
    for observed in await ask(daemon, namespace, [[f] for f in BAD_EXPRESSIONS]):
        assert (observed.refused, observed.received) == ("", []), observed.filters
        assert verdict(observed.filters) == "expression", observed.filters


@pytest.mark.parametrize("seed", range(4))
async def test_mutated_filters_are_decided_alike(daemon: Daemon, namespace: str, seed: int) -> None:
    decisions = {"taken": 0, "refused": 0, "expression": 0}
    for observed in await ask(daemon, namespace, [[text] for text in mutations(60, seed)]):
        kind = verdict(observed.filters)
        decisions[kind] += 1
        assert (kind == "refused") == ("failed parsing" in observed.refused), observed.filters
        if kind == "taken":
            assert observed.received == ours(observed.filters, namespace), observed.filters
    assert decisions["taken"] >= 10, decisions
    assert decisions["refused"] >= 10, decisions


async def test_fields_of_later_releases(daemon: Daemon, namespace: str, containerd_version: str) -> None:
    """We decide by the newest message definitions; older daemons don't have these fields and match nothing."""
    later = {
        "event.snapshotter==overlayfs": (wire.SnapshotPrepare(key="k", snapshotter="overlayfs"), "1.7"),
        "event.sandbox_id==s": (wire.SandboxStart(sandbox_id="s"), "1.7"),
        "event.digest==d": (wire.ContentCreate(digest="d", size=1), "2.1"),
    }
    published: Published = [("/later", typeurl.pack(message), False) for message, _ in later.values()]
    for observed in await ask(daemon, namespace, [[text] for text in later], published):
        _, since = later[observed.filters[0]]
        here = ours(observed.filters, namespace, published)
        assert len(here) == 1
        assert observed.received == (here if containerd_version >= since else []), observed.filters
