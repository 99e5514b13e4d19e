"""Sealed channels against a relay that alters, repeats, moves, swaps and impersonates."""

import hashlib
import hmac
import itertools

import msgspec
import pytest
from nacl import bindings

from parties import sealing
from parties.errors import CryptoError
from parties.frame import SEAL_BYTES, Header
from parties.sealing import KeyPair, open_channel

JOB = b"digest of the job"
HEADER = Header("bank", "shop", "glm.share", 0, 0, True)
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    (2**255 - 20).to_bytes(32, "little"),  # -1
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


class Pair:
    """Keys of two parties; ``channels`` opens both ends, each with its own view of the other."""

    def __init__(self):
        self.static = {name: KeyPair.fresh() for name in ("bank", "shop")}
        self.fresh = {name: KeyPair.fresh() for name in ("bank", "shop")}

    def channel(self, me, peer, *, job=JOB, pinned=None, relayed=None, names=None):
        mine, theirs = names or (me, peer)
        return open_channel(
            mine,
            theirs,
            self.static[me],
            self.fresh[me],
            pinned or self.static[peer].public,
            relayed or self.fresh[peer].public,
            job,
        )

    def channels(self, **at_shop):
        return self.channel("bank", "shop"), self.channel("shop", "bank", **at_shop)


@pytest.fixture
def pair():
    return Pair()


def refused(channel, header, body):
    with pytest.raises(CryptoError, match="does not open"):
        channel.open(header, body)


def test_both_sides_derive_the_same(pair):
    bank, shop = pair.channels()
    for number in range(5):
        there, back = Header("bank", "shop", "m", number), Header("shop", "bank", "m", number)
        assert shop.open(there, bank.seal(there, b"there %d" % number)) == b"there %d" % number
        assert bank.open(back, shop.seal(back, b"back")) == b"back"
    assert shop.open(HEADER, bank.seal(HEADER, b"")) == b""


def test_a_seal_hides_and_costs_its_overhead(pair):
    bank, _ = pair.channels()
    text = b"a value that nobody else may read"
    sealed = bank.seal(HEADER, text)
    assert len(sealed) == len(text) + SEAL_BYTES
    assert text[:8] not in sealed
    assert bank.seal(HEADER, text) != sealed  # another nonce


def test_every_altered_bit_is_refused(pair):
    bank, shop = pair.channels()
    sealed = bank.seal(HEADER, b"residuals")
    for bit in range(8 * len(sealed)):
        altered = bytearray(sealed)
        altered[bit // 8] ^= 1 << bit % 8
        refused(shop, HEADER, bytes(altered))
    for length in range(len(sealed)):
        refused(shop, HEADER, sealed[:length])
    refused(shop, HEADER, sealed + b"\0")
    assert shop.open(HEADER, sealed) == b"residuals"  # what was refused used nothing up


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "biller"},
        {"receiver": "biller"},
        {"message": "glm.total"},
        {"sequence": 1},
        {"part": 1},
        {"last": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_chunk_opens_only_at_its_place(pair, change):
    bank, shop = pair.channels()
    refused(shop, msgspec.structs.replace(HEADER, **change), bank.seal(HEADER, b"chunk"))


def test_repeated_reordered_and_left_out_chunks_are_refused(pair):
    bank, shop = pair.channels()
    first, second, third = (bank.seal(HEADER, bytes([number])) for number in range(3))
    refused(shop, HEADER, second)
    assert shop.open(HEADER, first) == b"\0"
    refused(shop, HEADER, first)
    refused(shop, HEADER, third)
    assert shop.open(HEADER, second) == b"\1"


def test_a_chunk_does_not_open_in_the_other_direction(pair):
    bank, _ = pair.channels()
    refused(bank, HEADER, bank.seal(HEADER, b"mirror"))


def test_directions_use_different_keys(pair):
    bank, shop = pair.channels()
    assert bank.seal(HEADER, b"same") != shop.seal(HEADER, b"same")


OTHER = KeyPair.fresh().public


@pytest.mark.parametrize(
    "view",
    [{"job": b"another job"}, {"pinned": OTHER}, {"relayed": OTHER}, {"names": ("shop", "bank2")}],
    ids=["job", "pinned key", "swapped fresh key", "name"],
)
def test_another_view_of_the_run_opens_nothing(pair, view):
    bank, shop = pair.channels(**view)
    refused(shop, HEADER, bank.seal(HEADER, b"x"))
    back = Header("shop", "bank", "m")
    refused(bank, back, shop.seal(back, b"x"))
    assert bank.secret("masks") != shop.secret("masks")


def test_a_relay_with_its_own_fresh_keys_on_both_sides_reads_nothing(pair):
    relay = KeyPair.fresh()
    bank = pair.channel("bank", "shop", relayed=relay.public)
    sealed = bank.seal(HEADER, b"x")
    for static, known in itertools.product([relay, KeyPair.fresh()], pair.static.values()):
        middle = open_channel("shop", "bank", static, relay, known.public, pair.fresh["bank"].public, JOB)
        refused(middle, HEADER, sealed)


def test_a_stolen_static_key_does_not_read_an_earlier_run(pair):
    bank, _ = pair.channels()
    thief = open_channel(
        "shop", "bank", pair.static["shop"], KeyPair.fresh(), pair.static["bank"].public, pair.fresh["bank"].public, JOB
    )
    refused(thief, HEADER, bank.seal(HEADER, b"x"))


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point[:4].hex())
@pytest.mark.parametrize("place", ["pinned", "relayed"])
def test_low_order_points_are_refused(pair, point, place):
    for sign in (0, 0x80):  # X25519 ignores the top bit
        with pytest.raises(CryptoError, match="not a valid"):
            pair.channel("bank", "shop", **{place: point[:31] + bytes([point[31] | sign])})


