"""Decoding of one event, Envelope(TaskExit) with ids of 64 digits: CPU microseconds beside protobuf and betterproto2.

python benchmarks/bench_decode.py [rounds] [events a round]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from _table import interleaved, protobuf_module, table

from containerd_aio._transport.codec import decode, encode
from containerd_aio.api.containerd.events import TaskExit
from containerd_aio.api.containerd.types import Envelope
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import Timestamp
from containerd_aio.events.decode import decode_envelope

FILES = ("containerd/types/envelope.proto", "containerd/events/task.proto")
UPB = "protobuf (upb, C), every field read"


def sample() -> bytes:
    """Return what containerd sends when a process is killed."""
    container_id = "5f0c" * 16
    at = Timestamp(seconds=1_795_000_000, nanos=723_456_789)
    event = TaskExit(container_id=container_id, id=container_id, pid=31_337, exit_status=137, exited_at=at)
    payload = AnyMessage(type_url="containerd.events.TaskExit", value=encode(event))
    return encode(Envelope(timestamp=at, namespace="k8s.io", topic="/tasks/exit", event=payload))


def read_envelope(envelope: Any) -> tuple[Any, ...]:
    """Touch every field, for decoders that put the work off until then."""
    at, event = envelope.timestamp, envelope.event
    return at.seconds, at.nanos, envelope.namespace, envelope.topic, event.type_url, event.value


def read_exit(event: Any) -> tuple[Any, ...]:
    """Touch every field of a TaskExit message."""
    at = event.exited_at
    return event.container_id, event.id, event.pid, event.exit_status, at.seconds, at.nanos


def contestants(data: bytes) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return, by name, what decodes the envelope alone and what decodes its payload too."""
    upb = protobuf_module(*FILES)
    upb_envelope, upb_exit = upb("containerd.types.Envelope"), upb("containerd.events.TaskExit")
    return {
        UPB: (
            lambda: read_envelope(upb_envelope.FromString(data)),
            lambda: (
                read_envelope(e := upb_envelope.FromString(data)),
                read_exit(upb_exit.FromString(e.event.value)),
            ),
        ),
        "containerd_aio.events": (lambda: decode_envelope(data), lambda: decode_envelope(data).event),
        "compiled decoders, generated classes": (
            lambda: decode(Envelope, data),
            lambda: decode(TaskExit, decode(Envelope, data).event.value),  # type: ignore[union-attr]
        ),
        "betterproto2's own parse": (
            lambda: Envelope.parse(data),
            lambda: TaskExit.parse(Envelope.parse(data).event.value),  # type: ignore[union-attr]
        ),
    }


def cpu(calls: int, call: Callable[[], Any]) -> float:
    """Return CPU microseconds per call."""
    began = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - began) / calls * 1e6


def main(rounds: int = 9, calls: int = 10_000) -> None:
    """Run all in turn and print the medians."""
    data = sample()

    def case(envelope: Callable[[], Any], event: Callable[[], Any]) -> Callable[[], dict[str, float]]:
        return lambda: {"envelope": cpu(calls, envelope), "event": cpu(calls, event)}

    results = interleaved(rounds, {name: case(*pair) for name, pair in contestants(data).items()})
    peer = results[UPB]
    rows = [
        [
            name,
            f"{r['envelope']:.2f}",
            f"{r['envelope'] / peer['envelope']:.1f}x",
            f"{r['event']:.2f}",
            f"{r['event'] / peer['event']:.1f}x",
        ]
        for name, r in results.items()
    ]
    python = ".".join(map(str, sys.version_info[:3]))
    table(
        f"Decoding a TaskExit of {len(data)} bytes, CPU µs, Python {python}",
        ["decoder", "envelope", "of upb", "with payload", "of upb"],
        rows,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]))
