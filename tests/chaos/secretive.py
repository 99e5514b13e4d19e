"""The ``vfl`` command in a process that leaves its secrets in a file, and stands still in the middle of the training.

``VFL_TEST_SECRETS`` names the file: hexadecimal bytes by name; what others may see is called "public ...". The process
goes on once the file that ``VFL_TEST_STOP`` names is gone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_secrets: dict[str, str] = {}
_kept: list[Any] = []
ROUND = 2


def tell(name: str, data: bytes) -> None:
    """Keep a secret by name."""
    _secrets[name] = data.hex()


def tell_number(name: str, number: int) -> None:
    """A number as it lies in memory or in a file: in both byte orders, in Python's digits, and as text."""
    size = (number.bit_length() + 7) // 8
    tell(f"{name} little", number.to_bytes(size, "little"))
    tell(f"{name} big", number.to_bytes(size, "big"))
    tell(f"{name} text", str(number).encode())
    digits = [number >> 30 * at & (1 << 30) - 1 for at in range(-(-number.bit_length() // 30))]
    tell(f"{name} digits", np.array(digits, dtype="<u4").tobytes())


def main() -> None:
    """Play the active party of a GLM whose key it holds."""
    from vfl import cli, glm_exact

    generate, descend = glm_exact.generate_keypair, glm_exact.lbfgs_direction
    send_ciphers = glm_exact.send_ciphers
    quantise, tell_direction = glm_exact.quantised, glm_exact._tell_direction
    rounds = 0

    def generated(*arguments: Any, **options: Any) -> Any:
        key = generate(*arguments, **options)
        p, q = key.primes()
        for name, number in {"p": p, "q": q, "lambda": (p - 1) * (q - 1) // 2, "totient": (p - 1) * (q - 1)}.items():
            tell_number(f"key {name}", number)
        return key

    def sent(vector: Any) -> Any:
        payload = send_ciphers(vector)
        tell("public ciphertext", payload.body[0].tobytes())
        return payload

    def quantised(*arguments: Any) -> Any:
        residuals = quantise(*arguments)
        _kept.append(residuals)
        numbers = np.ascontiguousarray(residuals)
        tell(f"residual {rounds} quantised", numbers.tobytes()[:64])
        return residuals

    def directed(products: Any, pairs: int) -> Any:
        coefficients, slope = descend(products, pairs)
        opened = np.asarray(products, dtype=np.float64)
        _kept.extend([opened, coefficients])
        if opened.size:
            tell(f"gradient {rounds} products", opened.tobytes()[:8])
        return coefficients, slope

    def told(run: Any, coefficients: Any, stop: str) -> None:
        nonlocal rounds
        for at, value in enumerate(np.ravel(np.asarray(coefficients, dtype=np.float64))):
            if value not in (0.0, 1.0, -1.0):
                tell(f"coefficient {rounds} {at}", np.float64(value).tobytes())
        tell_direction(run, coefficients, stop)
        rounds += 1
        if rounds == ROUND:
            Path(os.environ["VFL_TEST_SECRETS"]).write_text(json.dumps(_secrets))
            wait = Path(os.environ["VFL_TEST_STOP"])
            wait.touch()
            while wait.exists():
                time.sleep(0.05)

    glm_exact.generate_keypair, glm_exact.lbfgs_direction = generated, directed
    glm_exact.send_ciphers = sent
    glm_exact.quantised, glm_exact._tell_direction = quantised, told
    cli.main()


if __name__ == "__main__":
    sys.argv[0] = "vfl"
    main()
