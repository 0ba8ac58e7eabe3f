"""Options that replace the whole spec, or speak of it as a whole."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

from containerd_aio.errors import InvalidArgument
from containerd_aio.oci._check import text
from containerd_aio.oci.context import SpecContext, SpecOpt
from containerd_aio.oci.defaults import default_spec
from containerd_aio.oci.spec import from_json, read_spec
from containerd_aio.oci.types import Spec


def _become(spec: Spec, other: Spec) -> None:
    spec.clear()  # type: ignore[attr-defined]  # a TypedDict with required keys; they are back in the next line
    spec.update(other)


def _default(context: SpecContext) -> Spec:
    return default_spec(
        context.os,
        namespace=context.namespace,
        container_id=context.container_id,
        version=context.version,
        utility_vm=context.in_utility_vm,
    )


def with_default_spec() -> SpecOpt:
    """Throw the spec away and start from the default of the context's platform (Go: WithDefaultSpec)."""

    def opt(context: SpecContext, spec: Spec) -> None:
        _become(spec, _default(context))

    return opt


def with_default_spec_for_platform(platform: str) -> SpecOpt:
    """Throw the spec away and start from the default of a platform (Go: WithDefaultSpecForPlatform).

    Args:
        platform: ``os`` or ``os/arch[/variant]``: linux, windows, darwin, freebsd.

    Raises:
        InvalidArgument: The platform has no default spec.
    """
    SpecContext(platform=platform).os  # noqa: B018 - refuses one that is not known

    def opt(context: SpecContext, spec: Spec) -> None:
        _become(spec, _default(replace(context, platform=platform)))

    return opt


def with_spec_from_bytes(data: bytes | str) -> SpecOpt:
    """Replace the spec by one given as JSON; unknown fields are kept (Go: WithSpecFromBytes).

    Raises:
        InvalidArgument: It is not a spec.
    """
    parsed = from_json(data)

    def opt(_: SpecContext, spec: Spec) -> None:
        _become(spec, deepcopy(parsed))

    return opt


def with_spec_from_file(path: str | os.PathLike[str]) -> SpecOpt:
    """Replace the spec by one read from a file when the option is applied (Go: WithSpecFromFile).

    Raises:
        NotFound: When applied: no such file.
        InvalidArgument: When applied: it is not a spec.
    """

    async def opt(_: SpecContext, spec: Spec) -> None:
        _become(spec, await read_spec(path))

    return opt


def with_annotations(annotations: Mapping[str, str]) -> SpecOpt:
    """Set annotations, keeping others that are there (Go: WithAnnotations).

    Raises:
        InvalidArgument: Not a mapping of strings, or a key is empty.
    """
    if not isinstance(annotations, Mapping):
        raise InvalidArgument(f"annotations must be a mapping of strings, not {annotations!r}")
    given = {
        text("the key of an annotation", key, empty=False): text(f"annotation {key!r}", value)
        for key, value in annotations.items()
    }

    def opt(_: SpecContext, spec: Spec) -> None:
        spec.setdefault("annotations", {}).update(given)

    return opt


def with_hostname(name: str) -> SpecOpt:
    """Set the host name (Go: WithHostname). It needs the container's own UTS namespace, which is the default.

    Raises:
        InvalidArgument: Longer than the 64 bytes Linux has room for.
    """
    _kernel_name("hostname", name)

    def opt(_: SpecContext, spec: Spec) -> None:
        spec["hostname"] = name

    return opt


def with_domainname(name: str) -> SpecOpt:
    """Set the NIS domain name; honoured by runc 1.2 and newer (Go: WithDomainname).

    Raises:
        InvalidArgument: Longer than the 64 bytes Linux has room for.
    """
    _kernel_name("domainname", name)

    def opt(_: SpecContext, spec: Spec) -> None:
        spec["domainname"] = name

    return opt


def _kernel_name(what: str, name: str) -> None:
    size = len(text(what, name).encode())
    if size > 64:
        raise InvalidArgument(f"{what} is {size} bytes long; Linux allows 64")
