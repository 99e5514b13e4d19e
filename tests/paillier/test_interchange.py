import json

import phe
import phe.util
import pytest

import vfl.paillier as paillier
from parties.errors import CryptoError
from vfl.paillier import PrivateKey

EDGES = [0, 1, -1, 12345, -(2**200)]


def numbers(key: PrivateKey, v: paillier.CipherVector) -> list[int]:
    return [paillier.centred(x, key.public.n) for x in paillier.decrypt(key, v)]


def ciphertexts(v: paillier.CipherVector) -> list[int]:
    return [int.from_bytes(row.tobytes()) for row in paillier.to_bytes(v)]


@pytest.mark.parametrize("length", ["key", "key2048"])
def test_phe_decrypts_what_we_encrypt(length: str, request: pytest.FixtureRequest) -> None:
    key: PrivateKey = request.getfixturevalue(length)
    half = (key.public.n - 1) // 2
    theirs = paillier.private_key_to_phe(key)
    for source in (key, key.public):
        plaintexts = [*EDGES, half, -half]
        opened = [theirs.raw_decrypt(c) for c in ciphertexts(paillier.encrypt(source, plaintexts))]
        assert opened == [m % key.public.n for m in plaintexts]


@pytest.mark.parametrize("length", ["key", "key2048"])
def test_we_decrypt_what_phe_encrypts(length: str, request: pytest.FixtureRequest) -> None:
    key: PrivateKey = request.getfixturevalue(length)
    theirs = paillier.public_key_to_phe(key.public)
    encrypted = [theirs.raw_encrypt(m % key.public.n) for m in EDGES]
    assert key.decrypt_values(key.public.kernel.pack(encrypted)) == [m % key.public.n for m in EDGES]


def test_arithmetic_agrees_with_phe(key: PrivateKey) -> None:
    theirs = paillier.private_key_to_phe(key)
    a, b = paillier.encrypt(key, [5, -7, 11]), paillier.encrypt(key, [-8, 3, 2])
    results = [paillier.add(a, b), paillier.add_plain(b, [1, -2, 3]), paillier.scale(b, [-3, 0, 9])]
    for result, expected in zip(results, [[-3, -4, 13], [-7, 1, 5], [24, 0, 18]], strict=True):
        raw = ciphertexts(paillier.rerandomise(result, towards_owner=False))
        assert [theirs.raw_decrypt(c) for c in raw] == [m % key.public.n for m in expected]


def test_keys_made_by_phe() -> None:
    """phe's primes need not be 3 mod 4: several keys meet all the cases."""
    for _ in range(6):
        theirs, private = phe.generate_paillier_keypair(n_length=512)
        key = paillier.private_key_from_phe(private)
        assert key.public.n == theirs.n
        v = paillier.encrypt(paillier.public_key_from_phe(theirs), EDGES)
        body = paillier.to_bytes(v)  # every symbol is +1, so that our own check passes
        assert paillier.from_bytes(v.key, body, count=len(EDGES)).key == v.key
        assert [private.raw_decrypt(c) for c in ciphertexts(v)] == [m % theirs.n for m in EDGES]
        mine = paillier.encrypt(key, EDGES)
        assert numbers(key, paillier.from_bytes(key.public, paillier.to_bytes(mine), count=len(EDGES))) == EDGES


def test_objects_round_trip(key: PrivateKey) -> None:
    again = paillier.private_key_from_phe(paillier.private_key_to_phe(key), exponent_bits=300)
    assert set(again.primes()) == set(key.primes())
    assert again.public.exponent_bits == 300
    public = paillier.public_key_from_phe(paillier.public_key_to_phe(key.public))
    assert (public.n, public.exponent_bits) == (key.public.n, 256)


def test_json_is_what_phe_reads(key: PrivateKey) -> None:
    form = json.loads(paillier.private_key_to_json(key))
    assert (form["kty"], form["pub"]["alg"]) == ("DAJ", "PAI-GN1")
    assert (phe.util.base64_to_int(form["p"]), phe.util.base64_to_int(form["q"])) == key.primes()
    assert phe.util.base64_to_int(form["pub"]["n"]) == key.public.n


def test_we_read_what_phe_writes(key: PrivateKey) -> None:
    p, q = key.primes()
    public = {"kty": "DAJ", "alg": "PAI-GN1", "key_ops": ["encrypt"], "n": phe.util.int_to_base64(p * q), "kid": ""}
    private = {
        "kty": "DAJ",
        "key_ops": ["decrypt"],
        "p": phe.util.int_to_base64(p),
        "q": phe.util.int_to_base64(q),
        "pub": public,
        "kid": "",
    }
    assert paillier.public_key_from_json(json.dumps(public)).n == p * q
    assert paillier.private_key_from_json(json.dumps(private)).primes() == (p, q)


def test_json_round_trip(key: PrivateKey) -> None:
    assert paillier.private_key_from_json(paillier.private_key_to_json(key)).primes() == key.primes()
    assert paillier.public_key_from_json(paillier.public_key_to_json(key.public)).n == key.public.n


@pytest.mark.parametrize(
    ("field", "value"),
    [("kty", "RSA"), ("alg", "x"), ("key_ops", []), ("key_ops", 7), ("n", 5), ("n", "!!"), ("n", "AAAAA"), ("n", "Dw")],
)
def test_broken_public_json_is_refused(key: PrivateKey, field: str, value: object) -> None:
    form = {**json.loads(paillier.public_key_to_json(key.public)), field: value}
    with pytest.raises(CryptoError, match="phe key"):
        paillier.public_key_from_json(json.dumps(form))


@pytest.mark.parametrize("text", ["", "[]", "7", "{", "null", "{}", "x" * 100_000])
def test_text_that_is_no_key_is_refused(text: str) -> None:
    for read in (paillier.public_key_from_json, paillier.private_key_from_json):
        with pytest.raises(CryptoError, match="phe key"):
            read(text)


@pytest.mark.parametrize(("field", "value"), [("pub", None), ("p", "AQ"), ("q", "AQ"), ("p", None)])
def test_broken_private_json_is_refused(key: PrivateKey, field: str, value: object) -> None:
    form = {**json.loads(paillier.private_key_to_json(key)), field: value}
    with pytest.raises(CryptoError, match="phe key"):
        paillier.private_key_from_json(json.dumps(form))
