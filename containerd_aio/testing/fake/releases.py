"""What differs between the containerd releases that the fake can stand for.

Everything here was observed on the real daemons; `tests/contract` asks both for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from containerd_aio.errors import InvalidArgument

ReleaseName = Literal["1.6", "1.7", "2.1"]
"""A release line that the fake can stand for."""


@dataclass(frozen=True, slots=True)
class Release:
    """The behaviour of one release line.

    Attributes:
        name: The line, such as ``1.7``.
        version: What Version.Version says.
        revision: What Version.Version says.
        shim_suffix: What is appended to the texts of errors that come from the shim.
        keeps_dead_tasks: A task whose process ended, or ended while the daemon was down, is still known after a restart
            of the daemon; later lines forget it without a word.
        exit_before_delete: Deleting a task that was never started publishes TaskExit first, then TaskDelete.
        spec_required: A container needs a spec.
        own_namespace_events: Events about a namespace are published in that namespace, not in the caller's.
        snapshotter_in_events: Snapshot events name the snapshotter.
        content_create_event: Committing content publishes ``/content/create``.
        image_delete_target: Images.Delete heeds its target.
        image_leases: Leases can hold images.
        long_label_errors: A label that is too long is described with its length and 64 characters of its key.
        forward_needs_time: Events.Forward refuses envelopes without a timestamp.
        tells_pid: Introspection.Server tells the pid.
        plugin_info: Introspection.PluginInfo is served.
        exec_needs_running: Starting an exec of a stopped container is refused by the daemon, not by runc.
    """

    name: ReleaseName
    version: str
    revision: str
    shim_suffix: str = ""
    keeps_dead_tasks: bool = False
    exit_before_delete: bool = False
    spec_required: bool = False
    own_namespace_events: bool = True
    snapshotter_in_events: bool = True
    content_create_event: bool = False
    image_delete_target: bool = False
    image_leases: bool = False
    long_label_errors: bool = True
    forward_needs_time: bool = False
    tells_pid: bool = True
    plugin_info: bool = False
    exec_needs_running: bool = True


RELEASES: Final[dict[str, Release]] = {
    "1.6": Release(
        name="1.6",
        version="1.6.20",
        revision="fake",
        shim_suffix=": unknown",
        keeps_dead_tasks=True,
        exit_before_delete=True,
        spec_required=True,
        own_namespace_events=False,
        snapshotter_in_events=False,
        long_label_errors=False,
        forward_needs_time=True,
        tells_pid=False,
        exec_needs_running=False,
    ),
    "1.7": Release(name="1.7", version="1.7.24", revision="fake", shim_suffix=": unknown"),
    "2.1": Release(
        name="2.1",
        version="2.1.9",
        revision="fake",
        content_create_event=True,
        image_delete_target=True,
        image_leases=True,
        plugin_info=True,
    ),
}
"""The release lines by their names."""


def release_of(name: str) -> Release:
    """Return the release line of that name.

    Raises:
        InvalidArgument: The fake does not know it.
    """
    if name not in RELEASES:
        raise InvalidArgument(f"release {name!r} is not one of {', '.join(RELEASES)}")
    return RELEASES[name]
