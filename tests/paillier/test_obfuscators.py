import gmpy2
import numpy as np
import pytest

from vfl.paillier import PrivateKey
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.obfuscators import FixedBase, exponents, random_digits


@pytest.mark.parametrize(("bits", "width"), [(1, 8), (7, 8), (8, 8), (9, 8), (552, 6), (37, 6), (256, 8)])
def test_digits_cover_their_range_and_no_more(bits: int, width: int) -> None:
    drawn = exponents(random_digits(400, bits, width), width)
    assert max(drawn).bit_length() <= bits
    union = 0
    for e in drawn:
        union |= e
    assert union == (1 << bits) - 1  # every bit is set somewhere: misses with probability bits / 2^400
    assert len(set(drawn)) > min(400, 1 << bits) // 2


@pytest.mark.parametrize(("bits", "width"), [(5, 8), (64, 8), (70, 6), (13, 4)])
def test_powers_with_and_without_the_table(bits: int, width: int) -> None:
    n = 2**89 - 1
    fixed = FixedBase(Gmpy2Kernel(n), 12345, bits, width)
    for count in (1, 5, 40, 3):  # the third call builds the table
        digits = random_digits(count, bits, width)
        expected = [pow(12345, e, n * n) for e in exponents(digits, width)]
        assert Gmpy2Kernel(n).unpack(fixed.powers(digits)) == expected


@pytest.mark.parametrize("towards_owner", [False, True])
def test_owner_and_others_draw_from_one_group(key: PrivateKey, towards_owner: bool) -> None:
    n, (p, q) = key.public.n, key.primes()
    order = (p - 1) * (q - 1) // 2
    for source in (key.obfuscators, key.public.obfuscators):
        drawn = key.public.kernel.unpack(source.draw(30, towards_owner=towards_owner))
        assert len(set(drawn)) == 30
        assert all(gmpy2.powmod(x, order, n * n) == 1 for x in drawn)
        assert all(gmpy2.jacobi(x, n) == 1 for x in drawn)
        # h_s is no square modulo p: odd and even exponents both occur
        assert {gmpy2.jacobi(x, p) for x in drawn} == {1, -1}


def test_exponents_towards_the_owner_are_longer_than_n(key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def spy(count: int, bits: int, width: int) -> np.ndarray:
        asked.append(bits)
        return random_digits(count, bits, width)

    monkeypatch.setattr("vfl.paillier.obfuscators.random_digits", spy)
    for source in (key.obfuscators, key.public.obfuscators):
        source.draw(1, towards_owner=False)
        source.draw(1, towards_owner=True)
    assert asked == [256, 552, 256, 552]
