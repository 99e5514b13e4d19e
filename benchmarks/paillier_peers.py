"""What `paillier.py` measures of others: phe, gmpy2 as one would write it down, and SecretFlow's HEU.

phe and gmpy2 use one core. Where a peer would take long it gets a part of the columns or rows, and its time is scaled.
"""

from __future__ import annotations

import secrets
from typing import Any

import gmpy2
import numpy as np
import phe
from gmpy2 import mpz, powmod
from numpy.typing import NDArray
from paillier_work import (
    ADDED,
    BINS,
    COLUMNS,
    FEATURES,
    KEYS,
    ROWS,
    SAMPLED,
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
from vfl.paillier import PrivateKey

ENCRYPTED, OPENED, SOME_ROWS = 10, 40, 200
ON_HEU, OPENED_BY_HEU = 512, 256


def with_products(figures: Figures) -> Figures:
    """Add the time of encrypting r to that of X'[[r]]."""
    return {**figures, "dense_and_r": figures["dense"] + ROWS / figures["encrypt_public"]}


def measure_phe(bits: int, cores: int, rounds: int) -> Figures:
    """Return the figures of python-paillier."""
    ticks = clock(cores, rounds)
    public, private = phe.generate_paillier_keypair(n_length=bits)
    one = public.raw_encrypt(1)
    raw = [one * pow(public.g, i, public.nsquare) % public.nsquare for i in range(ROWS)]
    numbers = [phe.EncryptedNumber(public, c) for c in raw]
    X, one_hot, cells = dense_matrix(), one_hot_matrix(), bins()
    scale = ROWS * COLUMNS / (SOME_ROWS * SAMPLED)

    def products(matrix: NDArray[np.int64]) -> None:
        for column in matrix[:SOME_ROWS, :SAMPLED].T.tolist():
            terms = [c * x for c, x in zip(numbers, column, strict=False)]
            sum(terms[1:], terms[0])

    def sums() -> None:
        for column in cells[:, :SAMPLED].T:
            totals: list[Any] = [0] * BINS
            for c, b in zip(numbers, column.tolist(), strict=True):
                totals[b] = totals[b] + c

    decrypt = ticks.rate(OPENED, lambda: [private.raw_decrypt(c) for c in raw[:OPENED]])
    return with_products(
        {
            "add": ticks.rate(ROWS - 1, lambda: [a + b for a, b in zip(numbers, numbers[1:], strict=False)]),
            "encrypt_public": ticks.rate(ENCRYPTED, lambda: [public.raw_encrypt(m) for m in range(ENCRYPTED)]),
            "rerandomise": ticks.rate(ENCRYPTED, lambda: [c.obfuscate() for c in numbers[:ENCRYPTED]]),
            "decrypt": decrypt,
            "decrypt_packed": decrypt,  # one value each
            "dense": ticks.best(lambda: products(X)) * scale,
            "one_hot": ticks.best(lambda: products(one_hot)) * scale,
            "histogram": ticks.best(sums) * FEATURES / SAMPLED,
            "new_key": ticks.mean(lambda: phe.generate_paillier_keypair(n_length=bits), KEYS),
        }
    )


def measure_naive(bits: int, cores: int, rounds: int) -> Figures:
    """Return the figures of textbook Paillier on gmpy2's ``x * y % nn`` and ``powmod``."""
    ticks = clock(cores, rounds)
    key = paillier.generate_keypair(bits, insecure_test_mode=bits < 2048)
    n, width = mpz(key.public.n), key.public.ciphertext_bytes
    nn = n * n
    numbers = [mpz(secrets.randbelow(int(nn))) for _ in range(ROWS)]
    inverses = [gmpy2.invert(c, nn) for c in numbers]
    written = [int(c).to_bytes(width) for c in numbers]
    X, one_hot = dense_matrix(), one_hot_matrix()

    def encrypt() -> list[mpz]:
        return [(1 + m * n) * powmod(mpz(secrets.randbelow(int(n))), n, nn) % nn for m in range(ENCRYPTED)]

    def obfuscate() -> list[mpz]:
        return [c * powmod(mpz(secrets.randbelow(int(n))), n, nn) % nn for c in numbers[:ENCRYPTED]]

    return with_products(
        {
            **naive_products(numbers, nn, ticks),
            "add": ticks.rate(ROWS, lambda: [x * y % nn for x, y in zip(numbers, inverses, strict=True)]),
            "encrypt_public": ticks.rate(ENCRYPTED, encrypt),
            "rerandomise": ticks.rate(ENCRYPTED, obfuscate),
            "decrypt": naive_decryption(key, numbers, ticks),
            "dense": ticks.best(lambda: naive_transposed(numbers, inverses, X, nn)) * COLUMNS / SAMPLED,
            "one_hot": ticks.best(lambda: naive_transposed(numbers, inverses, one_hot, nn)) * COLUMNS / SAMPLED,
            "histogram": ticks.best(lambda: naive_histogram(numbers, nn)) * FEATURES / SAMPLED,
            "write": ticks.rate(ROWS, lambda: b"".join(int(c).to_bytes(width) for c in numbers)),
            "read": ticks.rate(ROWS, lambda: [mpz(int.from_bytes(row)) for row in written]),
            "receive": ticks.rate(ROWS, lambda: naive_receive(written, n)),
        }
    )


def naive_products(numbers: list[mpz], nn: mpz, ticks: Clock) -> Figures:
    """Return products and squarings modulo N^2 a second."""

    def chain() -> mpz:
        product = mpz(1)
        for x in numbers:
            product = product * x % nn
        return product

    def squares() -> mpz:
        x = numbers[0]
        for _ in numbers:
            x = x * x % nn
        return x

    return {"products": ticks.rate(ROWS, chain), "squarings": ticks.rate(ROWS, squares)}


def naive_decryption(key: PrivateKey, numbers: list[mpz], ticks: Clock) -> float:
    """Return textbook decryptions a second: L(c^lambda mod N^2) mu mod N."""
    p, q = key.primes()
    n = mpz(p) * q
    nn, carmichael = n * n, gmpy2.lcm(mpz(p) - 1, mpz(q) - 1)
    mu = gmpy2.invert(carmichael, n)
    return ticks.rate(ENCRYPTED, lambda: [(powmod(c, carmichael, nn) - 1) // n * mu % n for c in numbers[:ENCRYPTED]])


def naive_transposed(numbers: list[mpz], inverses: list[mpz], X: NDArray[np.int64], nn: mpz) -> list[mpz]:
    """Return some columns of X'[[r]] by one gmpy2 power per entry; the inverses for negative ones are given."""
    totals = []
    for column in X[:, :SAMPLED].T.tolist():
        total = mpz(1)
        for i, x in enumerate(column):
            total = total * powmod(numbers[i] if x > 0 else inverses[i], abs(x), nn) % nn
        totals.append(total)
    return totals


def naive_receive(written: list[bytes], n: mpz) -> list[mpz]:
    """Read ciphertexts and make sure that they are units modulo N^2; ours must have Jacobi symbol +1 as well."""
    numbers = [mpz(int.from_bytes(row)) for row in written]
    assert all(0 < c < n * n and gmpy2.gcd(c, n) == 1 for c in numbers)
    return numbers


def naive_histogram(numbers: list[mpz], nn: mpz) -> list[mpz]:
    """Return the sums of some features' bins."""
    totals = [mpz(1)] * (BINS * SAMPLED)
    for i, row in enumerate(bins()[:, :SAMPLED].tolist()):
        for feature, b in enumerate(row):
            at = feature * BINS + b
            totals[at] = totals[at] * numbers[i] % nn
    return totals


def measure_heu(bits: int, cores: int, rounds: int) -> Figures:
    """Return the figures of HEU's own Paillier, ``ZPaillier``, on as many threads as this process may use cores."""
    from heu import numpy as hnp
    from heu import phe as heu_phe

    ticks, schema = clock(cores, rounds, own_threads=True), heu_phe.SchemaType.ZPaillier
    new_key = ticks.mean(lambda: hnp.setup(schema, bits), KEYS)
    kit = hnp.setup(schema, bits)
    encryptor, decryptor, evaluator = kit.encryptor(), kit.decryptor(), kit.evaluator()
    encoder, two_each = heu_phe.IntegerEncoder(schema, 1), heu_phe.BatchIntegerEncoder(schema)
    some = hnp.array(np.arange(ON_HEU).reshape(-1, 1), encoder)
    encrypted = encryptor.encrypt(hnp.array(residuals().reshape(-1, 1), encoder))
    many = encrypted[[i % ROWS for i in range(ADDED)]]
    opened = encrypted[list(range(OPENED_BY_HEU))]
    pairs = encryptor.encrypt(hnp.array(np.arange(2 * OPENED_BY_HEU).reshape(-1, 2), two_each))
    dense, one_hot = (m()[:, :SAMPLED].T.copy() for m in (dense_matrix, one_hot_matrix))
    dense_plain, one_hot_plain = hnp.array(dense, encoder), hnp.array(one_hot, encoder)
    cells, everybody = bins().astype(np.int8), np.ones((1, ROWS), dtype=np.int8)
    body = encrypted.serialize()

    def sums() -> Any:
        return evaluator.feature_wise_bucket_sum(encrypted, everybody, cells, BINS, False)

    assert (decryptor.decrypt(sums()).to_numpy(encoder).ravel() == histogram(residuals()).ravel()).all()
    return with_products(
        {
            "new_key": new_key,
            "products": ticks.rate(ROWS - 1, lambda: evaluator.sum(encrypted)),
            "add": ticks.rate(ADDED, lambda: evaluator.add(many, many)),
            "encrypt_public": ticks.rate(ON_HEU, lambda: encryptor.encrypt(some)),
            "decrypt": ticks.rate(OPENED_BY_HEU, lambda: decryptor.decrypt(opened)),
            "decrypt_packed": ticks.rate(2 * OPENED_BY_HEU, lambda: decryptor.decrypt(pairs).to_numpy(two_each)),
            "dense": ticks.best(lambda: evaluator.matmul(dense_plain, encrypted), 1) * COLUMNS / SAMPLED,
            "one_hot": ticks.best(lambda: evaluator.matmul(one_hot_plain, encrypted), 1) * COLUMNS / SAMPLED,
            "histogram": ticks.best(sums),
            "write": ticks.rate(ROWS, encrypted.serialize),
            "read": ticks.rate(ROWS, lambda: hnp.CiphertextArray.load_from(body)),
        }
    )
