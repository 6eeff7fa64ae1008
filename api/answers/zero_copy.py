"""HTTP/1.1 as uvicorn speaks it, and the ASGI extension `http.response.zerocopysend`, which uvicorn lacks: the kernel
sends a part of a file, and its bytes never come into this process. Not over TLS. http_protocol.py says when it is used.

asyncio's own `loop.sendfile` would send from the event loop's thread, where a disk that is slow, or eight clients that
are fast, hold up every other request. Here threads send, in turns; a client that is slow holds none.
"""

import asyncio
import errno
import os
import select
import time
from typing import Any, cast

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.answers.bounded_threads import BoundedThreads
from api.answers.http_protocol import EXTENSION

# More would only take processors from each other, and from the event loop.
SENDING = BoundedThreads("zero-copy", max(2, os.cpu_count() or 1))
NO_SENDFILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})  # of file systems that cannot
COPIED_BYTES = 1 << 18
CALL_BYTES = 1 << 20  # unbounded calls held up other requests: 99 % of status answers in 80 ms instead of 50
TURN_SECONDS = 0.05
PATIENCE_MILLISECONDS = 5


class ZeroCopyProtocol(H11Protocol):
    """A connection. A client that has left is a ConnectionResetError of `send`."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._application = self.app
        self.app = self._offer
        self._wake = asyncio.Event()  # the socket takes more, or the client has left

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._wake.set()

    async def _offer(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle = self.cycle

        async def send_or_copy(message: Message) -> None:
            if message["type"] == EXTENSION:
                await self._answer(cycle, message)
            else:
                await send(message)

        if self.scheme == "http" and hasattr(os, "sendfile"):
            scope["extensions"] = {EXTENSION: {}}
        await self._application(scope, receive, send_or_copy)

    async def _answer(self, cycle: RequestResponseCycle, message: Message) -> None:
        file = message["file"].fileno()
        offset = message["offset"] if "offset" in message else os.lseek(file, 0, os.SEEK_CUR)
        count = message["count"] if "count" in message else os.fstat(file).st_size - offset
        part = cast(bytes, _Part(count))
        self._refuse_gone(cycle)
        for piece in self.conn.send_with_data_passthrough(h11.Data(data=part)) or []:
            if piece is part:
                await self._send_part(cycle, file, offset, count)
            else:
                self.transport.write(piece)
        if not message.get("more_body", False):
            await cycle.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_part(self, cycle: RequestResponseCycle, file: int, offset: int, count: int) -> None:
        self.transport.set_write_buffer_limits(high=0)  # paused means from now on: something waits before the file
        await self.flow.drain()
        self._refuse_gone(cycle)
        # A descriptor of our own: whatever closes the connection, no other can get its number while a thread sends.
        socket = os.dup(self.transport.get_extra_info("socket").fileno())
        try:
            while count > 0:
                self._wake.clear()
                self._refuse_gone(cycle)
                patience = 0 if SENDING.others_wait() else PATIENCE_MILLISECONDS
                sent = await SENDING.run(_send, socket, file, offset, count, patience)
                if sent is None:
                    await self._wait_for_room(socket)
                elif sent == 0:
                    raise OSError("a file is shorter than what was to be sent of it")
                else:
                    offset, count = offset + sent, count - sent
        except (ConnectionError, TimeoutError) as error:
            cycle.disconnected = True
            self.transport.abort()
            raise ConnectionResetError("the client has left") from error
        finally:
            os.close(socket)

    async def _wait_for_room(self, socket: int) -> None:
        self.loop.add_writer(socket, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            self.loop.remove_writer(socket)

    def _refuse_gone(self, cycle: RequestResponseCycle) -> None:
        if cycle.disconnected:
            raise ConnectionResetError("the client has left")


class _Part:
    """Stands in h11's framing for bytes of a file."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


def _send(socket: int, file: int, offset: int, count: int, patience: int) -> int | None:
    """How many bytes the socket took in a turn; 0 at the end of the file, None if it took none.

    patience: milliseconds to wait for room each time. A fast client makes it before the event loop would hear of it.
    """
    room = select.poll()
    room.register(socket, select.POLLOUT)
    sent, end = 0, time.monotonic() + TURN_SECONDS
    while sent < count and time.monotonic() < end:
        taken = _send_once(socket, file, offset + sent, count - sent)
        if taken == 0:
            return sent
        sent += taken or 0
        if taken is None and not room.poll(patience):
            break
    return sent or None


def _send_once(socket: int, file: int, offset: int, count: int) -> int | None:
    try:
        try:
            return os.sendfile(socket, file, offset, min(count, CALL_BYTES))
        except OSError as error:
            if error.errno not in NO_SENDFILE:
                raise
            return os.write(socket, os.pread(file, min(count, COPIED_BYTES), offset))
    except BlockingIOError:
        return None
