"""What `paillier.py` measures of this package, on the kernel that ``VFL_KERNEL`` names."""

from __future__ import annotations

import secrets
from functools import partial

import numpy as np
from numpy.typing import NDArray
from paillier_work import (
    ADDED,
    BINS,
    FEATURES,
    KEYS,
    ROWS,
    SLOT_BITS,
    Clock,
    Figures,
    bins,
    clock,
    dense_matrix,
    histogram,
    one_hot_matrix,
    residuals,
)

import vfl.paillier as paillier
from vfl.paillier import CipherVector, InnerProductPlan, PrivateKey
from vfl.paillier.ifma_kernel import IfmaKernel
from vfl.paillier.ifma_library import multiply_adds_per_second
from vfl.paillier.inverses import invert_all
from vfl.paillier.kernels import everything
from vfl.paillier.split import run_parts

LANES = 8
SEGMENT = 500  # factors of one use each: a call costs little beside them, and the next ones are fetched in time
REUSED_SEGMENT = 4000
ENCRYPTED, OPENED, ON_THE_WIRE = 1024, 256, 2000
SHORT_EXPONENT = 448  # bits


def measure(bits: int, cores: int, rounds: int) -> Figures:
    """Return all figures of ours."""
    ticks = clock(cores, rounds)
    key = paillier.generate_keypair(bits, insecure_test_mode=bits < 2048)
    return {
        **products(key, cores, ticks),
        **encryption(key, ticks),
        **addition(key, ticks),
        **opening(key, ticks),
        **inner_products(key, ticks),
        **sums(key, ticks),
        **serialisation(key, ticks),
        "new_key": ticks.mean(lambda: paillier.generate_keypair(bits, insecure_test_mode=bits < 2048), KEYS),
    }


def products(key: PrivateKey, cores: int, ticks: Clock) -> Figures:
    """Return products and squarings modulo N^2 a second, in calls so long that Python has no part in them."""
    kernel, lanes = key.public.kernel, LANES * cores
    values = kernel.pack([secrets.randbelow(kernel.modulus**2) for _ in range(lanes * SEGMENT)])
    few = kernel.take(values, slice(0, lanes))  # in the first cache
    factors = kernel.for_reuse(few, invert_all(kernel, few))
    bounds, many, times = np.arange(lanes + 1), np.arange(lanes * REUSED_SEGMENT) % (2 * lanes), 1000
    figures = {
        "products": ticks.rate(
            lanes * (SEGMENT - 1), lambda: kernel.seg_prod(values, everything(values), bounds * SEGMENT)
        ),
        "products_reused": ticks.rate(
            lanes * (REUSED_SEGMENT - 1), lambda: kernel.seg_prod(factors, many, bounds * REUSED_SEGMENT)
        ),
        "squarings": ticks.rate(lanes * times, lambda: kernel.pow_uniform(few, 1 << times)),
    }
    return figures | ceiling(kernel, figures, cores, ticks) if isinstance(kernel, IfmaKernel) else figures


def ceiling(kernel: IfmaKernel, figures: Figures, cores: int, ticks: Clock) -> Figures:
    """Return the IFMA instructions a second that the processor can do, and the shares of them that products reach."""
    run, length = multiply_adds_per_second(), kernel._length
    instructions = cores * run()
    limit = instructions / ticks.best(lambda: run_parts(lambda start, stop: run(), range(cores + 1)))
    each = {
        "products": ifma_per_product(length),
        "products_reused": ifma_per_reused_product(length),
        "squarings": ifma_per_squaring(length),
    }
    shares = {f"ifma_{name}": figures[name] / LANES * count / limit for name, count in each.items()}
    return {"ifma_limit": limit, "ifma_digits": length, **shares}


def ifma_per_product(length: int) -> int:
    """Return the IFMA instructions of eight products of numbers of 2 x ``length`` digits, by counting in ``ifma.c``.

    Two digits' product takes two: its low half and its high half. `multiply_numbers` makes x0 y0, x0 y1 and x1 y0.
    """
    return 3 * _half_size_product(length) + _reductions(length)


def ifma_per_reused_product(length: int) -> int:
    """Return the same for factors of many uses: `multiply_by_first` makes x0 y0 and x1 y0."""
    return 2 * _half_size_product(length) + _reductions(length)


def ifma_per_squaring(length: int) -> int:
    """Return the same of eight squarings: `square_number` makes x0^2 and x0 x1."""
    return _half_size_square(length) + _half_size_product(length) + _reductions(length)


def _karatsuba(length: int) -> bool:
    """Return whether `multiply` and `square` work on halves: ``KARATSUBA``, halves of two blocks of ten or more."""
    return length // 2 >= 20 and length // 2 % 10 == 0


