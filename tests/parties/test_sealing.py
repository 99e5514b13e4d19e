"""Sealed channels against a relay that alters, repeats, moves, swaps and impersonates."""

import itertools

import msgspec
import pytest

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
