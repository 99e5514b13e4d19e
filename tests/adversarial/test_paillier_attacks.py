"""Attacks on Paillier messages: each succeeds on the usual way of doing it and fails on ours.

1. Ciphertexts sent without an obfuscator are read with the public key alone.
2. With textbook obfuscators r^N the public Jacobi symbol of X'[[r]] gives parity equations on X.
3. Packed inner products leave other equations on X and r in the slots beside the result.
"""

import math
import secrets
from fractions import Fraction

import gmpy2
import numpy as np
import pytest

import vfl.paillier as paillier
from parties.errors import LocalProtocolError
from vfl.paillier import InnerProductPlan, PrivateKey, generate_keypair, plan_inner_product


@pytest.fixture(scope="module")
def key() -> PrivateKey:
    return generate_keypair(512, insecure_test_mode=True)


def ciphertexts(v: paillier.CipherVector) -> list[int]:
    return [int.from_bytes(row.tobytes()) for row in paillier.to_bytes(v)]


def read_bare(ciphertext: int, n: int) -> int | None:
    """Read a ciphertext (1 + m N) that carries no obfuscator."""
    return (ciphertext - 1) // n if (ciphertext - 1) % n == 0 else None


LABELS = [secrets.randbelow(2) for _ in range(200)]


def test_bare_ciphertexts_are_read_with_the_public_key(key: PrivateKey) -> None:
    n = key.public.n
    naive = [(1 + y * n) % n**2 for y in LABELS]
    assert [read_bare(c, n) for c in naive] == LABELS
    bin_sum = math.prod(naive[:50]) % n**2
    assert read_bare(bin_sum, n) == sum(LABELS[:50])


def test_ours_are_not_read(key: PrivateKey) -> None:
    for source in (key, key.public):
        v = paillier.encrypt(source, LABELS)
        assert {read_bare(c, key.public.n) for c in ciphertexts(v)} == {None}
        assert {read_bare(c, key.public.n) for c in ciphertexts(paillier.encrypt(source, LABELS[:3]))} == {None}


def test_sums_are_recognised_by_who_knows_the_terms_unless_rerandomised(key: PrivateKey) -> None:
    """The sender of [[y]] multiplies its own ciphertexts over the candidate row sets of a bin."""
    n, sent = key.public.n, paillier.encrypt(key, LABELS[:8])
    terms = ciphertexts(sent)
    rows = np.array([1, 4, 6])
    total = paillier.sum_segments(sent, rows, np.array([0, 3]))

    def rows_behind(answer: int) -> list[int] | None:
        for chosen in range(1, 256):
            subset = [i for i in range(8) if chosen >> i & 1]
            if math.prod(terms[i] for i in subset) % n**2 == answer:
                return subset
        return None

    assert rows_behind(key.public.kernel.unpack(total.values)[0]) == rows.tolist()
    with pytest.raises(LocalProtocolError):
        paillier.to_bytes(total)
    assert rows_behind(ciphertexts(paillier.rerandomise(total, towards_owner=True))[0]) is None


def test_a_sum_does_not_leave_beside_what_hides_it(key: PrivateKey) -> None:
    """[[secret]] + [[mine]] and [[mine]] sent together would give [[secret]] / its known obfuscator away."""
    received = paillier.from_bytes(key.public, paillier.to_bytes(paillier.encrypt(key, [5])), count=1)
    secret = paillier.scale(received, [3])
    mine = paillier.encrypt(key.public, [7])
    paillier.to_bytes(paillier.add(secret, mine))
    with pytest.raises(LocalProtocolError):
        paillier.to_bytes(mine)


def parities(rows: list[int], right: list[int], unknowns: int) -> list[int | None]:
    """Solve equations over GF(2), given as bit masks; None where they leave an unknown open."""
    pivots: dict[int, int] = {}
    for row, bit in zip(rows, right, strict=True):
        equation = row << 1 | bit
        for pivot, known in pivots.items():
            if equation >> (pivot + 1) & 1:
                equation ^= known
        if equation >> 1:
            pivot = (equation >> 1).bit_length() - 1
            for other, known in pivots.items():
                if known >> (pivot + 1) & 1:
                    pivots[other] = known ^ equation
            pivots[pivot] = equation
    return [pivots[i] & 1 if i in pivots and pivots[i] >> 1 == 1 << i else None for i in range(unknowns)]


def observe(n: int, inputs: list[list[int]], outputs: list[int]) -> tuple[list[int], list[int]]:
    """Turn public symbols into equations: sum_i [c_i has symbol -1] x_i = [output has symbol -1] mod 2."""
    rows = [sum(1 << i for i, c in enumerate(vector) if gmpy2.jacobi(c, n) == -1) for vector in inputs]
    return rows, [int(gmpy2.jacobi(c, n) == -1) for c in outputs]


X_COLUMN = [secrets.randbelow(2**16) - 2**15 for _ in range(24)]


