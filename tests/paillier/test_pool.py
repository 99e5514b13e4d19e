import os
import pickle

import pytest

import vfl.paillier as paillier
from parties.errors import ConfigError, LocalProtocolError
from vfl.paillier import ObfuscatorPool, PrivateKey


@pytest.mark.parametrize("owner", [True, False])
def test_a_pool_fills_up_and_no_further(key: PrivateKey, owner: bool) -> None:
    with ObfuscatorPool(key if owner else key.public, capacity=70, threads=2) as pool:
        assert pool.wait_full(30.0)
        assert len(pool) == 70


def test_every_obfuscator_is_used_once(key: PrivateKey) -> None:
    """Ciphertexts of zero are the obfuscators themselves: the pool's, and those made when it was empty."""
    with ObfuscatorPool(key.public, capacity=50) as pool:
        assert pool.wait_full(30.0)
        vectors = [paillier.encrypt(key.public, [0] * 40, pool=pool) for _ in range(5)]
    seen = {row.tobytes() for v in vectors for row in paillier.to_bytes(v)}
    assert len(seen) == 200


@pytest.mark.parametrize("counts", [[1] * 70, [33, 0, 5, 32], [70], [71], [0, 200]])
def test_draws_of_all_sizes_cut_the_batches(key: PrivateKey, counts: list[int]) -> None:
    with ObfuscatorPool(key, capacity=70) as pool:
        assert pool.wait_full(30.0)
        drawn = [key.public.kernel.unpack(pool.draw(count, towards_owner=False)) for count in counts]
    assert [len(numbers) for numbers in drawn] == counts
    assert len({x for numbers in drawn for x in numbers}) == sum(counts)


def test_encrypting_and_rerandomising_from_pools(key: PrivateKey) -> None:
    with (
        ObfuscatorPool(key, capacity=10) as mine,
        ObfuscatorPool(key.public, capacity=10, towards_owner=True) as towards,
    ):
        v = paillier.encrypt(key, list(range(30)), pool=mine)
        w = paillier.rerandomise(v, towards_owner=True, pool=towards)
        assert w.fresh
        assert paillier.decrypt(key, w) == list(range(30))


def test_a_pool_serves_one_direction_and_one_key(key: PrivateKey, other_key: PrivateKey) -> None:
    with ObfuscatorPool(key.public, capacity=4) as pool:
        v = paillier.encrypt(key, [1])
        with pytest.raises(LocalProtocolError, match="direction"):
            paillier.rerandomise(v, towards_owner=True, pool=pool)
        with pytest.raises(LocalProtocolError, match="different keys"):
            paillier.encrypt(other_key, [1], pool=pool)


def test_a_closed_pool_is_empty(key: PrivateKey) -> None:
    pool = ObfuscatorPool(key.public, capacity=4)
    pool.close()
    pool.close()
    assert len(pool) == 0
    assert paillier.decrypt(key, paillier.encrypt(key, [5], pool=pool)) == [5]


def test_a_pool_does_not_cross_a_fork(key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    with ObfuscatorPool(key.public, capacity=4) as pool:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(LocalProtocolError, match="fork"):
            pool.draw(1, towards_owner=False)
        monkeypatch.undo()


def test_a_pool_is_not_pickled(key: PrivateKey) -> None:
    with ObfuscatorPool(key.public, capacity=4) as pool, pytest.raises(LocalProtocolError):
        pickle.dumps(pool)


@pytest.mark.parametrize("sizes", [{"capacity": 0}, {"threads": 0}])
def test_sizes_are_checked(key: PrivateKey, sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ObfuscatorPool(key.public, **sizes)
