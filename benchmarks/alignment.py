"""Alignment: ids per second and core for each step, whole alignments, and peers on the same ids.

    python benchmarks/alignment.py [--sizes 10000 100000] [--workers 2]

Peers: a bare loop over `cryptography`'s X25519 (no shuffle, no checks, no messages), and OpenMined's PSI where
`pip install openmined_psi` has been run. Whole alignments play all roles in one process, so their time is the CPU time
of all parties together; half of the ids are in common.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable, Sequence

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from parties.local import run_local
from parties.wire import Active, Coordinator, Passive
from psi import curve, ecdh
from psi.align import AlignmentSettings, align_coordinator, align_party, row_order
from psi.ids import IdRules, prepare_ids

STEP_IDS = 10_000


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Best wall time of a few runs, seconds."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def row(name: str, count: int, seconds: float) -> None:
    print(f"{name:58s} {count / seconds:12,.0f} ids/s {1e6 * seconds / count:8.2f} us/id")


def cells(count: int, first: int = 0) -> list[str]:
    return [f"client-{i:012d}" for i in range(first, first + count)]


def steps(workers: int) -> None:
    """One party's work per id, step by step."""
    print(f"\nsteps, {STEP_IDS:,} ids")
    ids = prepare_ids([cells(STEP_IDS)], IdRules(), party="bank").ids
    secret, hashed = curve.fresh_secret(), curve.hash_to_curve(ids)
    row("normalise, find duplicates", STEP_IDS, timed(lambda: prepare_ids([cells(STEP_IDS)], IdRules(), party="b")))
    row("hash to the curve", STEP_IDS, timed(lambda: curve.hash_to_curve(ids)))
    row("mask (one hop), 1 core", STEP_IDS, timed(lambda: curve.mask(hashed, secret)))
    row("hash and mask (own list), 1 core", STEP_IDS, timed(lambda: curve.hash_and_mask(ids, secret)))
    many = 4 * workers * curve._CHUNK
    more = np.tile(hashed, (many // STEP_IDS + 1, 1))[:many]
    row(f"mask, {workers} threads", many, timed(lambda: curve.mask(more, secret, workers=workers)))
    row("row order", STEP_IDS, timed(lambda: row_order(ids, 7)))
    key = X25519PrivateKey.from_private_bytes(secret)
    row("peer: mask in a loop over cryptography", STEP_IDS, timed(lambda: exchange(key, hashed)))


def joins(count: int) -> None:
    """The coordinator's join of three lists."""
    pool = np.frombuffer(os.urandom(ecdh.TAG_BYTES * 2 * count), np.uint8).reshape(-1, ecdh.TAG_BYTES)
    lists = {"a": pool[:count], "b": pool[count // 2 :][:count], "c": pool[count // 4 :][:count]}
    row(f"join of three lists of {count:,} at the coordinator", count, timed(lambda: ecdh.join(lists), 1))


def whole(count: int, parties: int, workers: int) -> float:
    """A whole alignment, normalising included; wall seconds."""
    settings = AlignmentSettings(seed=7, min_intersection=1)
    columns = {f"party{p}": cells(count, p * count // (2 * (parties - 1))) for p in range(parties)}

    def play(name: str) -> Callable[..., object]:
        prepared = prepare_ids([columns[name]], IdRules(), party=name)
        return lambda end: align_party(end, prepared, settings, workers=workers)

    roles = dict.fromkeys(columns, Passive) | {"party0": Active, "coordinator": Coordinator}
    start = time.perf_counter()
    plays = {name: play(name) for name in columns} | {"coordinator": lambda end: align_coordinator(end, settings)}
    found = run_local(plays, roles=roles)
    seconds = time.perf_counter() - start
    assert found["coordinator"].intersection == count - count // 2
    return seconds


def exchange(key: X25519PrivateKey, points: Sequence[bytes] | np.ndarray) -> list[bytes]:
    return [key.exchange(X25519PublicKey.from_public_bytes(bytes(point))) for point in points]


def naive(count: int) -> float:
    """Both parties of the textbook protocol in a loop; half of its points lie on the twist."""
    left, right = cells(count), cells(count, count // 2)
    a, b = X25519PrivateKey.generate(), X25519PrivateKey.generate()
    start = time.perf_counter()
    both = [[hashlib.sha256(cell.encode()).digest() for cell in side] for side in (left, right)]
    common = set(exchange(b, exchange(a, both[0]))) & set(exchange(a, exchange(b, both[1])))
    assert len(common) == count - count // 2
    return time.perf_counter() - start


def openmined(count: int) -> float | None:
    """OpenMined PSI, both sides; None where it is not installed."""
    try:
        import private_set_intersection.python as peer
    except ImportError:
        return None
    left, right = cells(count), cells(count, count // 2)
    start = time.perf_counter()
    client, server = peer.client.CreateWithNewKey(True), peer.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(1e-9, count, right, peer.DataStructure.RAW)
    answer = server.ProcessRequest(client.CreateRequest(left))
    assert len(client.GetIntersection(setup, answer)) == count - count // 2
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    steps(options.workers)
    joins(1_000_000)
    for count in options.sizes:
        print(f"\nwhole alignment, {count:,} ids per party, all parties' work together")
        for parties, workers in ((2, 1), (2, options.workers), (3, 1)):
            name = f"{parties} parties, {workers} thread{'s' * (workers > 1)}"
            row(name, count, whole(count, parties, workers))
        row("peer: textbook loop over cryptography, 2 parties", count, naive(count))
        seconds = openmined(count)
        if seconds is None:
            print("peer: OpenMined PSI is not installed (pip install openmined_psi): skipped")
        else:
            row("peer: OpenMined PSI, 2 parties", count, seconds)


if __name__ == "__main__":
    main()
