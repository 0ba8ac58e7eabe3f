"""Records: namespaces, containers, images, leases; their checks, filters and events."""

from __future__ import annotations

from typing import Any

import pytest

from containerd_aio.api.containerd.services.containers.v1 import (
    Container,
    ContainerRuntime,
    CreateContainerRequest,
    DeleteContainerRequest,
    GetContainerRequest,
    ListContainersRequest,
    UpdateContainerRequest,
)
from containerd_aio.api.containerd.services.images.v1 import (
    CreateImageRequest,
    DeleteImageRequest,
    GetImageRequest,
    Image,
    ListImagesRequest,
    UpdateImageRequest,
)
from containerd_aio.api.containerd.services.namespaces.v1 import (
    CreateNamespaceRequest,
    DeleteNamespaceRequest,
    GetNamespaceRequest,
    ListNamespacesRequest,
    Namespace,
    UpdateNamespaceRequest,
)
from containerd_aio.api.containerd.types import Descriptor
from containerd_aio.api.google.protobuf import Any as AnyMessage
from containerd_aio.api.google.protobuf import FieldMask
from tests.contract.backend import LONG_LABEL, Backend, refused

IDENTIFIER = "^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$"
SPEC = AnyMessage(type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=b"{}")
ONE = "sha256:" + "1" * 64
TWO = "sha256:" + "2" * 64
TARGET = Descriptor(media_type="m1", digest=ONE, size=10, annotations={"an": "no"})


def too_long(backend: Backend, what: str) -> tuple[str, str]:
    key = "k" * 10 if backend.release == "1.6" else "k" * 64
    size = "" if backend.release == "1.6" else "length (4200 bytes) "
    text = f"{what}: label key and value {size}greater than maximum size (4096 bytes), key: {key}"
    return "InvalidArgument", f"{text}: invalid argument"


# --- namespaces ---------------------------------------------------------------------------------------------------


async def test_namespaces(backend: Backend) -> None:
    namespaces, name = backend.client.services.namespaces, backend.id()
    async with backend.client.events("topic~=|^/namespaces/|", all_namespaces=True) as events:
        await namespaces.create(CreateNamespaceRequest(namespace=Namespace(name=name, labels={"k": "v"})))
        await namespaces.update(
            UpdateNamespaceRequest(namespace=Namespace(name=name, labels={"k": "w", "a": "b"}))
        )
        mask = FieldMask(paths=["labels.k", "labels.z"])
        changed = Namespace(name=name, labels={"k": "", "z": "1"})
        await namespaces.update(UpdateNamespaceRequest(namespace=changed, update_mask=mask))
        found = (await namespaces.get(GetNamespaceRequest(name=name))).namespace
        assert found is not None
        assert found.labels == {"a": "b", "z": "1"}
        listed = (await namespaces.list(ListNamespacesRequest(filter="name==nobody"))).namespaces
        assert found in listed
        await namespaces.delete(DeleteNamespaceRequest(name=name))
        seen: list[Any] = [await anext(events) for _ in range(4)]
    caller = backend.client.namespace if backend.release == "1.6" else name
    assert [(event.topic, event.namespace, event.name) for event in seen] == [
        ("/namespaces/create", caller, name),
        ("/namespaces/update", caller, name),
        ("/namespaces/update", caller, name),
        ("/namespaces/delete", name, name),
    ]
    assert [dict(event.labels) for event in seen[:3]] == [
        {"k": "v"},
        {"k": "w", "a": "b"},
        {"k": "", "z": "1"},
    ]


async def test_what_namespaces_refuse(backend: Backend) -> None:
    namespaces, name = backend.client.services.namespaces, backend.id()

    def create(name: str, **labels: str) -> Any:
        return namespaces.create(CreateNamespaceRequest(namespace=Namespace(name=name, labels=labels)))

    unknown = (await namespaces.get(GetNamespaceRequest(name=name))).namespace
    assert unknown == Namespace(name=name)
    await create(name)
    assert await refused(create(name)) == ("AlreadyExists", f'namespace "{name}": already exists')
    assert await refused(create("")) == (
        "InvalidArgument",
        "identifier must not be empty: invalid argument",
    )
    assert await refused(create("bad name")) == (
        "InvalidArgument",
        f'identifier "bad name" must match {IDENTIFIER}: invalid argument',
    )
    assert await refused(create(backend.id(), **LONG_LABEL)) == too_long(backend, "namespace.Labels")
    for path in ("name", "labels"):
        update = UpdateNamespaceRequest(namespace=Namespace(name=name), update_mask=FieldMask(paths=[path]))
        assert await refused(namespaces.update(update)) == (
            "InvalidArgument",
            f'cannot update "{path}" field',
        )
    assert await refused(namespaces.delete(DeleteNamespaceRequest(name="nobody"))) == (
        "NotFound",
        'namespace "nobody": not found',
    )
    inside = backend.client.namespaced(name).services
    await inside.containers.create(CreateContainerRequest(container=_container("x")))
    await inside.images.create(CreateImageRequest(image=Image(name="i", target=TARGET)))
    assert await refused(namespaces.delete(DeleteNamespaceRequest(name=name))) == (
        "FailedPrecondition",
        f'namespace "{name}" must be empty, but it still has images, containers: failed precondition',
    )
    await inside.containers.delete(DeleteContainerRequest(id="x"))
    await inside.images.delete(DeleteImageRequest(name="i"))
    await namespaces.delete(DeleteNamespaceRequest(name=name))


