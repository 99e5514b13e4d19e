"""Ciphertexts without obfuscators."""

from collections.abc import Sequence

from vfl.paillier.kernels import Kernel, Values


def one_plus(kernel: Kernel, k: Sequence[int]) -> Values:
    """Return 1 + k n for any integers k."""
    return kernel.add_plaintexts(kernel.pack([1] * len(k)), k)
