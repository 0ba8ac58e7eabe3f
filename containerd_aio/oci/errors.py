"""What can go wrong while a spec is made, beyond `InvalidArgument` for wrong values."""

from containerd_aio.errors import FailedPrecondition, InvalidArgument, NotFound


class NoUsersFound(NotFound):
    """No such user in the container's ``/etc/passwd`` (Go: ErrNoUsersFound)."""


class NoGroupsFound(NotFound):
    """No such group in the container's ``/etc/group`` (Go: ErrNoGroupsFound)."""


class NoShmMount(FailedPrecondition):
    """The spec has no tmpfs on ``/dev/shm`` whose size could be set (Go: ErrNoShmMount)."""


class NotADevice(InvalidArgument):
    """The path names something else than a device node (Go: ErrNotADevice)."""