# --- containers ---------------------------------------------------------------------------------------------------


def _container(name: str, **fields: Any) -> Container:
    fields.setdefault("runtime", ContainerRuntime(name="io.containerd.runc.v2"))
    fields.setdefault("spec", SPEC)
    return Container(id=name, **fields)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"name": ""}, "container.ID: identifier must not be empty"),
        ({"name": "bad id"}, f'container.ID: identifier "bad id" must match {IDENTIFIER}'),
        (
            {"name": "a" * 77},
            f'container.ID: identifier "{"a" * 77}" greater than maximum length (76 characters)',
        ),
        ({"runtime": ContainerRuntime()}, "container.Runtime.Name must be set"),
        ({"runtime": None}, "container.Runtime.Name must be set"),
        ({"extensions": {"": SPEC}}, "container.Extension keys must not be zero-length"),
        ({"snapshot_key": "k"}, "container.Snapshotter must be set if container.SnapshotKey is set"),
    ],
)
async def test_containers_are_checked(backend: Backend, fields: dict[str, Any], fault: str) -> None:
    container = _container(**{"name": "checked"} | fields)
    call = backend.client.services.containers.create(CreateContainerRequest(container=container))
    expected = f"create container failed validation: {fault}: invalid argument"
    assert await refused(call) == ("InvalidArgument", expected)


async def test_containers(backend: Backend) -> None:
    containers, name = backend.client.services.containers, backend.id()
    async with backend.client.events("topic~=|^/containers/|") as events:
        wanted = _container(name, labels={"a": "b"}, image="img", extensions={"e": SPEC})
        made = (await containers.create(CreateContainerRequest(container=wanted))).container
        assert made is not None
        assert made.created_at == made.updated_at
        assert (made.labels, made.extensions) == ({"a": "b"}, {"e": SPEC})
        assert (await containers.get(GetContainerRequest(id=name))).container == made
        assert await refused(containers.create(CreateContainerRequest(container=wanted))) == (
            "AlreadyExists",
            f'container "{name}": already exists',
        )
        missing = ("NotFound", f'container "nobody" in namespace "{backend.client.namespace}": not found')
        assert await refused(containers.get(GetContainerRequest(id="nobody"))) == missing
        await containers.delete(DeleteContainerRequest(id=name))
        assert await refused(containers.delete(DeleteContainerRequest(id=name))) == (
            "NotFound",
            f"container {name}: not found",
        )
        create: Any = await anext(events)
        delete: Any = await anext(events)
    assert (create.topic, create.id, create.image) == ("/containers/create", name, "img")
    assert create.runtime.name == "io.containerd.runc.v2"
    assert (delete.topic, delete.id) == ("/containers/delete", name)


async def test_a_container_without_a_spec(backend: Backend) -> None:
    containers, name = backend.client.services.containers, backend.id()
    call = containers.create(CreateContainerRequest(container=_container(name, spec=None)))
    if backend.release == "1.6":
        text = "create container failed validation: container.Spec must be set: invalid argument"
        assert await refused(call) == ("InvalidArgument", text)
    else:
        await call
        await containers.delete(DeleteContainerRequest(id=name))


