"""Our .proto files state the same facts as Debian's copy of containerd's, and a wrong fact is noticed.

Facts are compared as compiled descriptors: packages, services, calls, streaming, messages, field names, numbers,
types, labels, enum values, reserved numbers. Comments, file names and options for other languages are not facts.
"""

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import grpc_tools
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

REPOSITORY = Path(__file__).resolve().parents[2]
PROTO = REPOSITORY / "proto"
GOOGLE = Path(grpc_tools.__file__).parent / "_proto"
FOLDERS = ("github.com/containerd/containerd/api", "github.com/containerd/cgroups/v3")

#: Packages that only shims speak, over ttrpc: no daemon serves them to a gRPC client.
SHIM_PACKAGES = {
    "containerd.runtime.sandbox.v1",
    "containerd.services.events.ttrpc.v1",
    "containerd.task.v2",
    "containerd.task.v3",
}
#: Options that tell a Go code generator which accessors to write.
GO_OPTIONS = {"extension containerd.types.fieldpath", "extension containerd.types.fieldpath_all"}
#: What the API uses and other projects define: not in the reference.
FOREIGN_PACKAGES = ("google.", "grpc.")

Field: TypeAlias = descriptor_pb2.FieldDescriptorProto


def compiled(include: list[Path], sources: list[str], out: Path) -> descriptor_pb2.FileDescriptorSet:
    """Compile .proto files together with what they import."""
    paths = [f"-I{path}" for path in [*include, GOOGLE]]
    assert protoc.main(["", *paths, "--include_imports", f"-o{out}", *sources]) == 0
    return descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())


def field_fact(field: Field, oneofs: list[str]) -> str:
    label = Field.Label.Name(field.label).removeprefix("LABEL_").lower()
    kind = Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    oneof = f" oneof {oneofs[field.oneof_index]}" if field.HasField("oneof_index") else ""
    explicit = " explicit presence" if field.proto3_optional else ""
    packing = f" packed={field.options.packed}" if field.options.HasField("packed") else ""
    return (
        f"{label} {kind} {field.type_name} = {field.number} json {field.json_name}{oneof}{explicit}{packing}"
    )


def message_facts(scope: str, message: descriptor_pb2.DescriptorProto) -> dict[str, str]:
    name = f"{scope}.{message.name}"
    reserved = [*((span.start, span.end) for span in message.reserved_range), *message.reserved_name]
    facts = {f"message {name}": f"map entry {message.options.map_entry} reserved {reserved}"}
    oneofs = [oneof.name for oneof in message.oneof_decl]
    facts |= {f"field {name}.{field.name}": field_fact(field, oneofs) for field in message.field}
    for enum in message.enum_type:
        facts |= enum_facts(name, enum)
    for nested in message.nested_type:
        facts |= message_facts(name, nested)
    return facts


def enum_facts(scope: str, enum: descriptor_pb2.EnumDescriptorProto) -> dict[str, str]:
    name = f"{scope}.{enum.name}"
    facts = {f"enum {name}": f"aliases {enum.options.allow_alias}"}
    return facts | {f"value {name}.{value.name}": str(value.number) for value in enum.value}


def service_facts(scope: str, service: descriptor_pb2.ServiceDescriptorProto) -> dict[str, str]:
    name = f"{scope}.{service.name}"
    facts = {f"service {name}": ""}
    for rpc in service.method:
        sends = "stream " if rpc.client_streaming else ""
        returns = "stream " if rpc.server_streaming else ""
        facts[f"rpc {name}.{rpc.name}"] = f"{sends}{rpc.input_type} -> {returns}{rpc.output_type}"
    return facts


def facts_of(files: descriptor_pb2.FileDescriptorSet) -> dict[str, str]:
    """Return every fact of the API as name -> statement."""
    facts: dict[str, str] = {}
    for file in files.file:
        if file.package.startswith(FOREIGN_PACKAGES) or file.package in SHIM_PACKAGES:
            continue
        facts |= {f"package {file.package}": file.syntax}
        for service in file.service:
            facts |= service_facts(file.package, service)
        for message in file.message_type:
            facts |= message_facts(file.package, message)
        for enum in file.enum_type:
            facts |= enum_facts(file.package, enum)
        facts |= {f"extension {file.package}.{field.name}": field_fact(field, []) for field in file.extension}
    return facts


def differences(ours: dict[str, str], reference: dict[str, str]) -> list[str]:
    """Say what is missing, too much or stated otherwise in ours."""
    return [
        f"{name}: ours says {ours.get(name, 'nothing')!r}, the reference {reference.get(name, 'nothing')!r}"
        for name in sorted(ours.keys() | reference.keys())
        if ours.get(name) != reference.get(name)
    ]


def our_facts(proto: Path, work: Path) -> dict[str, str]:
    sources = sorted(str(path.relative_to(proto)) for path in proto.rglob("*.proto"))
    return facts_of(compiled([proto], sources, work / "ours.binpb"))


