"""What this machine's arithmetic costs, measured in about two seconds with the kernel and the key length of the job.

All figures are CPU seconds, which other work on the machine disturbs little; `vfl.estimating.account` turns them into
seconds of a run by the number of cores that its roles share.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from parties.codec import decode, encode
from parties.wire import Encrypted
from vfl.job import Privacy
from vfl.paillier import decrypt, generate_keypair
from vfl.paillier import encrypt as encrypt_numbers
from vfl.paillier.kernels import Kernel, Values
from vfl.paillier.keys import PrivateKey
from vfl.paillier.obfuscators import OWNER_EXTRA_BITS
from vfl.paillier.split import thread_count
from vfl.paillier.vectors import from_bytes, to_bytes

_LEAST = 0.04  # seconds of CPU per measurement
_MANY, _CALLS = 1024, 64
_HOP = 6e-4  # a frame's way through the threads of sender, connection and receiver
_START = """
import time
import vfl.role, vfl.session
engine = time.process_time()
import vfl.preprocess, vfl.metrics, vfl.baselines
import sklearn.compose, sklearn.impute, sklearn.pipeline, sklearn.preprocessing
print(engine, time.process_time())
"""


@dataclass(frozen=True, slots=True)
class Speeds:
    """CPU seconds per operation, and the cores that there are.

    Attributes
    ----------
    product, squaring, plaintext : float
        Modulo N^2.
    call : float
        One call of the kernel, whatever it computes.
    encrypt, encrypt_public : float
        An obfuscator and its plaintext, by the key's owner and by others; ``rerandomise``: towards the key's owner.
    owner_tables, public_tables, long_tables : float
        What is made once before many of these.
    decrypt, receive : float
        Per ciphertext; receiving checks it.
    byte, codec_byte, sealed_byte : float
        Per byte and hop; per byte once; per byte between parties.
    hop : float
        Per message and hop.
    start, learn : float
        A role's interpreter with the engine; importing scikit-learn, which encodes columns and judges models.
    """

    cores: int
    key_seconds: float
    product: float
    squaring: float
    plaintext: float
    call: float
    encrypt: float
    encrypt_public: float
    rerandomise: float
    owner_tables: float
    public_tables: float
    long_tables: float
    decrypt: float
    receive: float
    byte: float
    codec_byte: float
    sealed_byte: float
    hop: float
    start: float
    learn: float


def calibrate(privacy: Privacy) -> Speeds:
    """Measure this machine."""
    child = _start_child()
    start = time.process_time()
    key = generate_keypair(
        privacy.key_bits, exponent_bits=privacy.exponent_bits, insecure_test_mode=privacy.insecure_test_mode
    )
    made = time.process_time() - start
    measured = _arithmetic(key) | _wire()
    return Speeds(cores=thread_count(), key_seconds=made, hop=_HOP, **measured, **_imports(child))


def _per(work: Callable[[], object], count: int) -> float:
    """CPU seconds of one of ``count`` operations; the least of some repetitions."""
    best, spent = float("inf"), 0.0
    while spent < _LEAST:
        before = time.process_time()
        work()
        took = time.process_time() - before
        best, spent = min(best, took), spent + max(took, 1e-4)
    return best / count


def _arithmetic(key: PrivateKey) -> dict[str, float]:
    public, kernel = key.public, key.public.kernel
    fast = kernel.costs.table_after
    owner_tables = _table(key.obfuscators.draw, fast)
    long_tables = _table(lambda count: public.obfuscators.draw(count, towards_owner=True), fast)
    shorter = public.exponent_bits / (public.bits + OWNER_EXTRA_BITS)
    rerandomise = _per(lambda: public.obfuscators.draw(64, towards_owner=True), 64)
    ciphers = encrypt_numbers(key, [1] * 256)
    body = to_bytes(ciphers)
    values = kernel.join([ciphers.values] * (_MANY // 256))
    return {
        "product": _per(lambda: _products(kernel, values), 4 * _MANY),
        "squaring": _per(lambda: kernel.pow_uniform(kernel.take(values, slice(0, 64)), 1 << 64), 64 * 64),
        "plaintext": _per(lambda: kernel.add_plaintexts(ciphers.values, [1] * 256), 256),
        "call": _per(lambda: _few(kernel, ciphers.values), _CALLS),
        "encrypt": _per(lambda: encrypt_numbers(key, [1] * 256), 256),
        "encrypt_public": rerandomise * shorter,
        "rerandomise": rerandomise,
        "owner_tables": owner_tables,
        "public_tables": long_tables * shorter,
        "long_tables": long_tables,
        "decrypt": _per(lambda: decrypt(key, ciphers[:16]), 16),
        "receive": _per(lambda: from_bytes(public, body, count=256), 256),
    }


def _table(draw: Callable[[int], object], enough: int) -> float:
    """CPU seconds of the tables that are made once so many obfuscators are asked for."""
    before = time.process_time()
    draw(enough)
    middle = time.process_time()
    draw(enough)
    return max(0.0, 2 * middle - before - time.process_time())


def _few(kernel: Kernel, values: Values) -> None:
    """Calls that compute next to nothing."""
    one = np.zeros(1, dtype=np.int64)
    for _ in range(_CALLS):
        kernel.mul_pairs(values, one, values, one)


def _products(kernel: Kernel, values: Values) -> None:
    """4 products a value, of segments as long as a bucket."""
    idx = np.random.default_rng(0).integers(0, len(values), 4 * len(values) + len(values) // 4)
    kernel.seg_prod(values, idx, np.arange(0, len(idx) + 1, 17))


def _wire() -> dict[str, float]:
    """Bytes on their way: checksums, TLS and copies per hop; the codec's; seals."""
    data = os.urandom(1 << 20)
    cipher, nonce = AESGCM(bytes(32)), bytes(12)
    size = len(data)
    checksum = _per(lambda: zlib.crc32(data), size)
    seal = _per(lambda: cipher.encrypt(nonce, data, None), size)
    copy = _per(lambda: bytearray(data), size)
    payload = Encrypted(b"", np.frombuffer(data, dtype=np.uint8).reshape(-1, 512))
    codec = _per(lambda: decode(Encrypted, encode(payload)), size)
    return {"byte": 2 * (checksum + seal) + 6 * copy, "codec_byte": codec + copy, "sealed_byte": 2 * seal}


def _start_child() -> subprocess.Popen[str]:
    """A process that imports what a role's does."""
    settings = {"OPENBLAS_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    return subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-c", _START], stdout=subprocess.PIPE, text=True, env=os.environ | settings
    )


def _imports(child: subprocess.Popen[str]) -> dict[str, float]:
    """What they took, in CPU seconds."""
    engine, everything = map(float, child.communicate()[0].split())
    return {"start": engine, "learn": everything - engine}
