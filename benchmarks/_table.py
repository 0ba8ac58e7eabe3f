"""Tables, protobuf peers and repeated measurements for the benchmarks."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROTO = Path(__file__).resolve().parent.parent / "proto"


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose first column is text and whose others are numbers."""
    widths = [max(len(str(row[i])) for row in [headers, *rows]) for i in range(len(headers))]
    print(f"\n{title}\n")
    for row in [headers, ["-" * w for w in widths], *rows]:
        cells = [
            str(c).ljust(w) if i == 0 else str(c).rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells))
    print(flush=True)


def interleaved(rounds: int, cases: dict[str, Callable[[], dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Run every case once a round, in turn, and return the median of each figure: noise hits all alike."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            results[name].append(case())
    return {
        name: {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        for name, runs in results.items()
    }


def protobuf_module(*files: str) -> Any:
    """Return the protobuf (upb) classes of our .proto files, for peers that use grpcio."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from grpc_tools import protoc

    with tempfile.NamedTemporaryFile(suffix=".pb") as out:
        import grpc_tools

        wkt = Path(grpc_tools.__file__).parent / "_proto"
        arguments = [
            "protoc",
            f"-I{PROTO}",
            f"-I{wkt}",
            "--include_imports",
            f"--descriptor_set_out={out.name}",
            *files,
        ]
        if protoc.main(arguments) != 0:
            sys.exit("the .proto files could not be compiled")
        descriptors = descriptor_pb2.FileDescriptorSet.FromString(Path(out.name).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in descriptors.file:
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