def _half_size_product(length: int) -> int:
    """`multiply`: 2 L^2, or by Karatsuba three products of halves; additions take no IFMA."""
    return 3 * 2 * (length // 2) ** 2 if _karatsuba(length) else 2 * length**2


def _half_size_square(length: int) -> int:
    """`square`: every product of two unequal digits once, L (L - 1), and the squares, 2 L; or thrice that of halves."""
    size = length // 2
    return 3 * (size**2 + size) if _karatsuba(length) else length**2 + length


def _reductions(length: int) -> int:
    """`reduce_both`: two of L quotient digits, each with one product for itself (low half only) and L by n."""
    return 2 * (2 * length**2 + length)


def encryption(key: PrivateKey, ticks: Clock) -> Figures:
    """Return encryptions and re-randomisations a second, and what first calls take longer, for tables, in seconds."""
    plaintexts, (n, h_s, bits) = list(range(ENCRYPTED)), key.public.to_wire()
    short = paillier.public_key_from_wire(n, h_s, min(SHORT_EXPONENT, bits), min_bits=256)
    again = paillier.public_key_from_wire(n, h_s, bits, min_bits=256)
    v = paillier.encrypt(key.public, plaintexts)
    works = {
        "encrypt_public": partial(paillier.encrypt, again, plaintexts),
        "encrypt_short": partial(paillier.encrypt, short, plaintexts),
        "encrypt_owner": partial(paillier.encrypt, key, plaintexts),
        "rerandomise": partial(paillier.rerandomise, v, towards_owner=True),
    }
    figures = {}
    for name, work in works.items():
        first = ticks.once(work)
        figures[name] = ticks.rate(ENCRYPTED, work)
        figures[f"{name}_table"] = max(0.0, first - ENCRYPTED / figures[name])
    with paillier.ObfuscatorPool(key.public, capacity=ENCRYPTED) as pool:
        rounds = []
        for _ in range(ticks.rounds):
            pool.wait_full(600.0)
            rounds.append(ticks.once(lambda: paillier.encrypt(key.public, plaintexts, pool=pool)))
    return {**figures, "encrypt_pool": ENCRYPTED / min(rounds)}


def addition(key: PrivateKey, ticks: Clock) -> Figures:
    """Return ciphertexts added up a second."""
    v = CipherVector.concat([paillier.encrypt(key, range(ADDED // 20))] * 20)
    return {"add": ticks.rate(ADDED, lambda: paillier.add(v, v))}


def opening(key: PrivateKey, ticks: Clock) -> Figures:
    """Return decryptions a second, and values a second where many lie in one plaintext."""
    slots = (key.public.bits - 2) // SLOT_BITS  # of plaintexts below N/2
    plaintexts = [secrets.randbits(SLOT_BITS * slots) for _ in range(OPENED)]
    v = paillier.encrypt(key, plaintexts)
    mask = (1 << SLOT_BITS) - 1

    def unpack() -> list[list[int]]:
        return [[m >> SLOT_BITS * i & mask for i in range(slots)] for m in paillier.decrypt(key, v)]

    assert paillier.decrypt(key, v) == plaintexts
    return {
        "slots": slots,
        "decrypt": ticks.rate(OPENED, lambda: paillier.decrypt(key, v)),
        "decrypt_packed": ticks.rate(OPENED * slots, unpack),
    }


def inner_products(key: PrivateKey, ticks: Clock) -> Figures:
    """Return the seconds of X'[[r]] for dense and one-hot X, with one row of r per ciphertext and with several."""
    X, one_hot, r, bits = dense_matrix(), one_hot_matrix(), residuals(), key.public.bits
    bound = 2**20 * int(max(np.abs(X).sum(axis=0).max(), np.abs(one_hot).sum(axis=0).max()))
    costs = key.public.kernel.costs
    chosen = paillier.choose_rows_per_ciphertext(bits, ROWS, bound, X.shape[1], costs)
    figures: Figures = {"rows_packed": max(chosen, 2)}
    for name, k in (("", 1), ("_packed", int(figures["rows_packed"]))):
        plan = paillier.plan_inner_product(bits, ROWS, bound, k)
        encrypting = ticks.best(lambda plan=plan: paillier.encrypt(key.public, paillier.pack_rows(plan, r)))
        v = paillier.encrypt(key.public, paillier.pack_rows(plan, r))
        check(key, plan, v, X)
        figures[f"dense{name}"] = ticks.best(partial(paillier.transposed_product, plan, v, X))
        figures[f"one_hot{name}"] = ticks.best(partial(paillier.transposed_product, plan, v, one_hot))
        figures[f"dense_and_r{name}"] = figures[f"dense{name}"] + encrypting
    return figures


def check(key: PrivateKey, plan: InnerProductPlan, v: CipherVector, X: NDArray[np.int64]) -> None:
    """Make sure that the products are the right ones."""
    masked, masks = paillier.mask_products(plan, paillier.transposed_product(plan, v, X))
    opened = paillier.open_products(plan, key, masked, count=X.shape[1])
    assert paillier.unmask_products(plan, key.public, opened, masks) == (X.T @ residuals()).tolist()


def sums(key: PrivateKey, ticks: Clock) -> Figures:
    """Return the seconds of a histogram: ROWS x FEATURES additions into FEATURES x BINS sums."""
    r, cells = residuals(), bins() + BINS * np.arange(FEATURES)
    rows = np.repeat(np.arange(ROWS), FEATURES)
    v = paillier.encrypt(key, r)

    def work() -> CipherVector:
        return paillier.sum_by_group(v, rows, cells.ravel(), FEATURES * BINS)

    opened = [paillier.centred(m, key.public.n) for m in paillier.decrypt(key, work())]
    assert opened == histogram(r).ravel().tolist()
    return {"histogram": ticks.best(work)}


def serialisation(key: PrivateKey, ticks: Clock) -> Figures:
    """Return ciphertexts written and read a second; `from_bytes` with its checks beside the bare reading."""
    v, kernel = paillier.encrypt(key, range(ON_THE_WIRE)), key.public.kernel
    body = paillier.to_bytes(v)
    assert kernel.unpack(kernel.from_rows(body)) == kernel.unpack(v.values)
    return {
        "write": ticks.rate(ON_THE_WIRE, lambda: kernel.to_rows(v.values)),
        "read": ticks.rate(ON_THE_WIRE, lambda: kernel.from_rows(body)),
        "receive": ticks.rate(ON_THE_WIRE, lambda: paillier.from_bytes(key.public, body, count=ON_THE_WIRE)),
    }
