"""One TLS connection that carries frames: whole frames in, whole frames out, by any thread.

The TLS state (`ssl.SSLObject`) is fed from memory under a lock of its own and the socket is used outside of it, so that
one thread can wait for bytes while another one sends: OpenSSL does not promise that for one object, nor does Python.
A connection on which nothing comes for ``silence`` seconds, or nothing can be sent, counts as broken; so does one on
which bytes come and TLS makes nothing of them, or no frame: a damaged length would wait for signs of life to fill it.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import suppress

from parties.frame import Frame, read_frame

_PIECE = 1 << 18  # bytes read from the socket at once
HANDSHAKE_SECONDS = 10.0
_RECORD_SILENCES = 4  # the silences that a TLS record of at most 16 KiB may take to arrive
_FRAME_SILENCES = 16  # and a frame of at most 1 MiB


class Connection:
    """An established TLS connection; see `connect` and `accept`."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, *, server: bool, silence: float) -> None:
        self._raw = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._state = threading.Lock()  # of the TLS object
        self._order = threading.Lock()  # of what is sent
        self._count = threading.Lock()  # of the two below
        self._users, self._over = 0, False
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handshake(time.monotonic() + HANDSHAKE_SECONDS)
        raw.settimeout(silence)
        self._silence = silence
        self._begun: float | None = None  # since when the frame arrives that is read

    @property
    def certificate(self) -> bytes | None:
        """The other end's certificate, DER."""
        return self._tls.getpeercert(binary_form=True)

    def write(self, data: bytes) -> None:
        """Send the bytes of a frame; raises ``OSError`` (TLS errors are some) when that fails."""
        with self._order:
            with self._state:
                self._tls.write(data)
                sealed = self._outgoing.read()
            self._send_all(sealed)

    def read(self) -> Frame:
        """Read one frame; raises ``EOFError`` or ``OSError`` when the connection breaks."""
        self._begun = None
        return read_frame(self._read_exactly)

    def shut(self) -> None:
        """End it; whoever waits on it wakes."""
        with suppress(OSError):  # the other end was faster
            self._raw.shutdown(socket.SHUT_RDWR)
        self._leave(0)

    def _read_exactly(self, count: int) -> bytes:
        data = bytearray(count)
        view, at = memoryview(data), 0
        last = time.monotonic()
        while at < count:
            arrived = self._open_into(view[at:])
            if arrived is None:
                self._check_progress(last)
                self._feed()
            elif not arrived:
                raise EOFError  # the other end closed
            else:
                at += arrived
                last = time.monotonic()
                self._begun = self._begun or last
        return bytes(data)

    def _check_progress(self, last: float) -> None:
        """Raise if bytes come and make no record, or records and make no frame."""
        now = time.monotonic()
        if now > last + _RECORD_SILENCES * self._silence:
            raise TimeoutError("what arrives is nothing that TLS can open")
        if self._begun is not None and now > self._begun + _FRAME_SILENCES * self._silence:
            raise TimeoutError("a frame does not come to its end")

    def _open_into(self, view: memoryview) -> int | None:
        """Move what TLS has in the clear; None if it wants more of the socket."""
        with self._state:
            try:
                count: int = self._tls.read(len(view), view)  # type: ignore[assignment]
            except ssl.SSLWantReadError:
                return None
        return count

    def _feed(self) -> None:
        """Wait for bytes of the socket and hand them to TLS."""
        self._enter()
        try:
            sealed = self._raw.recv(_PIECE)
        finally:
            self._leave()
        if not sealed:
            raise EOFError
        with self._state:
            self._incoming.write(sealed)

    def _handshake(self, deadline: float) -> None:
        """Shake hands within the deadline, however slowly the other end drips its bytes."""
        done = False
        while not done:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with suppress(OSError):  # the alert that says why
                    self._raw.sendall(self._outgoing.read())
                raise
            self._raw.settimeout(max(0.01, deadline - time.monotonic()))
            if sealed := self._outgoing.read():
                self._raw.sendall(sealed)
            if not done:
                if time.monotonic() >= deadline:
                    raise TimeoutError("TLS handshake")
                self._feed()

    def _send_all(self, sealed: bytes) -> None:
        """Send everything; the time limit is on progress, not on the whole."""
        view = memoryview(sealed)
        self._enter()
        try:
            while view:
                view = view[self._raw.send(view) :]
        finally:
            self._leave()

    def _enter(self) -> None:
        """Begin to use the socket."""
        with self._count:
            if self._over:
                raise OSError("the connection was shut")
            self._users += 1

    def _leave(self, users: int = 1) -> None:
        """End so many uses; 0: all are to end. The last one closes: another socket may get the number at once."""
        with self._count:
            self._users -= users
            self._over = self._over or not users
            if self._over and not self._users:
                self._raw.close()


def connect(host: str, port: int, context: ssl.SSLContext, silence: float) -> Connection:
    """Dial and shake hands; raises ``OSError`` (``ssl.SSLError`` is one) or ``EOFError``."""
    raw = socket.create_connection((host, port), timeout=HANDSHAKE_SECONDS)
    try:
        return Connection(raw, context, server=False, silence=silence)
    except BaseException:
        raw.close()
        raise
