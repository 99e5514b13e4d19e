"""Obfuscators made in the background, while a party waits for the others."""

from __future__ import annotations

import os
import threading
from collections import deque
from types import TracebackType
from typing import NoReturn

from parties.errors import ConfigError, LocalProtocolError
from vfl.paillier.kernels import Values
from vfl.paillier.keys import PrivateKey, PublicKey

_LEAST_BATCH = 32  # made at once: small enough for a draw not to find the store empty, and see Costs.at_once


class ObfuscatorPool:
    """A bounded store of obfuscators for one key, filled by background threads.

    Each obfuscator is handed out exactly once: two ciphertexts with one obfuscator would show their difference.
    A draw never waits: what the store lacks is made on the spot.

    Parameters
    ----------
    key : PublicKey or PrivateKey
        The owner's pool uses the private key.
    capacity : int
        Largest number of obfuscators kept (about 1 kB each at 2048 bits).
    towards_owner : bool
        Make exponents of |N| + 40 bits, for what goes to the owner of the key.
    threads : int
        Background threads; one is enough where parties share cores.
    """

    def __init__(
        self, key: PublicKey | PrivateKey, *, capacity: int = 4096, towards_owner: bool = False, threads: int = 1
    ) -> None:
        if capacity < 1 or threads < 1:
            raise ConfigError("Obfuscator pool: capacity and threads must be at least 1.")
        self.key = key.public if isinstance(key, PrivateKey) else key
        self._source = key.obfuscators
        self._kernel = self.key.kernel
        self._towards_owner, self._capacity = towards_owner, capacity
        self._batch = max(_LEAST_BATCH, self._kernel.costs.at_once)
        self._batches: deque[Values] = deque()
        self._stored, self._planned, self._closed, self._process = 0, 0, False, os.getpid()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._fill, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return self._stored

    def draw(self, count: int, *, towards_owner: bool) -> Values:
        """Return ``count`` obfuscators and forget them."""
        if towards_owner != self._towards_owner:
            raise LocalProtocolError("Obfuscator pool: made for the other direction (towards_owner differs).")
        if os.getpid() != self._process:
            raise LocalProtocolError("Obfuscator pool: crossed a fork; its obfuscators would be used twice.")
        with self._changed:
            parts = self._remove(count)
            missing = count - sum(map(len, parts))
            self._planned -= count - missing
            self._changed.notify_all()
        if missing or not parts:
            parts.append(self._source.draw(missing, towards_owner=towards_owner))
        return parts[0] if len(parts) == 1 else self._kernel.join(parts)

    def _remove(self, count: int) -> list[Values]:
        """Take up to ``count`` obfuscators out of the store; the last batch touched is cut in two."""
        parts: list[Values] = []
        wanted = count = min(count, self._stored)
        while wanted:
            batch = self._batches.popleft()
            if len(batch) > wanted:
                self._batches.appendleft(self._kernel.take(batch, slice(wanted, None)))
                batch = self._kernel.take(batch, slice(0, wanted))
            parts.append(batch)
            wanted -= len(batch)
        self._stored -= count
        return parts

    def wait_full(self, timeout_s: float) -> bool:
        """Wait until the pool is full; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._stored >= self._capacity, timeout_s)

    def close(self) -> None:
        """Stop the threads and drop what is left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._batches.clear()
        self._stored = 0

    def __enter__(self) -> ObfuscatorPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise LocalProtocolError("An obfuscator pool cannot be pickled or copied.")

    def _fill(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._planned < self._capacity)
                if self._closed:
                    return
                batch = min(self._batch, self._capacity - self._planned)
                self._planned += batch
            made = self._source.draw(batch, towards_owner=self._towards_owner)
            with self._changed:
                self._batches.append(made)
                self._stored += len(made)
                self._changed.notify_all()
