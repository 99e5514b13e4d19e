"""Keys are made once for the whole run: small ones for breadth, one of full length."""

import pytest

from vfl.paillier import PrivateKey, generate_keypair


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
