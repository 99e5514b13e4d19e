"""What the encryption of a run computes with on this machine, in words, before anything is started."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vfl.paillier import kernel_name
from vfl.paillier.ifma_kernel import why_not_ifma
from vfl.paillier.split import thread_count

if TYPE_CHECKING:
    from vfl.job import Job


@dataclass(frozen=True)
class Arithmetic:
    """Kernel and threads of every role on this machine.

    Attributes
    ----------
    key_bits : int, bits
        Length of the run's keys.
    kernel : str
        "ifma" or "gmpy2".
    threads : int
        As many threads as a role's kernel uses at most.
    obstacle : str
        Why the C kernel is not used where nobody chose another one; empty if it is, or if somebody did.
    """

    key_bits: int
    kernel: str
    threads: int
    obstacle: str = ""

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"up to {self.threads} threads"
        return f"Paillier {self.key_bits} bits, kernel {self.kernel}, {threads} a role"

    @property
    def hint(self) -> str:
        """What would be faster, or nothing."""
        if not self.obstacle:
            return ""
        return (
            f"gmpy2 takes six to ten times as long as the C kernel, which is not used: {self.obstacle}. It needs a C "
            "compiler when vfl is installed, and a processor with AVX-512 IFMA."
        )


def choose_arithmetic(key_bits: int) -> Arithmetic:
    """Look up what the roles of a run will choose, each for itself.

    Raises
    ------
    ConfigError
        If ``VFL_KERNEL`` or ``VFL_THREADS`` asks for what there is not.

    Examples
    --------
    >>> choose_arithmetic(2048).kernel in ("ifma", "gmpy2")
    True
    """
    obstacle = "" if os.environ.get("VFL_KERNEL") else why_not_ifma(key_bits) or ""
    return Arithmetic(key_bits, kernel_name(key_bits), thread_count(), obstacle)


def arithmetic_of(job: Job) -> Arithmetic | None:
    """As `choose_arithmetic`, or None for a job that encrypts nothing: split neural networks in mode split."""
    return choose_arithmetic(job.privacy.key_bits) if job.encrypted else None