async def test_updates_of_containers(backend: Backend) -> None:
    containers, name = backend.client.services.containers, backend.id()
    await containers.create(CreateContainerRequest(container=_container(name, labels={"a": "b"})))

    def update(paths: list[str] | None, **fields: Any) -> Any:
        mask = None if paths is None else FieldMask(paths=paths)
        return containers.update(
            UpdateContainerRequest(container=_container(name, **fields), update_mask=mask)
        )

    async def updated(paths: list[str], **fields: Any) -> Container:
        reply: Container = (await update(paths, **fields)).container
        return reply

    async with backend.client.events('topic=="/containers/update"') as events:
        assert (await updated(["labels"], labels={"x": "y"})).labels == {"x": "y"}
        event: Any = await anext(events)
        assert (event.id, dict(event.labels), event.snapshot_key) == (name, {"x": "y"}, "")
        assert (await updated(["labels.q.r/s"], labels={"q.r/s": "1"})).labels == {"x": "y", "q.r/s": "1"}
        assert (await updated(["labels.x"], labels={"x": ""})).labels == {"q.r/s": "1"}
        assert (await updated(["image"], image="img")).image == "img"
        assert (await updated(["extensions.f"], extensions={"f": SPEC})).extensions == {"f": SPEC}
        other = AnyMessage(type_url="other", value=b"{}")
        changed = await updated(["spec"], spec=other)
        assert (changed.spec, changed.image, changed.extensions) == (other, "img", {"f": SPEC})
        whole = (await update(None, labels={"n": "1"})).container
        assert (whole.labels, whole.image, whole.extensions, whole.spec) == ({"n": "1"}, "", {}, SPEC)
    refusals: list[tuple[list[str] | None, dict[str, Any], str]] = [
        (["runtime"], {}, f'cannot update "runtime" field on "{name}"'),
        (["bogus"], {}, f'cannot update "bogus" field on "{name}"'),
        (["snapshot_key"], {}, f'cannot update "snapshot_key" field on "{name}"'),
        (None, {"runtime": ContainerRuntime(name="other")}, "container.Runtime.Name field is immutable"),
        (None, {"snapshotter": "native"}, "container.Snapshotter field is immutable"),
        (
            ["snapshotkey"],
            {"snapshot_key": "k"},
            "update failed validation: container.Snapshotter must be set if container.SnapshotKey is set",
        ),
    ]
    for paths, fields, text in refusals:
        assert await refused(update(paths, **fields)) == ("InvalidArgument", f"{text}: invalid argument")
    text = "update failed validation: containers.Labels"
    assert await refused(update(["labels"], labels=LONG_LABEL)) == too_long(backend, text)
    nobody = UpdateContainerRequest(container=_container("nobody"))
    assert await refused(containers.update(nobody)) == ("NotFound", 'container "nobody": not found')
    nameless = UpdateContainerRequest(container=_container(""))
    assert await refused(containers.update(nameless)) == ("InvalidArgument", "Container.ID required")
    await containers.delete(DeleteContainerRequest(id=name))


async def test_filters_of_containers(backend: Backend) -> None:
    containers, name = backend.client.services.containers, backend.id()
    plain = backend.id()
    await containers.create(
        CreateContainerRequest(container=_container(name, labels={"a.b/c": "1"}, image="img"))
    )
    await containers.create(CreateContainerRequest(container=_container(plain)))
    for text, expected in [
        (f"id=={name}", {name}),
        (f"id!={name}", {plain}),
        (f"id~=^{name}$", {name}),
        ("id~=[bad", set()),
        ("image", {name}),
        ('image!=""', {name}),
        ('labels."a.b/c"==1', {name}),
        ('labels."a.b/c"', {name}),
        ("labels.nope", set()),
        ("runtime.name==io.containerd.runc.v2", {name, plain}),
        ("foo==1", set()),
        ("snapshotter==overlayfs", set()),
        ("", {name, plain}),
    ]:
        request = ListContainersRequest(filters=[text])
        listed = {container.id for container in (await containers.list(request)).containers}
        assert listed & {name, plain} == expected, text
        streamed = {
            message.container.id async for message in containers.list_stream(request) if message.container
        }
        assert streamed == listed
    for bad in ["id=x", "id==/x", "bad id", "id==a b", "~x", "id=="]:
        class_name, text = await refused(containers.list(ListContainersRequest(filters=[bad])))
        assert class_name == "InvalidArgument"
        assert text.startswith("filters: parse error: [")
        assert text.endswith(": invalid argument: invalid argument")
    for each in (name, plain):
        await containers.delete(DeleteContainerRequest(id=each))


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        (Descriptor(), 'Target.Digest "" invalid: invalid checksum digest format'),
        (
            Descriptor(media_type="x", digest="no", size=1),
            'Target.Digest "no" invalid: invalid checksum digest format',
        ),
        (Descriptor(media_type="x", digest=ONE), "Target.Size must be greater than zero"),
        (Descriptor(digest=ONE, size=3), "Target.MediaType must be set"),
    ],
)
async def test_images_are_checked(backend: Backend, target: Descriptor, fault: str) -> None:
    images = backend.client.services.images
    call = images.create(CreateImageRequest(image=Image(name="checked", target=target)))
    assert await refused(call) == ("InvalidArgument", f"{fault}: invalid argument")


