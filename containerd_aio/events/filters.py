r"""containerd's filters: which events to see.

::

    filter    = selector ("," selector)*        all of them
    selector  = fieldpath [operator value]      without operator: the field is there
    fieldpath = field ("." field)*              field: letters, digits and "_", or a quoted string
    operator  = "==" | "!=" | "~="              equal, not equal, regular expression found
    value     = bare | quoted                   bare: up to a comma or white space

Of several filters one is enough. A quoted string stands in double quotes with Go's escapes; behind ``~=`` also in
slashes or bars. Slashes and bars quote in other places too and are then refused: ``topic==/tasks/exit`` is wrong,
``topic=="/tasks/exit"`` is right.

The fields of an event are ``namespace``, ``topic`` and ``event.`` followed by a field of its message that is a string:
``event.container_id``, ``event.labels.tier``, ``event.io.stdout``. Numbers and times can't be asked for. A field that is
empty counts as absent, except in labels.

Decisions equal containerd's (Go: pkg/filters, and the Field methods of the events), with one exception: a regular
expression that Go would not compile is refused here, where containerd takes it and never matches.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from containerd_aio.errors import InvalidArgument
from containerd_aio.events.decode import EnvelopeView
from containerd_aio.events.event import Event, UnknownEvent
from containerd_aio.events.go_regexp import compile_go
from containerd_aio.events.model import ContainerRuntime, TaskIO

__all__ = ["Filter", "FilterSet", "all_of", "field_differs", "field_equals", "field_matches", "field_present"]

Item = EnvelopeView | Event
Match = Callable[[Item], bool]
Getter = Callable[[Item], str | None]

_SPACE: Final = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(rune) for rune in range(0x2000, 0x200B)
}
_OPERATORS: Final = ("==", "!=", "~=")
_OPERATOR_CHARS: Final = frozenset("=!~")
_QUOTES: Final = frozenset('"/|')
_BARE_FIELD: Final = re.compile("[A-Za-z0-9_]+")
_ESCAPES: Final = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92}
_DIGITS: Final = {
    "x": re.compile("[0-9A-Fa-f]{2}"),
    "u": re.compile("[0-9A-Fa-f]{4}"),
    "U": re.compile("[0-9A-Fa-f]{8}"),
    "": re.compile("[0-7]{3}"),
}


class Selector(NamedTuple):
    r"""One condition: a field path, and what its value must be.

    `operator` is empty for presence. Bytes that are no UTF-8 (``"\xff"``) are kept as surrogates and equal nothing.
    """

    path: tuple[str, ...]
    operator: str = ""
    value: str = ""


class Filter:
    """One filter: a list of conditions that must all hold.

    Attributes:
        text: The filter as containerd takes it.
        selectors: Its conditions; none for the empty filter, which lets everything through.
    """

    __slots__ = ("_match", "selectors", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.selectors = _Parser(text).parse() if text else ()
        self._match = _compile(text, self.selectors)

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read a filter; the same as ``Filter(text)``.

        Raises:
            InvalidArgument: containerd would refuse it, or its regular expression is none of Go's. The message names
                the position and, where it can be guessed, the right spelling.
        """
        return cls(text)

    def matches(self, item: Item) -> bool:
        """Tell whether containerd would let `item` through."""
        return self._match(item)

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"


_OUTER_PATHS = {("namespace",), ("topic",)}


