"""Make, read and write OCI runtime specs."""

from __future__ import annotations

import json
import os
from typing import Any, cast

import anyio

from containerd_aio.errors import InvalidArgument, NotFound
from containerd_aio.oci.context import SpecContext, SpecOpt, apply_opts
from containerd_aio.oci.defaults import default_spec
from containerd_aio.oci.encoding import to_json
from containerd_aio.oci.types import Spec


async def generate_spec(context: SpecContext, *opts: SpecOpt) -> Spec:
    """Make a spec: the default one for the context's platform and daemon, changed by options in order.

    Encoded with `to_json` it equals, byte for byte, what the Go client of the same version makes of the same options
    (Go: GenerateSpec, GenerateSpecWithPlatform).

    Args:
        context: The container it is for.
        opts: Changes, such as ``with_process_args("sleep", "60")``.

    Raises:
        InvalidArgument: An option refused, or the platform has no default spec.
    """
    spec = default_spec(
        context.os,
        namespace=context.namespace,
        container_id=context.container_id,
        version=context.version,
        utility_vm=context.in_utility_vm,
    )
    await apply_opts(context, spec, *opts)
    return spec


def from_json(data: bytes | str) -> Spec:
    """Parse a spec, keeping fields that are not known here.

    It is brought into the form `to_json` writes: known fields that are null or zero are gone, as they are in Go, and
    those that are always written are there.

    Raises:
        InvalidArgument: It is not JSON, or a field has the wrong kind of value. The text names the field.
    """
    try:
        parsed: Any = json.loads(data)
    except ValueError as exc:  # also UnicodeDecodeError
        raise InvalidArgument(f"this is not an OCI spec: {exc}") from exc
    return cast("Spec", json.loads(to_json(parsed)))


async def read_spec(path: str | os.PathLike[str]) -> Spec:
    """Read a spec from a file such as a bundle's ``config.json`` (Go: ReadSpec).

    Raises:
        NotFound: No such file.
        InvalidArgument: It can't be read, or is not a spec.
    """
    try:
        return from_json(await anyio.Path(path).read_bytes())
    except FileNotFoundError:
        raise NotFound(f"there is no spec file {os.fspath(path)!r}") from None
    except OSError as exc:
        raise InvalidArgument(f"the spec file {os.fspath(path)!r} can't be read: {exc.strerror}") from exc
    except InvalidArgument as exc:
        raise InvalidArgument(f"{os.fspath(path)}: {exc}") from exc
