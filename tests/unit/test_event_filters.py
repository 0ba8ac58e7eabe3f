"""Filters: read, refused, matched and built. That containerd decides alike is tested in tests/integration."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from containerd_aio import typeurl
from containerd_aio.api.containerd import events as wire
from containerd_aio.errors import ContainerdError, InvalidArgument
from containerd_aio.events.decode import EnvelopeView
from containerd_aio.events.filters import (
    Filter,
    FilterSet,
    all_of,
    field_differs,
    field_equals,
    field_matches,
    field_present,
)
from containerd_aio.events.model import (
    ContainerCreate,
    ContainerRuntime,
    ContainerUpdate,
    Event,
    ImageCreate,
    TaskCreate,
    TaskExit,
    TaskIO,
    UnknownEvent,
)

EXIT = TaskExit("web-1", "exec", 42, 137, topic="/tasks/exit", namespace="default")
CREATE = TaskCreate("web-1", "/run/b", io=TaskIO("in", terminal=True), topic="/tasks/create", namespace="default")  # fmt: skip
LABELLED = ContainerUpdate("c", labels={"tier": "front", "a.b": "", "containerd.io/gc.root": "yes", "": "no key"}, topic="/containers/update", namespace="k8s.io")  # fmt: skip
RUNTIME = ContainerCreate("c", "busybox", ContainerRuntime("runc", "t", b"v"), topic="/containers/create", namespace="default")  # fmt: skip
UNKNOWN = UnknownEvent("com.example.X", b"abc", topic="/x", namespace="default")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "operator", "value"),
    [
        ("topic", ["topic"], "", ""),
        ('topic=="/tasks/exit"', ["topic"], "==", "/tasks/exit"),
        ("  topic  !=  x", ["topic"], "!=", "x"),
        ("event. container_id==x", ["event", "container_id"], "==", "x"),
        ("9_x==sha256:ab", ["9_x"], "==", "sha256:ab"),
        ("topic~=/a,b/", ["topic"], "~=", "a,b"),
        (r"topic~=|a\|b|", ["topic"], "~=", "a|b"),
        (r"topic~=/a\/b/", ["topic"], "~=", "a/b"),
        (r'topic~="\\d+"', ["topic"], "~=", r"\d+"),
        (r"topic~=\d+", ["topic"], "~=", r"\d+"),
        ("topic=='x'", ["topic"], "==", "'x'"),
        ('topic==a"b/c=d', ["topic"], "==", 'a"b/c=d'),
        (r'labels."a \"b\" \\c"', ["labels", 'a "b" \\c'], "", ""),
        (r'x=="\a\b\f\n\r\t\v\\"', ["x"], "==", "\a\b\f\n\r\t\v\\"),
        (r'x=="\x41\102\u00e9\U0001F600\xc3\xa9"', ["x"], "==", "ABé😀é"),
        (r'x=="\ud800"', ["x"], "==", "\ufffd"),
        (r'x=="\xff"', ["x"], "==", "\udcff"),
        ('x==""', ["x"], "==", ""),
        ("x==é", ["x"], "==", "é"),
        ("x==\u200b", ["x"], "==", "\u200b"),
    ],
)
def test_read(text: str, path: list[str], operator: str, value: str) -> None:
    (selector,) = Filter.parse(text).selectors
    assert (list(selector.path), selector.operator, selector.value) == (path, operator, value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("topic==/tasks/exit", ["character 8", 'write topic=="/tasks/exit"']),
        ("topic!=|x|,namespace", ["character 8", 'write topic!="|x|"']),
        ("event.id==/a\\b", ['write event.id=="/a\\\\b"']),
        ("topic=x", ["no operator '='", "character 6", "topic==..."]),
        ("topic===x", ["no operator '==='", "== != ~="]),
        ("topic==", ["a value is expected behind ==", "its end", 'topic==""']),
        ("topic==,x", ["a value is expected", "character 8"]),
        ("namespace==.foo", ["can't begin with '.'", "character 12"]),
        ("namespace==a b", ["unexpected ' '", "character 13", "double quotes"]),
        ("topic~=/tasks/.+", ["unexpected '.'", "character 15", "double quotes"]),
        ("topic~=/tasks", ["the / is not closed", "character 8"]),
        (r"topic~=/\d/", ["escape", "character 9", "\\\\"]),
        (r'topic=="\400"', ["escape"]),
        (r'topic=="\U00110000"', ["escape"]),
        ('topic=="a\nb"', ["not closed"]),
        ("event.labels.a-b==x", ["an operator is expected", "character 15", 'labels."a-b"']),
        ("event.labels.a/b", ["an operator is expected", 'labels."a-b"']),
        ("event./a/", ["can't quote a field", "character 7"]),
        ("topic ", ["an operator is expected", "its end"]),
        ("topic,", ["a field is expected", "its end"]),
        (" ", ["a field is expected"]),
        ("a..b", ["a field is expected", "character 3"]),
        ("é", ["a field is expected", "character 1"]),
        ("x==\0", [r"'\x00' is not allowed", "character 4"]),
        ("x==\ufffd", ["is not allowed"]),
        ("x==a\ud800", ["is not allowed", "character 5"]),
        ("topic~=[bad", ["no regular expression of Go's", "a [ is not closed"]),
        ('topic~="(?<!x)y"', ["no regular expression of Go's", "RE2 has no lookaround"]),
    ],
)
def test_e3_what_is_wrong_is_said_with_place_and_cure(text: str, words: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Filter(text)
    assert isinstance(caught.value, ValueError)
    assert caught.value.method is None
    for word in [repr(text), *words]:
        assert word in str(caught.value)


@given(st.text(st.sampled_from('ab1_.,=!~"/|\\ \t\n-é\0\ufffd\ud800(['), max_size=25))
@example("")
def test_any_text_is_a_filter_or_an_invalid_argument(text: str) -> None:
    try:
        wanted = Filter(text)
    except ContainerdError as exc:
        assert isinstance(exc, InvalidArgument)  # noqa: PT017
        return
    for event in (EXIT, CREATE, LABELLED, RUNTIME, UNKNOWN):
        wanted.matches(event)


# --- matching -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "event", "matches"),
    [
        ("", EXIT, True),
        ('topic=="/tasks/exit"', EXIT, True),
        ('topic=="/tasks/exit"', CREATE, False),
        ("topic", Event(), False),
        ('topic==""', Event(), False),
        ('topic!=""', Event(), False),
        ("topic!=x", Event(), True),
        ("topic~=^$", Event(), True),
        ("topic.and.more~=exit", EXIT, True),
        ("namespace==default,event.container_id==web-1", EXIT, True),
        ("namespace==k8s,event.container_id==web-1", EXIT, False),
        ("event.container_id.and.more==web-1", EXIT, True),
        ("event", EXIT, False),
        ("event.pid", EXIT, False),
        ("event.pid!=42", EXIT, True),
        ("event.exit_status==137", EXIT, False),
        ("event.exited_at_ns", EXIT, False),
        ("event.topic", EXIT, False),
        ("event.encoded", EXIT, False),
        ("event.to_dict", EXIT, False),
        ("event.io", CREATE, False),
        ("event.io.stdin==in", CREATE, True),
        ("event.io.stdout", CREATE, False),
        ("event.io.terminal==true", CREATE, True),
        ("event.io.terminal", TaskCreate("c"), False),
        ("event.io.terminal==false", TaskCreate("c", io=TaskIO()), True),
        ("event.io.nothing", CREATE, False),
        ("event.rootfs", CREATE, False),
        ("event.runtime", RUNTIME, False),
        ("event.runtime.name==runc", RUNTIME, True),
        ("event.runtime.options", RUNTIME, False),
        ("event.runtime.options_type_url", RUNTIME, False),
        ("event.runtime.name", ContainerCreate("c"), False),
        ("event.labels.tier==front", LABELLED, True),
        ("event.labels.tier", ContainerUpdate("c"), False),
        ('event.labels=="no key"', LABELLED, True),
        ("event.labels.a.b", LABELLED, True),
        ('event.labels.a.b==""', LABELLED, True),
        ('event.labels."a.b"==""', LABELLED, True),
        ('event.labels.containerd."io/gc".root==yes', LABELLED, True),
        ("event.labels.none!=x", LABELLED, True),
        ('event.labels.none~=".*"', LABELLED, True),
        ("event.type_url", UNKNOWN, False),
        ("event.type_url!=x", UNKNOWN, True),
        ("timestamp", EXIT, False),
        ("nonsense~=^$", EXIT, True),
    ],
)
def test_matched(text: str, event: Event, matches: bool) -> None:
    assert Filter(text).matches(event) is matches


def test_one_of_several_filters_is_enough_and_none_is_all() -> None:
    assert FilterSet().matches(EXIT)
    assert FilterSet(["nonsense", ""]).matches(EXIT)
    assert FilterSet(["nonsense", "topic~=exit"]).matches(EXIT)
    assert not FilterSet(["nonsense", "topic~=oom"]).matches(EXIT)
    with pytest.raises(InvalidArgument, match="topic=x"):
        FilterSet(["topic", "topic=x"])
    with pytest.raises(InvalidArgument, match="list of filters"):
        FilterSet("topic")


def test_views_are_matched_and_payloads_decoded_only_when_asked_for() -> None:
    payload = typeurl.pack(wire.TaskExit(container_id="web-1"))
    view = EnvelopeView("default", "/tasks/exit", 0, payload.type_url, payload.value)
    assert not FilterSet(['event.container_id==web-1,topic=="/tasks/oom"', "namespace==x"]).matches(view)
    assert view._event is None
    assert Filter("event.container_id==web-1").matches(view)
    assert view._event is not None


# --- building -----------------------------------------------------------------------------------------------------


def test_built() -> None:
    assert field_equals("topic", "/tasks/exit") == 'topic=="/tasks/exit"'
    assert field_differs("namespace", 'a"b\\') == r'namespace!="a\"b\\"'
    assert field_matches("topic", r"^/tasks/\w+$") == r'topic~="^/tasks/\\w+$"'
    assert field_present("event.labels.containerd.io/gc.root") == 'event.labels.containerd."io/gc".root'
    assert all_of("topic", "", 'a=="b"') == 'topic,a=="b"'
    assert all_of() == ""


def test_what_can_not_be_built() -> None:
    with pytest.raises(InvalidArgument, match="path is empty"):
        field_present("")
    with pytest.raises(InvalidArgument, match="UTF-8"):
        field_equals("topic", "\ud800")
    with pytest.raises(InvalidArgument, match="a \\( is not closed"):
        field_matches("topic", "(")
    with pytest.raises(InvalidArgument, match="topic=x"):
        all_of("topic", "topic=x")


@given(texts, texts)
@example("", "")
@example("a..b", "\0\n\ufffd\x7f\u2028")
def test_what_is_built_is_read_and_matched(key: str, value: str) -> None:
    path = f"event.labels.{key}"
    event = ImageCreate("x", {key: value})
    assert Filter(field_equals(path, value)).selectors[0].value == value
    assert Filter(field_equals(path, value)).matches(event)
    assert not Filter(field_differs(path, value)).matches(event)
    assert Filter(field_present(path)).matches(event)
    assert Filter(all_of(field_present(path), field_equals(path, value))).matches(event)
    assert not Filter(field_present(path)).matches(ImageCreate("x", {key + "x": value}))
    assert not Filter(field_equals(path, value)).matches(ImageCreate("x", {key: value + "x"}))
