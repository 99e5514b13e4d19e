"""Keys to and from phe (python-paillier): its objects and the JSON form of its command line.

phe's keys carry no h_s and no exponent length, so a key that comes from phe gets a fresh h_s here: two imports of one
key differ in fingerprint and must not be mixed. phe's primes need not be 3 mod 4; see `private_key_from_primes`.
Keys only: phe's ciphertexts may have Jacobi symbol -1 and are never mixed in with ours.
"""

from __future__ import annotations

import base64
import json
import re

import phe

from parties.errors import CryptoError
from vfl.paillier.gmp import is_square
from vfl.paillier.keys import MAX_KEY_BITS, PrivateKey, PublicKey, private_key_from_primes, public_key_from_modulus

_KIND, _ALGORITHM = "DAJ", "PAI-GN1"
_LONGEST_JSON = 1 << 16


def public_key_to_phe(key: PublicKey) -> phe.PaillierPublicKey:
    """Return phe's public key of the same N."""
    return phe.PaillierPublicKey(key.n)


def private_key_to_phe(key: PrivateKey) -> phe.PaillierPrivateKey:
    """Return phe's private key of the same primes. It holds them in the clear: keep it in this process."""
    p, q = key.primes()
    return phe.PaillierPrivateKey(public_key_to_phe(key.public), p, q)


def public_key_from_phe(key: phe.PaillierPublicKey, *, exponent_bits: int | None = None) -> PublicKey:
    """Return a public key with phe's N and a fresh h_s; exponents of |N| / 2 bits unless said otherwise."""
    return _public(int(key.n), exponent_bits)


def private_key_from_phe(key: phe.PaillierPrivateKey, *, exponent_bits: int | None = None) -> PrivateKey:
    """Return a private key with phe's primes and a fresh h_s; exponents of |N| / 2 bits unless said otherwise."""
    return _private(int(key.p), int(key.q), exponent_bits)


def public_key_to_json(key: PublicKey) -> str:
    """Return the JSON that phe's command line reads as a public key."""
    return json.dumps(_public_form(key))


def private_key_to_json(key: PrivateKey) -> str:
    """Return the JSON that phe's command line reads as a private key. Secret: write it with mode 600 or not at all."""
    p, q = key.primes()
    form = {"kty": _KIND, "key_ops": ["decrypt"], "p": _encode(p), "q": _encode(q)}
    return json.dumps({**form, "pub": _public_form(key.public), "kid": "vfl"})


def public_key_from_json(text: str, *, exponent_bits: int | None = None) -> PublicKey:
    """Return the public key in phe's JSON form, with a fresh h_s.

    Raises
    ------
    CryptoError
        If the text is not a public key of phe's.
    """
    form = _read(text, "encrypt")
    if form.get("alg") != _ALGORITHM:
        raise CryptoError(f"phe key: the algorithm is not {_ALGORITHM}.")
    return _public(_decode(form, "n"), exponent_bits)


def private_key_from_json(text: str, *, exponent_bits: int | None = None) -> PrivateKey:
    """Return the private key in phe's JSON form, with a fresh h_s.

    Raises
    ------
    CryptoError
        If the text is not a private key of phe's, or its primes and N disagree.
    """
    form = _read(text, "decrypt")
    p, q, public = _decode(form, "p"), _decode(form, "q"), form.get("pub")
    if not isinstance(public, dict) or _decode(public, "n") != p * q:
        raise CryptoError("phe key: the public part is missing or does not belong to the primes.")
    return _private(p, q, exponent_bits)


def _public(n: int, exponent_bits: int | None) -> PublicKey:
    if n < 1 << 255 or n.bit_length() > MAX_KEY_BITS or n % 2 == 0 or is_square(n):
        raise CryptoError("phe key: N is out of range, even or a square.")
    return public_key_from_modulus(n, exponent_bits or n.bit_length() // 2)


def _private(p: int, q: int, exponent_bits: int | None) -> PrivateKey:
    if min(p, q) < 3 or (p * q).bit_length() > MAX_KEY_BITS:
        raise CryptoError("phe key: the primes are out of range.")
    return private_key_from_primes(p, q, exponent_bits or (p * q).bit_length() // 2)


def _public_form(key: PublicKey) -> dict[str, object]:
    return {"kty": _KIND, "alg": _ALGORITHM, "key_ops": ["encrypt"], "n": _encode(key.n), "kid": "vfl"}


def _encode(number: int) -> str:
    """Return base64url without padding of the big-endian bytes."""
    return base64.urlsafe_b64encode(number.to_bytes((number.bit_length() + 7) // 8)).decode().rstrip("=")


def _decode(form: dict[str, object], field: str) -> int:
    text = form.get(field)
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,4096}", text) or len(text) % 4 == 1:
        raise CryptoError(f"phe key: field {field!r} is missing or is not base64url.")
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


def _read(text: str, operation: str) -> dict[str, object]:
    """Return the JSON object, if it is a key for the operation."""
    if len(text) > _LONGEST_JSON:
        raise CryptoError("phe key: the text is too long for a key.")
    try:
        form = json.loads(text)
    except ValueError:
        raise CryptoError("phe key: the text is not JSON.") from None
    operations = form.get("key_ops") if isinstance(form, dict) else None
    if not isinstance(operations, list) or form.get("kty") != _KIND or operation not in operations:
        raise CryptoError(f"phe key: the text is not a {_KIND} key that can {operation}.")
    return {str(name): value for name, value in form.items()}
