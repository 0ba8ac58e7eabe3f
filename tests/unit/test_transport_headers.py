"""Blocks of headers that come again and again are decoded once, and mean what they say."""

from __future__ import annotations

from typing import Any

import hpack
from hypothesis import example, given
from hypothesis import strategies as st

from containerd_aio._transport.headers import HeaderDecoder

_HEADER = st.sampled_from([("x-a", "0"), ("x-a", "1"), ("x-b", "0"), (":status", "200"), ("x-c", "v" * 40)])


@given(st.lists(st.lists(_HEADER, max_size=2), max_size=30), st.sampled_from([0, 64, 100, 4096]))
@example([[("x-a", "0")]] * 2 + [[("x-b", "0")]] * 2, 4096)  # the same bytes, another meaning
def test_blocks_that_are_remembered_mean_what_they_say(
    blocks: list[list[tuple[str, str]]], size: int
) -> None:
    """However small the table is, so that entries move and go."""
    encoder, ours, plain = hpack.Encoder(), hpack.Decoder(), hpack.Decoder()
    remembering = HeaderDecoder(ours.decode)
    for number, block in enumerate(blocks):
        if number == len(blocks) // 2:
            encoder.header_table_size = size
        data = encoder.encode(block)
        assert remembering(data, raw=True) == plain.decode(data, raw=True)


def test_a_block_that_came_before_is_not_decoded_again() -> None:
    encoder, decoder, decoded = hpack.Encoder(), hpack.Decoder(), []

    def decode(data: bytes, raw: bool) -> Any:
        decoded.append(data)
        return decoder.decode(data, raw)

    remembering = HeaderDecoder(decode)
    for _ in range(5):
        assert remembering(encoder.encode([("grpc-status", "0"), ("grpc-message", "")]), raw=True) == [
            (b"grpc-status", b"0"),
            (b"grpc-message", b""),
        ]
    assert len(decoded) == 2
