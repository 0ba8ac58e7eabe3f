"""containerd's filters, applied to the records of the fake's stores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from grpclib.const import Status

from containerd_aio.errors import InvalidArgument
from containerd_aio.events.filters import Filter, Selector
from containerd_aio.events.go_regexp import compile_go
from containerd_aio.testing.fake.call import refuse_plainly

R = TypeVar("R")
Fields = Callable[[R], Mapping[str, object]]
"""Returns what filters may ask for: a text, or a mapping for what is asked for by a further key (labels)."""


def parse(texts: Iterable[str]) -> list[Filter | None]:
    """Read filters; None stands for one that never matches, as containerd treats a regular expression it can't compile.

    Raises:
        InvalidArgument: One is not valid.
    """
    filters: list[Filter | None] = []
    for text in texts:
        try:
            filters.append(Filter(text))
        except InvalidArgument as exc:
            if not isinstance(exc.__cause__, ValueError):
                raise
            filters.append(None)
    return filters


def describe_failure(exc: InvalidArgument) -> str:
    """Return the text of a refused filter: it begins as containerd's does, and then gives our reason."""
    return f"filters: parse error: [{exc.message}]: invalid argument"


def select(
    records: Iterable[R],
    texts: Iterable[str],
    fields: Callable[[R], Mapping[str, object]],
    *,
    status: Status = Status.INVALID_ARGUMENT,
    prefix: str = "",
    suffix: str = "",
) -> list[R]:
    """Return the records that match any of the filters `texts`, or all when there is none.

    Args:
        records: The records.
        texts: The filters.
        fields: Says of a record what filters may ask for.
        status: How an invalid filter is refused.
        prefix: Begins the text of the refusal.
        suffix: Ends it.

    Raises:
        GRPCError: A filter is not valid.
    """
    try:
        filters = parse(texts)
    except InvalidArgument as exc:
        raise refuse_plainly(status, prefix + describe_failure(exc) + suffix) from exc
    if not filters:
        return list(records)
    return [
        record
        for record in records
        if any(f is not None and all(_holds(s, fields(record)) for s in f.selectors) for f in filters)
    ]


def _holds(selector: Selector, fields: Mapping[str, object]) -> bool:
    value = _value(selector.path, fields)
    match selector.operator:
        case "==":
            return value == selector.value
        case "!=":
            return (value or "") != selector.value
        case "~=":
            return compile_go(selector.value).search(value or "") is not None
    return value is not None


def _value(path: tuple[str, ...], fields: Mapping[str, object]) -> str | None:
    found = fields.get(path[0])
    if isinstance(found, Mapping):
        inner: str | None = found.get(".".join(path[1:]))
        return inner
    return str(found) if found else None