@pytest.mark.parametrize("length", [1, 31, 33])
def test_keys_of_a_wrong_length_are_refused(pair, length):
    with pytest.raises(CryptoError, match="not a valid"):
        pair.channel("bank", "shop", relayed=b"\x09" * length)


def test_pair_secrets(pair):
    bank, shop = pair.channels()
    again = Pair()
    again.static = pair.static
    assert len(bank.secret("masks")) == 32
    assert bank.secret("masks") == bank.secret("masks") == shop.secret("masks")
    assert bank.secret("agreement") != bank.secret("masks")
    assert bank.secret("masks") != again.channels()[0].secret("masks")  # another run, the same pinned keys


def test_secrets_are_not_shown(pair):
    bank, _ = pair.channels()
    key = pair.static["bank"]
    shown = repr(bank) + str(bank) + repr(key)
    assert repr(key.public) in shown
    for secret in (key.private.private_bytes_raw(), bank._root):
        assert repr(secret)[2:-1] not in shown
        assert secret.hex() not in shown
    assert "AESGCM" not in shown and "PrivateKey" not in shown


def test_a_key_pair_is_read_back():
    pair = KeyPair.fresh()
    assert KeyPair.from_private_bytes(pair.private.private_bytes_raw()).public == pair.public


# Known answers, and the same once more by other means


def test_diffie_hellman_of_rfc_7748() -> None:
    """Section 6.1: Bob's keys, Alice's public key, and what they share."""
    bob = KeyPair.from_private_bytes(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
    alice = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    assert bob.public == bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert bob.agree(alice) == shared


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, sections 2.2 and 2.3."""
    key = hmac.digest(salt, secret, "sha256")
    block = output = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


def test_key_derivation_of_rfc_5869() -> None:
    """Appendix A, cases 1 and 3: the second one is fit for the engine's, which takes text for ``info``."""
    first = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert first.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    third = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert hkdf(b"\x0b" * 22, b"", b"", 32).hex() == third
    assert sealing._derive(b"\x0b" * 22, b"", "").hex() == third


def text(value: str) -> bytes:
    """A short text in msgpack."""
    return bytes([0xA0 | len(value)]) + value.encode()


def blob(value: bytes) -> bytes:
    return bytes([0xC4, len(value)]) + value


def test_a_channel_against_another_implementation() -> None:
    """Every byte from the docstring, with the primitives of libsodium and of the standard library."""
    secrets = {name: bytes(range(start, start + 32)) for name, start in [("bank", 0), ("shop", 40)]}
    fresh = {name: bytes(range(start, start + 32)) for name, start in [("bank", 90), ("shop", 150)]}
    public = {name: bindings.crypto_scalarmult_base(secret) for name, secret in secrets.items()}
    shown = {name: bindings.crypto_scalarmult_base(secret) for name, secret in fresh.items()}
    together = b"".join(
        [
            bindings.crypto_scalarmult(fresh["bank"], shown["shop"]),  # ee
            bindings.crypto_scalarmult(fresh["bank"], public["shop"]),  # es
            bindings.crypto_scalarmult(secrets["bank"], shown["shop"]),  # se
            bindings.crypto_scalarmult(secrets["bank"], public["shop"]),  # ss
        ]
    )
    bound = [blob(b"vfl sealing 1"), blob(JOB), text("bank"), text("shop")]
    bound += [blob(key) for key in (public["bank"], public["shop"], shown["bank"], shown["shop"])]
    salt = hashlib.sha256(b"\x98" + b"".join(bound)).digest()
    for me, peer in (("bank", "shop"), ("shop", "bank")):
        pairs = [KeyPair.from_private_bytes(secret[me]) for secret in (secrets, fresh)]
        channel = open_channel(me, peer, *pairs, public[peer], shown[peer], JOB)
        assert channel.secret("masks") == hkdf(hkdf(together, salt, b"root", 32), b"", b"shared|masks", 32)
        key = hkdf(together, salt, f"from|{me}".encode(), 32)
        for count in range(3):
            header = Header(me, peer, "glm.share", 5, count, count == 2)
            place = (
                b"\x96" + text(me) + text(peer) + text("glm.share") + bytes([5, count, 0xC3 if count == 2 else 0xC2])
            )
            nonce = count.to_bytes(12, "little")
            expected = bindings.crypto_aead_aes256gcm_encrypt(b"chunk %d" % count, place, nonce, key)
            assert channel.seal(header, b"chunk %d" % count) == expected
