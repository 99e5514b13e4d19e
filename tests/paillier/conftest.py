"""Keys are made once for the whole run: small ones for breadth, one of full length."""

from collections.abc import Callable
from functools import cache

import pytest

import vfl.paillier as paillier
from vfl.paillier import PrivateKey, generate_keypair
from vfl.paillier.ifma_kernel import why_not_ifma


@pytest.fixture(scope="session")
def key() -> PrivateKey:
    return generate_keypair(512, insecure_test_mode=True)


@pytest.fixture(scope="session")
def other_key() -> PrivateKey:
    return generate_keypair(512, insecure_test_mode=True)


@pytest.fixture(scope="session")
def key1024() -> PrivateKey:
    return generate_keypair(1024, insecure_test_mode=True)


@pytest.fixture(scope="session")
def key2048() -> PrivateKey:
    return generate_keypair(2048)


@pytest.fixture(scope="session", params=["gmpy2", "ifma"])
def key_on(request: pytest.FixtureRequest) -> Callable[[int], PrivateKey]:
    """Keys of any length on one kernel, then on the other."""
    obstacle = why_not_ifma() if request.param == "ifma" else None
    if obstacle:
        pytest.skip(obstacle)

    @cache
    def make(bits: int) -> PrivateKey:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VFL_KERNEL", request.param)
            made = generate_keypair(bits, insecure_test_mode=True)
            paillier.decrypt(made, paillier.encrypt(made, [0]))  # opens the kernels modulo N, p and q
        return made

    return make