def test_textbook_obfuscators_give_parities_away(key: PrivateKey) -> None:
    n, nn = key.public.n, key.public.n**2
    inputs, outputs = [], []
    for _ in range(60):
        vector = [int(gmpy2.powmod(secrets.randbelow(n - 1) + 1, n, nn)) for _ in X_COLUMN]
        product = math.prod(pow(c, x, nn) for c, x in zip(vector, X_COLUMN, strict=True)) % nn
        blind = key.public.kernel.unpack(key.public.obfuscators.draw(1, towards_owner=True))[0]
        inputs.append(vector)
        outputs.append(product * blind % nn)  # re-randomising with powers of h_s does not help any more
    assert parities(*observe(n, inputs, outputs), 24) == [x % 2 for x in X_COLUMN]


def test_ours_give_none(key: PrivateKey) -> None:
    plan = plan_inner_product(512, 24, 2**40, 1)
    X = np.array(X_COLUMN, dtype=np.int64)[:, None]
    inputs, outputs = [], []
    for round_ in range(60):
        v = paillier.encrypt(key if round_ % 2 else key.public, list(range(24)))
        masked, _ = paillier.mask_products(plan, paillier.transposed_product(plan, v, X))
        inputs.append(ciphertexts(v))
        outputs += ciphertexts(masked)
    rows, right = observe(key.public.n, inputs, outputs)
    assert set(rows) == set(right) == {0}
    assert parities(rows, right, 24) == [None] * 24


K = 4
R_COLUMN = np.array([7, -30, 11, 25])
SECRET = np.array([[13, -2], [-9, 40], [5, 1], [-21, 17]])
PLAN = plan_inner_product(512, K, 30 * 64, K)


def slots(plan: InnerProductPlan, n: int, plaintext: int) -> list[int]:
    """Read every slot of a packed plaintext, as signed digits of base 2^beta."""
    rest, digits, base = paillier.centred(plaintext, n), [], 1 << plan.slot_bits
    for _ in range(2 * plan.rows_per_ciphertext - 1):
        digits.append(paillier.centred(rest, base))
        rest = (rest - digits[-1]) // base
    return digits


def divide(products: list[int], known: list[int]) -> list[Fraction]:
    """Solve slots_t = sum_(i + j = t) known_i unknown_j for the unknowns, from the lowest slot up."""
    unknown: list[Fraction] = []
    for t in range(K):
        rest = products[t] - sum(known[t - j] * unknown[j] for j in range(t))
        unknown.append(Fraction(rest) / known[0])
    return unknown


def columns_from(plaintexts: list[int], n: int) -> list[list[Fraction]]:
    """What the key's owner, who knows r, makes of what it decrypts."""
    return [divide(slots(PLAN, n, m), R_COLUMN.tolist())[::-1] for m in plaintexts]


def products(key: PrivateKey) -> paillier.CipherVector:
    return paillier.transposed_product(PLAN, paillier.encrypt(key, paillier.pack_rows(PLAN, R_COLUMN)), SECRET)


def test_the_key_owner_solves_unmasked_slots_for_the_matrix(key: PrivateKey) -> None:
    seen = paillier.decrypt(key, products(key))
    assert columns_from(seen, key.public.n) == SECRET.T.tolist()


def test_masked_slots_show_the_key_owner_nothing(key: PrivateKey) -> None:
    masked, _ = paillier.mask_products(PLAN, products(key))
    seen = paillier.decrypt(key, masked)
    wrong = zip(columns_from(seen, key.public.n), SECRET.T.tolist(), strict=True)
    assert all(got[i] != true[i] for got, true in wrong for i in range(K))


def test_every_bit_of_every_slot_is_masked(key: PrivateKey) -> None:
    """Over 400 maskings of one plaintext each bit that a slot could show is one about half the time."""
    trials, v = 400, products(key)[:1]
    repeated = paillier.CipherVector.concat([v] * trials)
    seen = paillier.decrypt(key, paillier.mask_products(PLAN, repeated)[0])
    for bit in range(PLAN.product_bits):
        ones = sum(V >> bit & 1 for V in seen)
        assert abs(ones - trials / 2) < 7 * math.sqrt(trials) / 2


def test_the_whole_plaintext_would_give_r_to_the_matrix_owner(key: PrivateKey) -> None:
    masked, masks = paillier.mask_products(PLAN, products(key))
    whole = [V - mask for V, mask in zip(paillier.decrypt(key, masked), masks, strict=True)]
    assert divide(slots(PLAN, key.public.n, whole[0]), SECRET[::-1, 0].tolist()) == R_COLUMN.tolist()


def test_ours_returns_one_slot(key: PrivateKey) -> None:
    masked, masks = paillier.mask_products(PLAN, products(key))
    opened = paillier.open_products(PLAN, key, masked, count=2)
    assert opened.shape == (2, -(-(PLAN.slot_bits + PLAN.guard_bits) // 8))
    assert paillier.unmask_products(PLAN, key.public, opened, masks) == (SECRET.T @ R_COLUMN).tolist()
