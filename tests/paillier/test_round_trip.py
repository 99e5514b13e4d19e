"""The whole road once: key, encryption, masked products, wire, opening, exact integers."""

import numpy as np
import pytest

import vfl.paillier as paillier


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_masked_products_are_exact(k: int, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_THREADS", threads)
    key = paillier.generate_keypair(512, insecure_test_mode=True)
    rng = np.random.default_rng(k)
    X = rng.integers(-(2**11), 2**11, (57, 4))
    r = rng.integers(-(2**20), 2**20, 57)
    plan = paillier.plan_inner_product(512, 57, 2**20 * int(np.abs(X).sum(axis=0).max()), k)
    v = paillier.encrypt(key, paillier.pack_rows(plan, r))
    received = paillier.from_bytes(key.public, paillier.to_bytes(v), count=plan.ciphertexts)
    masked, masks = paillier.mask_products(plan, paillier.transposed_product(plan, received, X))
    returned = paillier.from_bytes(key.public, paillier.to_bytes(masked), count=4)
    opened = paillier.open_products(plan, key, returned, count=4)
    assert paillier.unmask_products(plan, key.public, opened, masks) == (X.T @ r).tolist()