async def test_images(backend: Backend) -> None:
    images, name = backend.client.services.images, f"any name at all! {backend.id()}"
    async with backend.client.events("topic~=|^/images/|") as events:
        wanted = Image(name=name, target=TARGET, labels={"a": "b"})
        made = (await images.create(CreateImageRequest(image=wanted))).image
        assert (await images.get(GetImageRequest(name=name))).image == made
        assert await refused(images.create(CreateImageRequest(image=wanted))) == (
            "AlreadyExists",
            f'image "{name}": already exists',
        )

        async def updated(paths: list[str] | None, **fields: Any) -> Image:
            mask = None if paths is None else FieldMask(paths=paths)
            image = Image(**{"name": name, "target": TARGET, **fields})
            reply = (await images.update(UpdateImageRequest(image=image, update_mask=mask))).image
            assert reply is not None
            return reply

        assert (await updated(["labels"], labels={"x": "y"})).labels == {"x": "y"}
        assert (await updated(["labels.q"], labels={"q": "1", "x": ""})).labels == {"x": "y", "q": "1"}
        other = Descriptor(media_type="m2", digest=TWO, size=20)
        changed = await updated(["target"], target=other)
        assert (changed.target, changed.labels) == (other, {"x": "y", "q": "1"})
        whole = await updated(None, labels={"n": "1"})
        assert (whole.target, whole.labels) == (TARGET, {"n": "1"})
        for path in ("bogus", "name"):
            text = f'cannot update "{path}" field on image "{name}": invalid argument'
            assert await refused(updated([path])) == ("InvalidArgument", text)
        await images.delete(DeleteImageRequest(name=name))
        seen: list[Any] = [await anext(events) for _ in range(6)]
    assert [event.topic.rpartition("/")[2] for event in seen] == ["create", *["update"] * 4, "delete"]
    assert dict(seen[0].labels) == {"a": "b"}
    missing = ("NotFound", f'image "{name}": not found')
    assert await refused(images.get(GetImageRequest(name=name))) == missing
    assert await refused(images.delete(DeleteImageRequest(name=name))) == missing
    update = UpdateImageRequest(image=Image(name=name, target=TARGET))
    assert await refused(images.update(update)) == missing
    nameless = Image(target=TARGET)
    assert await refused(images.create(CreateImageRequest(image=nameless))) == (
        "InvalidArgument",
        "Image.Name required",
    )
    long = Image(name="long", target=TARGET, labels=LONG_LABEL)
    assert await refused(images.create(CreateImageRequest(image=long))) == too_long(backend, "image.Labels")


async def test_filters_of_images(backend: Backend) -> None:
    images, name = backend.client.services.images, backend.id()
    await images.create(CreateImageRequest(image=Image(name=name, target=TARGET, labels={"full": "1"})))
    for text, found in [
        (f"name=={name}", True),
        (f"target.digest=={ONE}", True),
        ("target.mediatype==m1", True),
        ("labels.full==1", True),
        ("annotations.an==no", True),
        ("size==10", False),
        ("name~=[bad", False),
    ]:
        listed = (await images.list(ListImagesRequest(filters=[text]))).images
        assert (name in [image.name for image in listed]) == found, text
    class_name, text = await refused(images.list(ListImagesRequest(filters=["name=x"])))
    assert class_name == "InvalidArgument"
    assert text.startswith("filters: parse error: [")
    await images.delete(DeleteImageRequest(name=name))


async def test_deleting_an_image_by_its_target(backend: Backend) -> None:
    images, name = backend.client.services.images, backend.id()
    await images.create(CreateImageRequest(image=Image(name=name, target=TARGET)))
    other = DeleteImageRequest(name=name, target=Descriptor(digest=TWO))
    if backend.release == "2.1":
        assert await refused(images.delete(other)) == (
            "NotFound",
            f'image "{name}" has target {ONE}, not {TWO}: not found',
        )
        await images.delete(DeleteImageRequest(name=name, target=TARGET))
    else:  # it is not looked at
        await images.delete(other)
    assert await refused(images.get(GetImageRequest(name=name))) == ("NotFound", f'image "{name}": not found')
