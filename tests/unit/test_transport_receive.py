"""Messages put together from frames cut anywhere, and the windows given back for them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerd_aio._transport.receive import Receiver
from containerd_aio.errors import Internal, ResourceExhausted


class Wire:
    """Collects window updates."""

    def __init__(self) -> None:
        self.returned = 0

    def write(self, frame: bytes) -> None:
        assert frame[:5] == b"\x00\x00\x04\x08\x00"
        assert int.from_bytes(frame[5:9], "big") == 7
        self.returned += int.from_bytes(frame[9:], "big")


def _receiver(window: int = 64, limit: int = 1000) -> tuple[Receiver, Wire]:
    wire = Wire()
    stream: Any = SimpleNamespace(id=7, data_received=0, window_updated=asyncio.Event())
    return Receiver(stream, window=window, limit=limit, write=wire.write), wire


def _frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


@given(st.lists(st.binary(max_size=200), max_size=20), st.lists(st.integers(1, 90), min_size=1), st.data())
def test_any_cut_gives_the_same_messages(messages: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    receiver, wire = _receiver()
    sent, position, taken, round_ = b"".join(map(_frame, messages)), 0, [], 0
    while position < len(sent):
        size = min(cuts[round_ % len(cuts)], len(sent) - position)
        padding = b"before"
        receiver.feed(
            padding + sent[position : position + size] + b"after", len(padding), len(padding) + size
        )
        position += size
        round_ += 1
        if data.draw(st.booleans()):
            taken += receiver.take_all()
    while (message := receiver.take()) is not None:
        taken.append(message)
    assert taken == messages
    receiver.eof()
    assert receiver.exhausted
    # All but less than half a window was given back, and never more than came.
    assert 0 <= len(sent) - wire.returned < 32


def test_a_message_larger_than_the_window_does_not_wait_for_itself() -> None:
    receiver, wire = _receiver(window=64)
    sent = _frame(b"x" * 500)
    in_flight = 0
    for position in range(0, len(sent), 16):
        chunk = sent[position : position + 16]
        in_flight += len(chunk)
        assert in_flight - wire.returned <= 64
        receiver.feed(chunk, 0, len(chunk))
    assert receiver.take() == b"x" * 500


def test_an_unread_stream_gets_no_window_back() -> None:
    receiver, wire = _receiver(window=64)
    for _ in range(4):
        receiver.feed(_frame(b"x" * 11), 0, 16)
    assert wire.returned == 0
    assert receiver.take_all() == [b"x" * 11] * 4
    assert wire.returned == 64


@pytest.mark.parametrize("cut", [1, 3, 5, 8])
def test_a_message_over_the_limit_is_an_error_after_those_before_it(cut: int) -> None:
    receiver, _ = _receiver(limit=10)
    sent = _frame(b"ok") + _frame(b"x" * 11)
    for position in range(0, len(sent), cut):
        chunk = sent[position : position + cut]
        receiver.feed(chunk, 0, len(chunk))
    assert receiver.take() == b"ok"
    with pytest.raises(ResourceExhausted, match="11 bytes"):
        receiver.take()
    with pytest.raises(ResourceExhausted):
        receiver.take_all()


def test_a_compressed_message_is_refused() -> None:
    receiver, _ = _receiver()
    receiver.feed(b"\1\0\0\0\1x", 0, 6)
    with pytest.raises(Internal, match="compressed"):
        receiver.take()
