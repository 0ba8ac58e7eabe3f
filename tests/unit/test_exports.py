"""The public names are pinned: none appears or vanishes by accident, and each can be reached."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import containerd_aio

PINNED = Path(__file__).parent / "data" / "public_names.txt"


def test_the_public_names_are_those_of_the_list() -> None:
    assert containerd_aio.__all__ == PINNED.read_text().split()


def test_every_name_can_be_had_and_is_documented() -> None:
    for name in containerd_aio.__all__:
        value = getattr(containerd_aio, name)
        if isinstance(value, type) or inspect.isroutine(value):
            assert value.__doc__, name


def test_lazy_names_and_typed_names_are_the_same() -> None:
    lazy = {name for names in containerd_aio._HOMES.values() for name in names} | {*containerd_aio._MODULES}
    assert lazy | {"__version__"} == set(containerd_aio.__all__)


def test_importing_the_package_loads_nothing_else() -> None:
    code = "import sys, containerd_aio; print([m for m in sys.modules if m.split('.')[0] in ('grpclib','h2','anyio','asyncio','betterproto2','structlog')])"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.strip() == "[]"
