"""Training of credit_default: seconds to a loss gap, share of the kernel, beside a textbook gradient with phe.

    python benchmarks/glm.py [--scenario scenarios/credit_default] [--key-holder active]

The run is the one of ``vfl run``, every role a process; then the same in one process on one core, where the time spent
in the big-number kernel can be told from the rest. The peer is one gradient as textbooks compute it (phe: encrypt every
residual, raise it to every feature, add up), on 60 rows and scaled to all: phe is linear in rows.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import phe

from vfl.events import Event
from vfl.job import Scenario
from vfl.job_file import load_scenario
from vfl.paillier.kernels import open_kernel
from vfl.run import run_scenario

GAPS = (1e-3, 1e-4, 1e-6)
SAMPLE = 60
KERNEL = (
    *("mul_pairs", "seg_prod", "window_table", "fixed_base", "pow_uniform", "one_plus", "logarithms", "recombine"),
    *("pack", "unpack", "from_rows", "to_rows"),
)


class KernelTime:
    """CPU seconds spent inside the kernel's functions, over all threads; nested calls count once."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._inside = threading.local()
        self._kernel = type(open_kernel(2**2047 + 1))

    def watch(self, name: str) -> None:
        """Time one function of the kernel from now on."""
        function = getattr(self._kernel, name)

        def timed(*args: Any, **options: Any) -> Any:
            if getattr(self._inside, "kernel", False):
                return function(*args, **options)
            self._inside.kernel, start = True, time.thread_time()
            try:
                return function(*args, **options)
            finally:
                self.seconds[name] += time.thread_time() - start
                self._inside.kernel = False

        setattr(self._kernel, name, timed)


def run(scenario: Scenario, *, in_process: bool) -> tuple[Any, list[tuple[float, float | None]], float]:
    """Run once; return the report, (seconds since the training began, loss) per round, CPU seconds of the training."""
    times: list[tuple[float, float | None]] = []
    marks: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def report(event: Event) -> None:
        if event.phase not in marks:
            marks[event.phase], cpu[event.phase] = time.perf_counter(), time.process_time()
        if event.round and event.loss is not None:
            times.append((time.perf_counter() - marks["training"], event.loss))

    with tempfile.TemporaryDirectory() as directory:
        summary = run_scenario(scenario, Path(directory) / "run", report, baselines=False, in_process=in_process)
    return summary, times, cpu.get("evaluating", 0.0) - cpu.get("training", 0.0)


def textbook_gradient(rows: int, columns: int) -> float:
    """Seconds of one gradient with phe alone, scaled to ``rows``."""
    public, _ = phe.generate_paillier_keypair(n_length=2048)
    rng = np.random.default_rng(0)
    r, X = rng.normal(size=SAMPLE), rng.normal(size=(SAMPLE, columns))
    start = time.thread_time()
    encrypted = [public.encrypt(float(value)) for value in r]
    for j in range(columns):
        sum(c * float(x) for c, x in zip(encrypted[1:], X[1:, j], strict=True)) + encrypted[0] * float(X[0, j])
    return (time.thread_time() - start) * rows / SAMPLE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", default="scenarios/credit_default", type=Path)
    parser.add_argument("--key-holder", default="auto", choices=("auto", "active", "coordinator"))
    options = parser.parse_args()
    scenario = load_scenario(options.scenario, [f"privacy.key_holder={options.key_holder}"])

    summary, times, _ = run(scenario, in_process=False)
    losses = summary.training.loss
    print(
        f"{summary.name}: {summary.rows['train']:,} training rows, key at the {summary.training.key_holder}, "
        f"{summary.crypto.key_bits} bits, kernel {summary.crypto.kernel}"
    )
    print(
        f"  alignment {summary.seconds['alignment']:.1f} s, training {summary.seconds['training']:.1f} s, "
        f"{summary.training.rounds} rounds, {summary.training.bytes / 2**20:.1f} MiB, "
        f"{summary.crypto.encryptions:,} encryptions, {summary.crypto.decryptions:,} decryptions"
    )
    for gap in GAPS:
        reached = next(i for i, loss in enumerate(losses) if loss - losses[-1] <= gap)
        seconds = times[reached - 1][0] if reached else 0.0
        print(f"  loss gap {gap:g}: round {reached}, {seconds:.1f} s after the training began")

    per_round = summary.training.seconds / max(summary.training.rounds, 1)
    columns = sum(party.features for party in summary.parties if party.role == "passive")
    peer = textbook_gradient(summary.rows["train"], columns)
    print(f"  one round {per_round:.2f} s; one gradient with phe {peer:,.0f} s: {peer / per_round:,.0f} times as long")

    os.environ["VFL_THREADS"] = "1"  # a kernel's own threads would not be seen
    kernel = KernelTime()
    for name in KERNEL:
        kernel.watch(name)
    _, _, total = run(scenario, in_process=True)
    inside = sum(kernel.seconds.values())
    print(f"in one process: {total:.1f} s of CPU in the training, {inside / total:.1%} of it in the kernel")
    for name, seconds in sorted(kernel.seconds.items(), key=lambda item: -item[1]):
        print(f"  {name:14s} {seconds:7.2f} s  {seconds / total:6.1%}")


if __name__ == "__main__":
    main()
