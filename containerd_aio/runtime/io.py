"""Standard streams whose FIFOs belong to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio.lowlevel

from containerd_aio.stdio.fifo import FIFOSet, IOConfig
from containerd_aio.stdio.process_io import ProcessIO

if TYPE_CHECKING:
    from containerd_aio.runtime.types import IO
    from containerd_aio.stdio.creators import IOCreator


class _Lent(FIFOSet):
    def remove(self) -> None:
        """Leave them: whoever made them removes them."""


@dataclass(frozen=True, slots=True)
class _Lender:
    config: IOConfig

    @property
    def terminal(self) -> bool:
        return self.config.terminal

    async def create(self, process_id: str, *, fifo_root: Path) -> ProcessIO:  # noqa: ARG002
        await anyio.lowlevel.checkpoint()
        return ProcessIO(_Lent(self.config))

    async def attach(self, config: IOConfig) -> ProcessIO:
        await anyio.lowlevel.checkpoint()
        return ProcessIO(_Lent(config))


def lent(io: IO) -> IOCreator:
    """Return what names the caller's FIFOs to containerd, and neither opens nor removes them."""
    return _Lender(IOConfig(io.stdin, io.stdout, io.stderr, io.terminal))
