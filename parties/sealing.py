"""Sealing between two parties, so that the coordinator relays what it cannot read, alter, replay or swap.

Each party has a static X25519 key (pinned by its peers) and makes a fresh one per process start. Both sides derive,
as in the Noise pattern KK, one AES-256-GCM key per direction and a root for shared streams (masks, agreement
checks) from the four Diffie-Hellman results, bound to the job and to both names:

    HKDF-SHA256(ee | es | se | ss, salt = SHA-256(job digest, names), info = purpose)

The nonce is a 96-bit counter per direction; the associated data names sender, receiver, message, sequence number,
chunk and whether it is the last, so that a chunk opens only at the place it was sealed for.
Source: T. Perrin, *The Noise Protocol Framework*, pattern KK. Whoever steals the static keys later cannot read
earlier runs (``ee``); whoever relays cannot put in a fresh key of its own (``ss``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from parties.errors import CryptoError
from parties.frame import Header


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair; ``repr`` shows the public half only."""

    private: X25519PrivateKey = field(repr=False)
    public: bytes

    @staticmethod
    def fresh() -> KeyPair:
        """Make a pair from the operating system's randomness."""
        return KeyPair.from_private_bytes(X25519PrivateKey.generate().private_bytes_raw())

    @staticmethod
    def from_private_bytes(secret: bytes) -> KeyPair:
        """Read a pair back from its 32 private bytes."""
        private = X25519PrivateKey.from_private_bytes(secret)
        return KeyPair(private, private.public_key().public_bytes_raw())

    def agree(self, theirs: bytes) -> bytes:
        """X25519 with a peer's public key; a low-order point is refused."""
        try:
            return self.private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError as error:
            raise CryptoError("a peer's public key is not a valid X25519 point") from error


@dataclass(slots=True)
class Channel:
    """What two parties share: one key per direction, a counter each, and a root for named secrets."""

    _seal: AESGCM = field(repr=False)
    _open: AESGCM = field(repr=False)
    _root: bytes = field(repr=False)
    _sent: int = 0
    _received: int = 0

    def seal(self, header: Header, chunk: bytes | memoryview) -> bytes:
        """Encrypt one chunk for the place that ``header`` names."""
        nonce = self._sent.to_bytes(12, "little")
        self._sent += 1
        return self._seal.encrypt(nonce, chunk, msgspec.msgpack.encode(header))

    def open(self, header: Header, body: bytes) -> bytes:
        """Decrypt the next chunk; anything altered, replayed, reordered or swapped is refused."""
        nonce = self._received.to_bytes(12, "little")
        try:
            chunk = self._open.decrypt(nonce, body, msgspec.msgpack.encode(header))
        except InvalidTag as error:
            raise CryptoError(
                f"the seal of {header.message or 'a message'} from {header.sender} does not open: "
                "it was altered, repeated or moved on its way"
            ) from error
        self._received += 1
        return chunk

    def secret(self, purpose: str) -> bytes:
        """32 bytes that only these two parties know, another for every purpose."""
        return _derive(self._root, b"", f"shared|{purpose}")


def open_channel(
    me: str,
    peer: str,
    static: KeyPair,
    ephemeral: KeyPair,
    peer_static: bytes,
    peer_ephemeral: bytes,
    job: bytes,
) -> Channel:
    """Derive the channel between two named parties; both sides call it with their own view.

    Parameters
    ----------
    job : bytes
        Digest of the job; parties of different jobs cannot open each other's seals.
    """
    first, second = sorted((me, peer))
    mine_first = me == first
    ee = ephemeral.agree(peer_ephemeral)
    ss = static.agree(peer_static)
    ephemeral_static = ephemeral.agree(peer_static)
    static_ephemeral = static.agree(peer_ephemeral)
    es, se = (ephemeral_static, static_ephemeral) if mine_first else (static_ephemeral, ephemeral_static)
    statics = (static.public, peer_static) if mine_first else (peer_static, static.public)
    fresh = (ephemeral.public, peer_ephemeral) if mine_first else (peer_ephemeral, ephemeral.public)
    salt = hashlib.sha256(msgspec.msgpack.encode([b"vfl sealing 1", job, first, second, *statics, *fresh])).digest()
    keys = {sender: _derive(ee + es + se + ss, salt, f"from|{sender}") for sender in (first, second)}
    return Channel(AESGCM(keys[me]), AESGCM(keys[peer]), _derive(ee + es + se + ss, salt, "root"))


def _derive(secret: bytes, salt: bytes, info: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info.encode()).derive(secret)
