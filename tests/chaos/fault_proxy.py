"""A TCP proxy that does to bytes what networks do on bad days, by a seed: for tests alone."""

from __future__ import annotations

import random
import socket
import threading
from contextlib import suppress

KINDS = ("cut", "truncate", "corrupt", "drop", "duplicate", "reorder", "delay", "stall", "refuse")
_PIECE = 1 << 16


class FaultProxy:
    """Passes connections on to a port of this machine, and does harm to them.

    Parameters
    ----------
    faults : int
        How many there are in all, over both directions and all connections.
    reach : int, bytes
        A fault comes after so many bytes at most; how many is drawn anew for each.
    stall : float, seconds
        How long a stalled direction takes in nothing.
    """

    def __init__(self, port: int, rng: random.Random, *, faults: int, reach: int, stall: float) -> None:
        self._target = port
        self._rng = rng
        self._left = faults
        self._reach = reach
        self._stall = stall
        self._order = threading.Lock()
        self._closed = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.done: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def close(self) -> None:
        """End all connections, and wait for all threads."""
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._order:
            for end in self._sockets:
                _end(end)
        for thread in self._threads:
            thread.join(10)

    def _start(self, run: object, *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._due("refuse", 0.1):
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target), timeout=10)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._order:
                self._sockets |= {near, far}
            if self._closed.is_set():
                _end(near)
                _end(far)
            ends = threading.Semaphore(0)
            self._start(self._pass_on, near, far, ends)
            self._start(self._pass_on, far, near, ends)
            self._start(self._reap, near, far, ends)

    def _reap(self, near: socket.socket, far: socket.socket, ends: threading.Semaphore) -> None:
        for _ in range(2):
            ends.acquire()
        for end in (near, far):
            end.close()
            with self._order:
                self._sockets.discard(end)

    def _due(self, kind: str, chance: float) -> bool:
        with self._order:
            if self._left <= 0 or self._rng.random() >= chance:
                return False
            self._left -= 1
            self.done.append(kind)
            return True

    def _distance(self) -> int:
        """Bytes to the next fault; short ones are as likely as long ones."""
        with self._order:
            return int(self._reach ** self._rng.random())

    def _draw(self) -> str:
        with self._order:
            if self._left <= 0:
                return ""
            self._left -= 1
            kind = self._rng.choice(KINDS[:-1])
            self.done.append(kind)
            return kind

    def _pass_on(self, source: socket.socket, target: socket.socket, ends: threading.Semaphore) -> None:
        held, distance = b"", self._distance()
        try:
            while data := source.recv(_PIECE):
                if distance > len(data):
                    distance -= len(data)
                    target.sendall(held + data)
                    held = b""
                    continue
                kind, at = self._draw(), distance - 1
                distance = self._distance()
                if kind == "cut":
                    break
                if kind == "reorder":
                    held = data
                    continue
                target.sendall(held + self._harm(kind, data, at))
                held = b""
                if kind == "truncate":
                    break
        except OSError:
            pass
        _end(source)
        _end(target)
        ends.release()

    def _harm(self, kind: str, data: bytes, at: int) -> bytes:
        """What becomes of a piece."""
        if kind == "truncate":
            return data[:at]
        if kind == "corrupt":
            with self._order:
                bit = 1 << self._rng.randrange(8)
            return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
        if kind == "drop":
            return data[:at]
        if kind == "duplicate":
            return data + data[at:]
        if kind in ("delay", "stall"):
            self._closed.wait(self._stall * (1.0 if kind == "stall" else 0.1))
        return data


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
