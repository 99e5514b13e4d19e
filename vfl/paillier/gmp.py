"""The few functions of gmpy2 that this package uses; ``gmp.pyi`` gives them types (gmpy2 ships none)."""

from gmpy2 import context, gcd, invert, is_prime, is_square, jacobi, mpz, powmod, powmod_sec

__all__ = ["context", "gcd", "invert", "is_prime", "is_square", "jacobi", "mpz", "powmod", "powmod_sec"]