@pytest.fixture(scope="module")
def reference_folder() -> Path:
    """Where Debian's .proto files are; without them there is nothing to compare with, which CI does not accept."""
    given = os.environ.get("CONTAINERD_AIO_REFERENCE_PROTOS")
    if given:
        return Path(given)
    script = REPOSITORY / "scripts" / "testbed.py"
    done = subprocess.run(
        [sys.executable, script, "reference-protos"], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return Path(done.stdout.splitlines()[-1])
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"the reference is not to be had: {done.stderr}")
    pytest.skip(f"the reference is not to be had: {done.stderr}")


@pytest.fixture(scope="module")
def reference_files(
    reference_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> descriptor_pb2.FileDescriptorSet:
    sources = sorted(
        str(path.relative_to(reference_folder))
        for folder in FOLDERS
        for path in (reference_folder / folder).rglob("*.proto")
    )
    # The package leaves google/rpc/status.proto to others; ours stands in, and is not compared.
    return compiled(
        [reference_folder, PROTO], sources, tmp_path_factory.mktemp("reference") / "reference.binpb"
    )


@pytest.fixture(scope="module")
def reference(reference_files: descriptor_pb2.FileDescriptorSet) -> dict[str, str]:
    return {name: fact for name, fact in facts_of(reference_files).items() if name not in GO_OPTIONS}


def test_nothing_differs_and_nothing_is_missing(reference: dict[str, str], tmp_path: Path) -> None:
    ours = our_facts(PROTO, tmp_path)
    assert differences(ours, reference) == []
    # An empty comparison would be equal, too.
    count = Counter(name.partition(" ")[0] for name in ours)
    assert (count["service"], count["rpc"]) == (15, 83)
    assert count["message"] > 250
    assert count["field"] > 700


def test_what_is_left_out_is_there_to_be_left_out(reference_files: descriptor_pb2.FileDescriptorSet) -> None:
    assert {file.package for file in reference_files.file} >= SHIM_PACKAGES
    assert facts_of(reference_files).keys() >= GO_OPTIONS


MUTATIONS = [
    ("services/tasks/v1/tasks.proto", "uint32 signal = 3;", "uint32 signal = 30;", "KillRequest.signal"),
    ("services/tasks/v1/tasks.proto", "uint32 signal = 3;", "int32 signal = 3;", "KillRequest.signal"),
    ("services/tasks/v1/tasks.proto", "uint32 signal = 3;", "uint32 signo = 3;", "KillRequest.signo"),
    ("services/tasks/v1/tasks.proto", "bool all = 4;", "", "KillRequest.all"),
    ("services/tasks/v1/tasks.proto", "bool all = 4;", "bool all = 4; bool more = 5;", "KillRequest.more"),
    (
        "services/tasks/v1/tasks.proto",
        "repeated containerd.types.Mount",
        "containerd.types.Mount",
        "Request.rootfs",
    ),
    ("services/tasks/v1/tasks.proto", "map<string, string>", "map<string, bytes>", "AnnotationsEntry.value"),
    ("services/tasks/v1/tasks.proto", "rpc Wait(", "rpc Await(", "Tasks.Wait"),
    ("services/tasks/v1/tasks.proto", "returns (WaitResponse)", "returns (GetResponse)", "Tasks.Wait"),
    ("services/tasks/v1/tasks.proto", "message ExecProcessResponse {}", "", "ExecProcessResponse"),
    ("services/events/v1/events.proto", "returns (stream ", "returns (", "Events.Subscribe"),
    ("services/content/v1/content.proto", "Write(stream ", "Write(", "Content.Write"),
    ("services/images/v1/images.proto", "optional containerd", "containerd", "DeleteImageRequest.target"),
    (
        "services/images/v1/events.proto",
        "package containerd.services.images.v1;",
        "package containerd.events;",
        "ImageCreate",
    ),
    ("services/sandbox/v1/sandbox.proto", "service Store {", "service Stores {", "sandbox.v1.Store"),
    ("v1/types/task.proto", "PAUSED = 4;", "PAUSED = 6;", "Status.PAUSED"),
    ("v1/types/task.proto", "PAUSING = 5;", "", "Status.PAUSING"),
    ("runc/v1/options.proto", "reserved 8;", "", "runc.v1.Options"),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation[1]} {mutation[2]}")
def test_an_altered_fact_is_noticed(
    mutation: tuple[str, ...], reference: dict[str, str], tmp_path: Path
) -> None:
    file, old, new, named = mutation
    proto = tmp_path / "proto"
    shutil.copytree(PROTO, proto)
    path = proto / "containerd" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found = differences(our_facts(proto, tmp_path), reference)
    assert any(re.search(rf"{re.escape(named)}\b", line) for line in found), found


def test_the_readme_names_the_release_that_was_compared(reference_folder: Path) -> None:
    package = "golang-github-containerd-containerd-api-dev"
    changelog = reference_folder.parents[1] / "doc" / package / "changelog.Debian.gz"
    if not changelog.is_file():
        pytest.skip("a reference of one's own, without Debian's changelog")
    found = re.match(r"containerd \(([\d.]+)", gzip.decompress(changelog.read_bytes()).decode())
    assert found
    assert f"containerd {found[1]}" in (PROTO / "README.md").read_text()
