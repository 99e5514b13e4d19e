"""Alignment by points on a curve: ids per second and core for each step, in C, without it and by a peer, as ratios.

    python -m benchmarks.alignment [--sizes 10000 100000] [--join 1000000] [--workers 2]

CPU time (with threads: wall time), best of some repetitions: ``C`` is psi/curve25519.c, ``libsodium`` is what serves
where that can't (gmpy2 maps, PyNaCl multiplies), ``cryptography`` a bare loop over its X25519 objects. Whole alignments
play all roles in one process, so their time is the CPU time of all parties together; half of the ids are in common.
Their peer is the textbook protocol in a loop over `cryptography`: no shuffle, no checks, no messages. benchmarks/psi.py
compares whole commands and other protocols with OpenMined's and SecretFlow's.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from parties.local import run_local
from parties.wire import Active, Bytes2D, Coordinator, Passive
from psi import curve, curve_ifma
from psi.align import align_coordinator, align_party, row_order
from psi.elements import elements_of
from psi.ids import IdRules, prepare_ids
from psi.lists import TAG_BYTES, join
from psi.settings import AlignmentSettings

C_IDS, SLOW_IDS = 16_384, 2_048
KERNELS = {"C": ("ifma", C_IDS), "libsodium": ("gmpy2", SLOW_IDS)}


def timed(work: Callable[[], object], repeats: int = 5, clock: Callable[[], float] = time.process_time) -> float:
    """Best of a few runs, seconds."""
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        work()
        best = min(best, clock() - start)
    return best


@contextmanager
def computing_with(kernel: str) -> Iterator[None]:
    """Let this process take one kernel; "" for what it takes by itself."""
    before = os.environ.pop("VFL_KERNEL", None)
    if kernel:
        os.environ["VFL_KERNEL"] = kernel
    yield
    os.environ.pop("VFL_KERNEL", None)
    if before is not None:
        os.environ["VFL_KERNEL"] = before


def row(name: str, count: int, seconds: float) -> None:
    print(f"{name:58s} {count / seconds:12,.0f} ids/s {1e6 * seconds / count:8.2f} us/id")


def cells(count: int, first: int = 0) -> list[str]:
    return [f"client-{i:012d}" for i in range(first, first + count)]


def rates(workers: int) -> dict[str, dict[str, float]]:
    """Ids per second: by step, then by who computes."""
    elements = elements_of([cell.encode() for cell in cells(C_IDS)])
    points, secret = curve.hash_to_curve(elements), curve.fresh_secret()
    found: dict[str, dict[str, float]] = {}
    for name, (kernel, count) in KERNELS.items():
        if kernel == "ifma" and curve_ifma.why_not_ifma():
            continue
        own, some = elements[:count], points[:count]
        threads = np.tile(some, (4 * workers * curve._CHUNK // count, 1))
        steps = {
            "map to the curve": (count, partial(curve.hash_to_curve, own), time.process_time),
            "mask (one hop)": (count, partial(curve.mask, some, secret), time.process_time),
            "map and mask (own list)": (count, partial(curve.hash_and_mask, own, secret), time.process_time),
            f"mask, {workers} threads, wall": (
                len(threads),
                partial(curve.mask, threads, secret, workers=workers),
                time.perf_counter,
            ),
        }
        with computing_with(kernel):
            for step, (many, work, clock) in steps.items():
                found.setdefault(step, {})[name] = many / timed(work, clock=clock)
    key = X25519PrivateKey.from_private_bytes(secret)
    found["mask (one hop)"]["cryptography"] = SLOW_IDS / timed(lambda: exchange(key, points[:SLOW_IDS]))
    return found


def kernels(workers: int) -> None:
    """The curve's share of the work, one column for each who can do it."""
    names = [*KERNELS, "cryptography"]
    pairs = [("C", "libsodium"), ("C", "cryptography"), ("libsodium", "cryptography")]
    print("| ids/s | " + " | ".join(names) + " | " + " | ".join(f"{a}/{b}" for a, b in pairs) + " |")
    print("| --- |" + " ---: |" * (len(names) + len(pairs)))
    for step, rate in rates(workers).items():
        figures = [f"{rate[name]:,.0f}" if name in rate else "-" for name in names]
        ratios = [f"{rate[a] / rate[b]:.2f}" if a in rate and b in rate else "-" for a, b in pairs]
        print("| " + " | ".join([step, *figures, *ratios]) + " |")


def around(join_ids: int) -> None:
    """What is not the curve: one party's work per id, and the coordinator's join of three lists."""
    count = C_IDS
    ids = prepare_ids([cells(count)], IdRules(), party="bank").ids
    row("normalise, find duplicates", count, timed(lambda: prepare_ids([cells(count)], IdRules(), party="bank")))
    row("elements", count, timed(lambda: elements_of(ids)))
    row("row order", count, timed(lambda: row_order(ids, 7)))
    pool = np.frombuffer(os.urandom(TAG_BYTES * 2 * join_ids), np.uint8).reshape(-1, TAG_BYTES)
    lists = {"a": pool[:join_ids], "b": pool[join_ids // 2 :][:join_ids], "c": pool[join_ids // 4 :][:join_ids]}
    row(f"join of three lists of {join_ids:,} at the coordinator", join_ids, timed(lambda: join(lists), 1))


def whole(count: int, parties: int) -> float:
    """A whole alignment by points, normalising included; CPU seconds."""
    settings = AlignmentSettings(seed=7, min_intersection=1, protocol="ecdh")
    columns = {f"party{p}": cells(count, p * count // (2 * (parties - 1))) for p in range(parties)}

    def play(name: str) -> Callable[..., object]:
        prepared = prepare_ids([columns[name]], IdRules(), party=name)
        return lambda end: align_party(end, prepared, settings)

    roles = dict.fromkeys(columns, Passive) | {"party0": Active, "coordinator": Coordinator}
    start = time.process_time()
    plays = {name: play(name) for name in columns} | {"coordinator": lambda end: align_coordinator(end, settings)}
    found = run_local(plays, roles=roles)
    seconds = time.process_time() - start
    assert found["coordinator"].intersection == count - count // 2
    return seconds


def exchange(key: X25519PrivateKey, points: Sequence[bytes] | Bytes2D) -> list[bytes]:
    return [key.exchange(X25519PublicKey.from_public_bytes(bytes(point))) for point in points]


def naive(count: int) -> float:
    """Both parties of the textbook protocol in a loop; half of its points lie on the twist."""
    left, right = cells(count), cells(count, count // 2)
    a, b = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    start = time.process_time()
    both = [[hashlib.sha256(cell.encode()).digest() for cell in side] for side in (left, right)]
    common = set(exchange(b, exchange(a, both[0]))) & set(exchange(a, exchange(b, both[1])))
    assert len(common) == count - count // 2
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--join", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    kernels(options.workers)
    print()
    around(options.join)
    for count in options.sizes:
        print(f"\nwhole alignment, {count:,} ids per party, all parties' work together")
        for kernel in KERNELS.values() if not curve_ifma.why_not_ifma() else (("", 0),):
            for parties in (2, 3):
                with computing_with(kernel[0]):
                    row(f"{parties} parties, {kernel[0] or 'gmpy2'}", count, whole(count, parties))
        row("peer: textbook loop over cryptography, 2 parties", count, naive(count))


if __name__ == "__main__":
    main()
