"""The nats-py client with a short cut: messages of some subscriptions go straight to a plain function.

nats-py parses headers, builds an object, and hands each message through a queue to a task; that is more than half of
the cost of a message. Here its dispatch method is overridden for the subscriptions named in ``direct``; login, TLS,
keep-alive and parsing stay nats-py's. The methods relied upon are checked once, in `check_client`, and pinned by a
test. Imported only when a connection is made, so that the package can be imported without nats-py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client

from streamflow.errors import SettingsError

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Takes subject, reply subject, payload and raw headers of one message; called on the loop, must not block."""

_RELIED_UPON: Final = {
    "_process_msg": ["self", "sid", "subject", "reply", "data", "headers"],
    "_process_info": ["self", "info", "initial_connection"],
    "_connect_command": ["self"],
    "_send_command": ["self", "cmd", "priority"],
    "_flush_pending": ["self", "force_flush"],
}


def check_client() -> None:
    """Refuses a nats-py whose inside is not the one this connector was written for.

    Raises:
        SettingsError: A method is missing or takes other arguments.
    """
    for name, expected in _RELIED_UPON.items():
        method = getattr(Client, name, None)
        if method is None or list(inspect.signature(method).parameters) != expected:
            raise SettingsError(
                f"this version of nats-py does not fit: Client.{name} is not what it was",
                hint='Install the version that streamflow was tested with: pip install "nats-py==2.16.0".',
            )


class DirectClient(Client):
    """A nats-py client with direct subscriptions, and no login over an unencrypted line where TLS was asked for."""

    def __init__(self, *, encrypted: bool, failed: Callable[[Exception], None]) -> None:
        super().__init__()
        self.direct: dict[int, Handler] = {}
        self.server_info: dict[str, Any] = {}
        self._encrypted = encrypted
        self._failed = failed

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        handler = self.direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
            return
        try:
            handler(subject, reply, data, headers)
        except Exception as error:
            # nats-py would log it and stop reading, with the connection seemingly alive for minutes.
            self._failed(error)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection:
            self.server_info = info
            if self._encrypted and info.get("tls_available"):
                info["tls_required"] = True
        await super()._process_info(info, initial_connection)

    def _connect_command(self) -> bytes:
        if self._encrypted and not self.server_info.get("tls_required"):
            # nats-py would send the credentials in the clear (also for tls:// URLs).
            raise SettingsError(
                "the NATS server offers no TLS, and TLS was asked for",
                hint="Configure tls on the server, or use nats:// without tls= on a network you trust.",
            )
        return super()._connect_command()

    def send_now(self, commands: bytes) -> bool:
        """Queues protocol lines behind all that was sent before; says whether `kick` must be awaited."""
        self._pending.append(commands)
        self._pending_data_size += len(commands)
        return self._flush_queue is not None and self._flush_queue.empty()

    async def kick(self) -> None:
        """Wakes the task that writes to the socket."""
        await self._flush_pending()

    def watch(self, ended: Callable[[], None]) -> None:
        """Calls ``ended`` when nothing is read any more, for whatever reason.

        nats-py's own callback for that is left out when its last flush fails, as after a kill of the server.
        """
        assert self._reading_task is not None, "watched before it was connected"
        self._reading_task.add_done_callback(lambda _: ended())

    async def finish(self) -> None:
        """Sends what is queued and disconnects; does nothing where connecting had not even begun."""
        if self._flush_queue is not None:
            await self.close()

    def abort(self) -> None:
        """Cuts the connection without sending what is queued."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
