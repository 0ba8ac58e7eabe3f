"""One transfer by the daemon, and the streams that go with it: progress, credentials, bytes."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import anyio

from containerd_aio.api.containerd.types.transfer import AuthRequest, AuthResponse, AuthType
from containerd_aio.api.containerd.types.transfer import Progress as RawProgress
from containerd_aio.distribution._leases import own_lease
from containerd_aio.distribution.keychain import find_credentials
from containerd_aio.distribution.progress import Action, ProgressEvent
from containerd_aio.distribution.reference import parse_familiar
from containerd_aio.services.content import ContentStore
from containerd_aio.services.descriptor import Descriptor
from containerd_aio.services.streaming import NamedStream, open_stream
from containerd_aio.services.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from containerd_aio.distribution.keychain import Credentials, Keychain
    from containerd_aio.distribution.progress import ProgressCallback
    from containerd_aio.services.stubs import Services
    from containerd_aio.services.transfer import Place

# The daemon's words for what it is doing are meant for people and change between releases: what is not here is passed on
# as it is.
_ACTIONS = {
    "waiting": Action.WAITING,
    "resolving": Action.RESOLVING,
    "fetching": Action.DOWNLOADING,
    "downloading": Action.DOWNLOADING,
    "uploading": Action.UPLOADING,
    "pushing": Action.UPLOADING,
    "extracting": Action.UNPACKING,
    "extracted": Action.UNPACKED,
    "exporting": Action.WRITING,
    "already exists": Action.EXISTS,
    "complete": Action.DONE,
    "done": Action.DONE,
    "saved": Action.DONE,
}

_NOTHING = "sha256:" + "0" * 64


class TransferSession:
    """What surrounds one transfer; made by `transfer_session`."""

    def __init__(self, services: Services, streams: AsyncExitStack, group: anyio.abc.TaskGroup) -> None:
        self._services = services
        self._streams = streams
        self._group = group
        self._progress = ""

    async def stream(self) -> NamedStream:
        """Open a stream until the end of the session.

        Raises:
            Unimplemented: The daemon has no streams (containerd 1.6).
        """
        return await self._streams.enter_async_context(open_stream(self._services))

    async def report_to(self, progress: ProgressCallback) -> None:
        """Have each step that the daemon tells given to `progress`."""
        stream = await self.stream()
        self._progress = stream.name
        self._group.start_soon(_report, stream, progress)

    async def answer_from(self, keychain: Keychain) -> str:
        """Have the daemon's questions for credentials answered; return the name of the stream for it."""
        stream = await self.stream()
        self._group.start_soon(_answer, stream, keychain)
        return stream.name

    async def run(self, source: Place, destination: Place) -> None:
        """Do the transfer; see `Transfer.transfer`."""
        await Transfer(self._services).transfer(source, destination, progress_stream=self._progress)
        if self._progress:
            # The last steps come on another connection than the answer to the call; they were sent before the answer to
            # this one, which comes on the same.
            await ContentStore(self._services).exists(_NOTHING)

    async def run_beside(
        self, source: Place, destination: Place, work: Callable[[], Awaitable[object]], *, finish: bool
    ) -> None:
        """Do the transfer while `work` runs; if `finish`, wait for it as well, else cancel it then."""
        async with anyio.create_task_group() as group:

            async def beside() -> None:
                await work()

            group.start_soon(beside)
            await self.run(source, destination)
            if not finish:
                group.cancel_scope.cancel()


@asynccontextmanager
async def transfer_session(
    services: Services, progress: ProgressCallback | None
) -> AsyncGenerator[TransferSession, None]:
    """Surround one transfer: a lease, and streams that end with the block.

    Raises:
        Unimplemented: The daemon has no streams (containerd 1.6).
    """
    try:
        async with own_lease(services), AsyncExitStack() as streams, anyio.create_task_group() as group:
            session = TransferSession(services, streams, group)
            if progress is not None:
                await session.report_to(progress)
            yield session
            group.cancel_scope.cancel()
    except ExceptionGroup as exc:
        raise _first(exc) from None


def _first(error: ExceptionGroup[Exception]) -> Exception:
    """Return the error that made the others: tasks of a group that are cancelled raise nothing."""
    found: Exception = error
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found


async def _report(stream: NamedStream, progress: ProgressCallback) -> None:
    async with aclosing(stream.messages()) as messages:
        async for message in messages:
            if isinstance(message, RawProgress):
                progress(_event(message))


def _event(raw: RawProgress) -> ProgressEvent:
    target = None if raw.desc is None else Descriptor.from_raw(raw.desc)
    action = _ACTIONS.get(raw.event.lower(), Action.OTHER)
    name = target.digest if target is not None and target.digest else raw.name
    return ProgressEvent(action, name, raw.progress, raw.total, target, raw.event)


async def _answer(stream: NamedStream, keychain: Keychain) -> None:
    async with aclosing(stream.messages()) as messages:
        async for message in messages:
            if isinstance(message, AuthRequest):
                # For the host that asks, which may be a mirror or a token server of somebody else.
                repository = parse_familiar(message.reference).repository
                found = await find_credentials(keychain, message.host, repository)
                await stream.send(_response(found))


def _response(credentials: Credentials | None) -> AuthResponse:
    if credentials is None:
        return AuthResponse(auth_type=AuthType.NONE)
    if credentials.bearer:
        return AuthResponse(auth_type=AuthType.HEADER, secret=f"Bearer {credentials.bearer}")
    kind = AuthType.CREDENTIALS if credentials.username else AuthType.REFRESH
    return AuthResponse(auth_type=kind, secret=credentials.secret, username=credentials.username)