class FilterSet:
    """Several filters, of which one is enough; none at all lets everything through.

    Attributes:
        filters: The filters.
    """

    __slots__ = ("filters", "matches", "may_match")

    matches: Match
    """``matches(item)``: tell whether containerd would let `item` through."""
    may_match: Match
    """``may_match(item)``: the same as far as namespace and topic tell, whatever else is asked for."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """Read the filters.

        Raises:
            InvalidArgument: One is not valid, or `texts` is a single string.
        """
        if isinstance(texts, str):
            raise InvalidArgument(f"give a list of filters, not one string: [{texts!r}]")
        self.filters = tuple(Filter(text) for text in texts)
        self.matches = _any_of([f._match for f in self.filters])  # noqa: SLF001 - one module, two classes
        outer = [[s for s in f.selectors if s.path in _OUTER_PATHS] for f in self.filters]
        self.may_match = _any_of(
            [_compile(f.text, selectors) for f, selectors in zip(self.filters, outer, strict=True)]
        )

    def __repr__(self) -> str:
        return f"FilterSet({[f.text for f in self.filters]!r})"


# --- building -----------------------------------------------------------------------------------------------------


def field_equals(path: str, value: str) -> str:
    """Return a filter for events whose field has this value: ``field_equals("topic", "/tasks/exit")``.

    Args:
        path: Field path with dots, not quoted: ``event.labels.containerd.io/gc.root``. A dot in the key of a label
            needs no care, because containerd joins what follows ``labels`` again.
        value: Any text; it is quoted as needed.

    Raises:
        InvalidArgument: `path` is empty, or a string can't be written in UTF-8.
    """
    return f"{_path_text(path)}=={_quote(value)}"


def field_differs(path: str, value: str) -> str:
    """Return a filter for events whose field does not have this value; an absent field counts as empty.

    Raises:
        InvalidArgument: As `field_equals`.
    """
    return f"{_path_text(path)}!={_quote(value)}"


def field_matches(path: str, expression: str) -> str:
    """Return a filter for events in whose field Go's regular expression `expression` is found.

    It is searched for, not matched from the start: anchor it with ``^`` and ``$``. An absent field counts as empty.

    Raises:
        InvalidArgument: As `field_equals`, or `expression` is none of Go's.
    """
    text = f"{_path_text(path)}~={_quote(expression)}"
    Filter(text)
    return text


def field_present(path: str) -> str:
    """Return a filter for events that have this field, not empty; a label may be empty.

    Raises:
        InvalidArgument: As `field_equals`.
    """
    return _path_text(path)


def all_of(*filters: str) -> str:
    """Return one filter that lets through what all `filters` let through.

    Raises:
        InvalidArgument: One of them is not valid.
    """
    return ",".join(Filter(text).text for text in filters if text)


def _path_text(path: str) -> str:
    if not path:
        raise InvalidArgument("the field path is empty; give one such as topic or event.container_id")
    return ".".join(part if _BARE_FIELD.fullmatch(part) else _quote(part) for part in path.split("."))


def _quote(text: str) -> str:
    quoted = ['"']
    for char in text:
        if "\ud800" <= char <= "\udfff":
            raise InvalidArgument(f"{text!r} can't be written in UTF-8")
        if char in '"\\':
            quoted.append("\\" + char)
        elif char < " " or char == "\x7f":
            quoted.append(f"\\x{ord(char):02x}")
        else:
            quoted.append("\\ufffd" if char == "\ufffd" else char)
    return "".join(quoted) + '"'


# --- reading ------------------------------------------------------------------------------------------------------


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def error(self, reason: str, at: int | None = None, *, hint: str = "") -> InvalidArgument:
        where = min(self.pos if at is None else at, len(self.text))
        place = f"character {where + 1}" if where < len(self.text) else "its end"
        return InvalidArgument(
            f"invalid filter {self.text!r}: {reason}, at {place}" + (f"; {hint}" if hint else "")
        )

    def peek(self) -> str:
        return self.text[self.pos : self.pos + 1]

    def skip_space(self) -> None:
        while self.peek() in _SPACE:
            self.pos += 1

    def parse(self) -> tuple[Selector, ...]:
        for pos, char in enumerate(self.text):
            if char in "\0\ufffd" or "\ud800" <= char <= "\udfff":
                raise self.error(f"{char!r} is not allowed", pos)
        selectors = [self.selector()]
        while self.peek() == ",":
            self.pos += 1
            selectors.append(self.selector())
        if self.peek():
            hint = "put the value in double quotes" if selectors[-1].operator else ""
            raise self.error(f"unexpected {self.peek()!r}", hint=hint)
        return tuple(selectors)

    def selector(self) -> Selector:
        start = self.pos
        path = [self.field()]
        while self.peek() == ".":
            self.pos += 1
            path.append(self.field())
        if self.peek() in {"", ","}:
            return Selector(tuple(path))
        name = self.text[start : self.pos].strip()
        operator = self.operator(name)
        return Selector(tuple(path), operator, self.value(name, operator))

    def field(self) -> str:
        self.skip_space()
        char = self.peek()
        if char == '"':
            return self.quoted()
        if char in _QUOTES and char:
            raise self.error(
                f"{char!r} can't quote a field", hint='quote it with double quotes: labels."a/b"'
            )
        bare = _BARE_FIELD.match(self.text, self.pos)
        if bare is None:
            raise self.error("a field is expected: letters, digits and _, or a string in double quotes")
        self.pos = bare.end()
        return bare[0]

    def operator(self, name: str) -> str:
        self.skip_space()
        start = self.pos
        while self.peek() in _OPERATOR_CHARS:
            self.pos += 1
        operator = self.text[start : self.pos]
        if operator in _OPERATORS:
            return operator
        if operator:
            hint = f"== compares: {name}==..." if operator == "=" else "they are == != ~="
            raise self.error(f"there is no operator {operator!r}", start, hint=hint)
        hint = 'a field with other characters than letters, digits and _ is quoted: labels."a-b"'
        raise self.error("an operator is expected (== != ~=)", start, hint=hint if self.peek() else "")

    def value(self, name: str, operator: str) -> str:
        self.skip_space()
        char = self.peek()
        if not char or char == ",":
            raise self.error(
                f"a value is expected behind {operator}", hint=f'the empty value is {name}{operator}""'
            )
        if char in {"/", "|"} and operator != "~=":
            wish = self.text[self.pos :].partition(",")[0]
            raise self.error(
                f"{char!r} opens a quote that is only for ~=", hint=f"write {name}{operator}{_quote(wish)}"
            )
        if char in _QUOTES:
            return self.quoted()
        if char == "." or char in _OPERATOR_CHARS:
            raise self.error(f"a value can't begin with {char!r} unless it is in double quotes")
        start = self.pos
        self.pos += 1
        while (char := self.peek()) and char != "," and unicodedata.category(char)[0] in "LMNPS":
            self.pos += 1
        return self.text[start : self.pos]

    def quoted(self) -> str:
        start = self.pos
        quote = self.text[start]
        self.pos += 1
        value = bytearray()
        while (char := self.peek()) != quote:
            if char in {"", "\n"}:
                raise self.error(f"the {quote} is not closed", start)
            self.pos += 1
            value += self.escape(quote) if char == "\\" else char.encode()
        self.pos += 1
        return value.decode(errors="surrogateescape")

    def escape(self, quote: str) -> bytes:
        char = self.peek()
        self.pos += 1
        if char == quote:
            return quote.encode()
        if char in _ESCAPES:
            return bytes((_ESCAPES[char],))
        if char and char in "01234567":
            char = ""
            self.pos -= 1
        digits = _DIGITS[char].match(self.text, self.pos) if char in _DIGITS else None
        if digits is not None:
            self.pos = digits.end()
            rune = int(digits[0], 16 if char else 8)
            if char in {"u", "U"} and rune <= 0x10FFFF:
                return chr(0xFFFD if 0xD800 <= rune <= 0xDFFF else rune).encode()
            if char in {"x", ""} and rune <= 0xFF:
                return bytes((rune,))
        raise self.error(
            "this escape is none of Go's", self.pos - 2, hint="a backslash in quotes is written \\\\"
        )


# --- matching -----------------------------------------------------------------------------------------------------


def _always(item: Item) -> bool:  # noqa: ARG001
    return True


def _any_of(matches: list[Match]) -> Match:
    if not matches or _always in matches:
        return _always
    if len(matches) == 1:
        return matches[0]
    return lambda item: any(match(item) for match in matches)


def _compile(text: str, selectors: Iterable[Selector]) -> Match:
    # What needs the payload decoded comes last: the order changes nothing else.
    ordered = sorted(selectors, key=lambda selector: selector.path[0] == "event")
    matches = [_condition(text, selector) for selector in ordered]
    if not matches:
        return _always
    if len(matches) == 1:
        return matches[0]
    return lambda item: all(match(item) for match in matches)


def _condition(text: str, selector: Selector) -> Match:
    get = _getter(selector.path)
    value = selector.value
    match selector.operator:
        case "==":
            return lambda item: get(item) == value
        case "!=":
            return lambda item: (get(item) or "") != value
        case "~=":
            try:
                search = compile_go(value).search
            except ValueError as exc:
                raise InvalidArgument(
                    f"invalid filter {text!r}: {value!r} is no regular expression of Go's: {exc}"
                ) from exc
            return lambda item: search(get(item) or "") is not None
    return lambda item: get(item) is not None


def _getter(path: tuple[str, ...]) -> Getter:
    # What follows a string field is ignored, as containerd does: topic.x is the topic.
    match path[0]:
        case "topic":
            return lambda item: item.topic or None
        case "namespace":
            return lambda item: item.namespace or None
        case "event" if len(path) > 1:
            rest = path[1:]
            return lambda item: _event_field(item.event if isinstance(item, EnvelopeView) else item, rest)
    return lambda item: None  # noqa: ARG005


def _event_field(event: Event, path: tuple[str, ...]) -> str | None:
    if isinstance(event, UnknownEvent) or path[0] not in event.__match_args__:
        return None
    value: Any = getattr(event, path[0])
    if isinstance(value, Mapping):
        label: str | None = value.get(".".join(path[1:]))
        return label
    if isinstance(value, str):
        return value or None
    if len(path) == 1:
        return None
    if isinstance(value, ContainerRuntime):
        return value.name or None if path[1] == "name" else None
    if isinstance(value, TaskIO):
        if path[1] == "terminal":
            return "true" if value.terminal else "false"
        return getattr(value, path[1], None) or None if path[1] in {"stdin", "stdout", "stderr"} else None
    return None
