"""Paillier beside phe and naive gmpy2, in one run on one core.

    python benchmarks/paillier.py [--bits 2048] [--rounds 5]

Every figure is the best of several rounds, and every line gives ratios: machines differ, and other work on the
machine slows all columns alike. `products` is gmpy2's own ``x * y % n**2``, the yardstick for all the others.
"""

from __future__ import annotations

import argparse
import os
import secrets
import time
from collections.abc import Callable

import gmpy2
import numpy as np
import phe

import vfl.paillier as paillier
from vfl.paillier import PrivateKey
from vfl.paillier.kernels import everything

ROWS, COLUMNS = 2000, 16
OPENED = 40


def best(work: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest round."""
    fastest = float("inf")
    for _ in range(rounds):
        start = time.thread_time()
        work()
        fastest = min(fastest, time.thread_time() - start)
    return fastest


def line(what: str, ours: float, unit: str, **peers: float) -> None:
    """Print one rate, and how many times the peers' rate it is."""
    ratios = "  ".join(f"{ours / rate:8.2f} x {name} ({rate:,.0f})" for name, rate in peers.items())
    print(f"{what:34s} {ours:12,.0f} {unit:6s} {ratios}", flush=True)


def product_rates(key: PrivateKey, rounds: int) -> float:
    """Print the speed of products modulo N^2; return gmpy2's own."""
    nn = gmpy2.mpz(key.public.n) ** 2
    numbers = [gmpy2.mpz(secrets.randbelow(int(nn))) for _ in range(2000)]
    kernel = key.public.kernel
    values = kernel.pack([int(x) for x in numbers])
    segment = np.array([0, len(numbers)])

    def plain() -> None:
        product = gmpy2.mpz(1)
        for x in numbers:
            product = product * x % nn

    own = len(numbers) / best(plain, 4 * rounds)
    ours = len(numbers) / best(lambda: kernel.seg_prod(values, everything(values), segment), 4 * rounds)
    line("products", ours, "/s", gmpy2=own)
    return own


def encryption(key: PrivateKey, products: float, rounds: int) -> None:
    """Print encryption rates: public key, owner, 448-bit exponents, from a pool."""
    plaintexts = list(range(300))
    theirs = paillier.public_key_to_phe(key.public)
    peer = 5 / best(lambda: [theirs.raw_encrypt(m) for m in range(5)], rounds)
    wire = key.public.to_wire()
    short = paillier.public_key_from_wire(wire[0], wire[1], 448, min_bits=256)
    for what, source in (("public key", key.public), ("owner", key), ("448-bit exponents", short)):
        table = best(lambda source=source: paillier.encrypt(source, list(range(30))), 1)
        rate = len(plaintexts) / best(lambda source=source: paillier.encrypt(source, plaintexts), rounds)
        line(f"encrypt, {what}", rate, "/s", phe=peer)
        print(f"{'':34s} {products / rate:12,.0f} products each; first call with its table {table:.2f} s")
    with paillier.ObfuscatorPool(key.public, capacity=300) as pool:
        fastest = float("inf")
        for _ in range(rounds):
            pool.wait_full(600.0)
            fastest = min(fastest, best(lambda: paillier.encrypt(key.public, plaintexts, pool=pool), 1))
    line("encrypt, from a full pool", len(plaintexts) / fastest, "/s", phe=peer)


def opening_and_adding(key: PrivateKey, rounds: int) -> None:
    """Print decryption, addition and re-randomisation rates."""
    v = paillier.encrypt(key, list(range(1000)))
    theirs = paillier.private_key_to_phe(key)
    raw = [int.from_bytes(row.tobytes()) for row in paillier.to_bytes(v[:OPENED])]
    peer = OPENED / best(lambda: [theirs.raw_decrypt(c) for c in raw], rounds)
    line("decrypt", OPENED / best(lambda: paillier.decrypt(key, v[:OPENED]), rounds), "/s", phe=peer)
    public = paillier.public_key_to_phe(key.public)
    encrypted = [phe.EncryptedNumber(public, c) for c in raw]
    peer = (OPENED - 1) / best(lambda: [a + b for a, b in zip(encrypted, encrypted[1:], strict=False)], rounds)
    line("add", len(v) / best(lambda: paillier.add(v, v), rounds), "/s", phe=peer)
    paillier.rerandomise(v[:50], towards_owner=True)
    rate = 100 / best(lambda: paillier.rerandomise(v[:100], towards_owner=True), rounds)
    line("rerandomise towards the owner", rate, "/s")
    body = paillier.to_bytes(paillier.encrypt(key, list(range(1000))))
    line("receive and check", 1000 / best(lambda: paillier.from_bytes(key.public, body, count=1000), rounds), "/s")


def naive_products(numbers: list[gmpy2.mpz], inverses: list[gmpy2.mpz], X: np.ndarray, nn: gmpy2.mpz) -> list[object]:
    """Return X'[[r]] by one gmpy2 power per entry; the inverses for negative ones are given."""
    totals = []
    for j in range(X.shape[1]):
        total = gmpy2.mpz(1)
        for i, x in enumerate(X[:, j].tolist()):
            total = total * gmpy2.powmod(numbers[i] if x > 0 else inverses[i], abs(x), nn) % nn
        totals.append(total)
    return totals


def inner_products(key: PrivateKey, products: float, rounds: int) -> None:
    """Print X'[[r]] in seconds: unpacked, packed, and one-hot columns, against naive gmpy2."""
    rng = np.random.default_rng(0)
    X = rng.integers(-(2**15), 2**15, (ROWS, COLUMNS))
    one_hot = np.where(rng.random((ROWS, COLUMNS)) < 0.1, 98304, -10923)
    r = rng.integers(-(2**20), 2**20, ROWS)
    bound = 2**20 * int(np.abs(one_hot).sum(axis=0).max() + np.abs(X).sum(axis=0).max())
    few = X[:, :2]
    unpacked = paillier.plan_inner_product(key.public.bits, ROWS, bound, 1)
    v = paillier.encrypt(key, paillier.pack_rows(unpacked, r))
    nn = gmpy2.mpz(key.public.n) ** 2
    numbers = [gmpy2.mpz(c) for c in key.public.kernel.unpack(v.values)]
    inverses = [gmpy2.invert(c, nn) for c in numbers]
    naive = best(lambda: naive_products(numbers, inverses, few, nn), rounds) * COLUMNS / 2
    chosen = paillier.choose_rows_per_ciphertext(key.public.bits, ROWS, bound, COLUMNS, key.public.kernel.costs)
    print(f"\nX'[[r]], {ROWS} x {COLUMNS}, 16 bits; naive gmpy2 {naive:.2f} s; the cost model packs {chosen} rows")
    for k in sorted({1, max(chosen, 2)}):
        plan = paillier.plan_inner_product(key.public.bits, ROWS, bound, k)
        packed = paillier.pack_rows(plan, r)
        encrypting = best(lambda packed=packed: paillier.encrypt(key.public, packed), 1)
        v = paillier.encrypt(key.public, packed)
        for what, matrix in (("dense", X), ("one-hot, standardised", one_hot)):
            seconds = best(lambda: paillier.transposed_product(plan, v, matrix), rounds)  # noqa: B023
            print(
                f"  k = {k:2d}, {what:22s} {seconds:7.3f} s = {naive / seconds:7.1f} x naive gmpy2 "
                f"= {seconds * products:9,.0f} gmpy2 products; encrypting r {encrypting:.2f} s"
            )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ["VFL_THREADS"] = "1"  # time is taken of one thread
    key = paillier.generate_keypair(options.bits, insecure_test_mode=options.bits < 2048)
    print(f"{options.bits}-bit N, kernel {paillier.kernel_name(options.bits)}, best of {options.rounds}\n")
    products = product_rates(key, options.rounds)
    encryption(key, products, options.rounds)
    opening_and_adding(key, options.rounds)
    inner_products(key, products, options.rounds)


if __name__ == "__main__":
    main()
