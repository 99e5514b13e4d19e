"""Seconds inside the package: of each thread its own, an operation within another counted once."""

from __future__ import annotations

import threading

import pytest

from vfl.paillier import add, decrypt, encrypt, generate_keypair, kernel_seconds, kernel_time
from vfl.paillier.kernel_time import timed


def test_operations_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(kernel_time, "perf_counter", lambda: now[0])

    @timed
    def inner(seconds: float) -> float:
        """Inner."""
        now[0] += seconds
        return seconds

    @timed
    def outer() -> float:
        now[0] += 1.0
        return inner(2.0) + inner(3.0)

    before = kernel_seconds()
    assert outer() == 5.0 and kernel_seconds() - before == 6.0
    now[0] += 100.0
    assert inner(4.0) == 4.0 and kernel_seconds() - before == 10.0
    assert inner.__doc__ == "Inner."


def test_an_operation_that_fails_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(kernel_time, "perf_counter", lambda: now[0])

    @timed
    def broken() -> None:
        now[0] += 1.0
        raise ZeroDivisionError

    before = kernel_seconds()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            broken()
    assert kernel_seconds() - before == 2.0


def test_each_thread_has_its_own() -> None:
    key = generate_keypair(512, insecure_test_mode=True)
    before, seen = kernel_seconds(), []

    def work() -> None:
        seen.append(kernel_seconds())
        decrypt(key, encrypt(key, [1, 2]))
        seen.append(kernel_seconds())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0] == 0.0 < seen[1]
    assert kernel_seconds() == before
    v = encrypt(key, [1])
    first = kernel_seconds()
    add(v, v)
    assert before < first < kernel_seconds()
