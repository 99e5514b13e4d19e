"""Training of credit_default: seconds to a loss gap, share of the kernel, beside a textbook gradient with phe.

    python -m benchmarks.glm [--scenario scenarios/credit_default] [--key-holder active]

The run is the one of ``vfl run``, every role a process; then the same in one process on one core, where the time spent
in the big-number kernel can be told from the rest. The peer is one gradient as textbooks compute it (phe: encrypt every
residual, raise it to every feature, add up), on 60 rows and scaled to all: phe is linear in rows.
"""

from __future__ import annotations

import argparse
import inspect
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import phe

from vfl.events import Event
from vfl.job import Scenario
from vfl.job_file import load_scenario
from vfl.paillier import ifma_library
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.run import run_scenario

GAPS = (1e-3, 1e-4, 1e-6)
SAMPLE = 60


class KernelTime:
    """CPU seconds spent inside the kernel, over all threads; nested calls count once.

    Of the C kernel the calls into C are timed, of the other one its methods.
    """

    def __init__(self, kernel: str) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._at: dict[str, dict[str, float]] = {}
        self._inside = threading.local()
        self._lock = threading.Lock()
        if kernel == "ifma":
            call = ifma_library.call
            ifma_library.call = lambda name, *arguments: self._timed(name, call, name, *arguments)
            return
        for name, method in inspect.getmembers(Gmpy2Kernel, inspect.isfunction):
            if not name.startswith("_"):
                setattr(Gmpy2Kernel, name, self._watched(name, method))

    def mark(self, phase: str) -> None:
        """Remember how much had been spent when a phase began."""
        with self._lock:
            self._at[phase] = dict(self.seconds)

    def between(self, phase: str, later: str) -> dict[str, float]:
        """Return what every function took from the beginning of one phase to that of another."""
        return {name: seconds - self._at[phase].get(name, 0.0) for name, seconds in self._at[later].items()}

    def _watched(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: self._timed(name, method, *arguments, **options)

    def _timed(self, name: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if getattr(self._inside, "kernel", False):
            return function(*arguments, **options)
        self._inside.kernel, start = True, time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            with self._lock:
                self.seconds[name] += time.thread_time() - start
            self._inside.kernel = False


def run(scenario: Scenario, kernel: KernelTime | None = None) -> tuple[Any, list[tuple[float, float | None]], float]:
    """Run once, in one process if a kernel's time is taken.

    Returns the report, (seconds since the training began, loss) per round, and the training's CPU seconds.
    """
    times: list[tuple[float, float | None]] = []
    marks: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def report(event: Event) -> None:
        if event.phase not in marks:
            marks[event.phase], cpu[event.phase] = time.perf_counter(), time.process_time()
            if kernel:
                kernel.mark(event.phase)
        if event.round and event.loss is not None:
            times.append((time.perf_counter() - marks["training"], event.loss))

    with tempfile.TemporaryDirectory() as directory:
        summary = run_scenario(
            scenario, Path(directory) / "run", report, baselines=False, in_process=kernel is not None
        )
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

    summary, times, _ = run(scenario)
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

    os.environ["VFL_THREADS"] = "1"  # so that no part waits for another, and gmpy2's parts are seen
    kernel = KernelTime(summary.crypto.kernel)
    _, _, total = run(scenario, kernel)
    spent = kernel.between("training", "evaluating")
    print(
        f"in one process: {total:.1f} s of CPU in the training, {sum(spent.values()) / total:.1%} of it in the kernel"
    )
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        print(f"  {name:16s} {seconds:7.2f} s  {seconds / total:6.1%}")


if __name__ == "__main__":
    main()
