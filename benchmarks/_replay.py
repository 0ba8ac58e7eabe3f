"""A server that streams ready-made events as fast as they are read: run as ``python _replay.py SOCKET COUNT [KIND]``.

It speaks just enough HTTP/2 for one Subscribe call, and sends what containerd sends: one DATA frame per event. The
frames are made beforehand, so that the server is never what is measured.
"""

from __future__ import annotations

import asyncio
import sys

import h2.config
import h2.connection
import h2.events

_BATCH = 200


def event(kind: str) -> bytes:
    """Return an envelope of some 220 bytes as containerd sends it: an ``exit`` of a task, or of a ``snapshot``."""
    from containerd_aio._transport.codec import encode
    from containerd_aio.api.containerd.events import SnapshotPrepare, TaskExit
    from containerd_aio.api.containerd.types import Envelope
    from containerd_aio.api.google.protobuf import Any, Timestamp

    at = Timestamp(seconds=1_795_370_661, nanos=123_456_789)
    message: Any
    if kind == "exit":
        topic = "/tasks/exit"
        message = TaskExit(container_id="c" * 64, id="c" * 64, pid=12345, exit_status=137, exited_at=at)
    else:
        topic = "/snapshot/prepare"
        message = SnapshotPrepare(key="c" * 64, parent=f"sha256:{'d' * 64}", snapshotter="overlayfs")
    payload = Any(type_url=f"containerd.events.{type(message).__name__}", value=encode(message))
    return encode(Envelope(timestamp=at, namespace="default", topic=topic, event=payload))


class Replay(asyncio.Protocol):
    """One connection."""

    def __init__(self, count: int, kind: str) -> None:
        self.left = count
        message = event(kind)
        self.message = b"\0" + len(message).to_bytes(4, "big") + message
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.stream: int | None = None
        self.windows = {"stream": 65535, "connection": 65535}
        self.paused = False
        self.requested = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.h2.initiate_connection()
        transport.write(self.h2.data_to_send())

    def data_received(self, data: bytes) -> None:
        for item in self.h2.receive_data(data):
            if isinstance(item, h2.events.RequestReceived):
                self.stream = item.stream_id
            if isinstance(item, h2.events.DataReceived):
                self.h2.acknowledge_received_data(item.flow_controlled_length, item.stream_id)
            if isinstance(item, h2.events.StreamEnded):
                self.begin()
            if isinstance(item, h2.events.WindowUpdated):
                self.windows["stream" if item.stream_id else "connection"] += item.delta
            if isinstance(item, h2.events.RemoteSettingsChanged):
                change = item.changed_settings.get(h2.settings.SettingCodes.INITIAL_WINDOW_SIZE)
                if change is not None:
                    self.windows["stream"] += change.new_value - (change.original_value or 65535)
        self.transport.write(self.h2.data_to_send())
        self.pump()

    def begin(self) -> None:
        assert self.stream is not None
        self.h2.send_headers(self.stream, [(":status", "200"), ("content-type", "application/grpc")])
        self.transport.write(self.h2.data_to_send())
        size = len(self.message)
        header = size.to_bytes(3, "big") + b"\0\0" + self.stream.to_bytes(4, "big")
        self.frame = header + self.message
        self.batch = self.frame * _BATCH
        self.requested = True

    def pump(self) -> None:
        size = len(self.message)
        while self.requested and self.left and not self.paused and not self.transport.is_closing():
            room = min(*self.windows.values()) // size
            n = min(room, self.left, _BATCH)
            if n <= 0:
                return
            self.transport.write(self.batch if n == _BATCH else self.frame * n)
            self.left -= n
            self.windows["stream"] -= n * size
            self.windows["connection"] -= n * size

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        # Not from here: a write that fails inside of this call makes asyncio end the connection twice.
        asyncio.get_running_loop().call_soon(self.pump)


async def main(path: str, count: int, kind: str) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_unix_server(lambda: Replay(count, kind), path)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "exit"))
