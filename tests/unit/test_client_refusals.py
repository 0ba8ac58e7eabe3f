"""What a client refuses: before anything is sent, with words that name the mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from containerd_aio import Client, InvalidArgument
from tests.unit.fake_support import SPEC, world

pytestmark = pytest.mark.looptime


def run(**options: Any) -> Callable[[Client], Any]:
    return lambda client: client.run("image", ["true"], **options)


def new(**options: Any) -> Callable[[Client], Any]:
    return lambda client: client.new_container("c", **{"spec": SPEC, **options})


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (run(stdin="text"), r"stdin must be bytes, not str; a text has \.encode\(\)"),
        (run(cpus=0), "cpus is 0; it must be at least 0.01"),
        (run(cpus=0.000001), "cpus is 1e-06"),
        (run(cpus=math.inf), "cpus is inf"),
        (new(image=3), "image is 3; give an Image, or the name of one"),
        (new(labels={"team": None}), "label 'team': None is not valid"),
        (new(labels={"": "x"}), "label '': 'x' is not valid"),
        (lambda client: client.publish("jobs/done"), "topic is 'jobs/done'; it must begin with a slash"),
        (lambda client: client.publish(3), "topic is 3"),
        (lambda client: client.publish("/jobs//done"), "the part of topic '/jobs//done' is empty"),
    ],
)
async def test_mistakes(call: Callable[[Client], Any], words: str) -> None:
    async with world() as w:
        before = len(w.fake.calls)
        with pytest.raises(InvalidArgument, match=words):
            await call(w.client)
        assert len(w.fake.calls) == before


async def test_a_handler_has_to_be_one() -> None:
    async with world() as w:
        handler: Any = None
        with pytest.raises(InvalidArgument, match="the handler is None"):
            w.client.state_changes(handler)
