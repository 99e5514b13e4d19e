"""Split neural networks: seconds and bytes of an epoch in processes, beside phe, plain gmpy2 and pooled torch.

    python -m benchmarks.splitnn [CASE ...] [--epochs N] [--no-split]

Cases: credit (scenarios/credit_default, all common rows, 18 columns at two passive parties), credit-one (the same
columns at one passive party), rows-20000, rows-100000 (synthetic: 30 columns and a label, 300 columns at a passive
party). By default all but rows-100000, which takes some eight minutes, a third of them to write, read and align its
CSVs. 16 units, batches of 256 rows, 2048 bits.

A run is the one of ``vfl run``, every role a process. The first epoch, in which the key and its tables are made, is
told apart from the others. Then the same in one process on one thread: where its CPU time went. The peers do the
encrypted part of one batch, of a few rows, and are scaled up to an epoch: phe has one number per ciphertext, as FATE's
Paillier layer has; gmpy2 has the same slots as we, one power per cell. torch trains the pooled network in the clear.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
import pandas as pd
import phe

import vfl.forward_pass
import vfl.network
import vfl.source_layer
import vfl.splitnn
from benchmarks.boosting import Memory, one_thread, play
from benchmarks.work_time import OTHER, Marks, Watched, WorkTime, print_split
from parties.link import Link
from vfl.job import Job, Member, Scenario, SplitNN
from vfl.job_file import load_scenario
from vfl.paillier.obfuscators import Obfuscators, OwnerObfuscators
from vfl.paillier.split import thread_count
from vfl.source_layer import plan_layer
from vfl.terms import Terms

ROOT = Path(__file__).resolve().parent.parent
SEED = 7
CASES = ("credit", "credit-one", "rows-20000", "rows-100000")
TRAINING = """
[split]
test_fraction = 0
[training]
units = 16
hidden = [64, 32]
batch_size = 256
epochs = {epochs}
"""
PARTY = """
[[party]]
name = "{name}"
role = "{role}"
data = "{data}"
id = "{id}"
"""
WORK = {
    "weights": "encrypt: weights",
    "rows": "multiply: rows by weights",
    "masks": "mask, re-randomise",
    "decrypt": "decrypt, unpack",
    "steps": "encrypt: steps",
    "columns": "multiply: columns by steps",
    "check": "check: received ciphertexts",
    "wire": "wire: encode, frames, sealing",
    "network": "torch: the layers above",
    OTHER: "the rest",
}
_layer, _forward = vfl.source_layer, vfl.forward_pass
WATCHED: Watched = (
    (_layer, "times_rows", "rows"),
    (_layer, "times_columns", "columns"),
    *((_layer, name, "masks") for name in ("draw_masks", "pack_masks", "add_plain", "rerandomise")),
    (Obfuscators, "draw", "masks"),  # in background threads too
    (OwnerObfuscators, "draw", "steps"),
    *((_layer, name, "decrypt") for name in ("decrypt", "open_words")),
    (_forward, "encrypt_weights", "weights"),
    (vfl.splitnn, "encrypt_steps", "steps"),
    *((module, "receive_ciphers", "check") for module in (_forward, vfl.splitnn)),
    *((Link, name, "wire") for name in ("send", "recv")),
    *((module, "send_ciphers", "wire") for module in (_forward, vfl.splitnn)),
    *((vfl.network.Network, name, "network") for name in ("step", "losses", "predict")),
)


@cache
def work_time(kernel: str) -> WorkTime:
    """Return the one watch of this process: what it watches stays watched."""
    return WorkTime(kernel, WATCHED)


def write_rows(folder: Path, rows: int) -> None:
    """30 columns and a label, and 300 columns that the label depends on too."""
    rng = np.random.default_rng(SEED)
    ids = [f"id{i:07d}" for i in range(rows)]
    own, other = rng.normal(size=(rows, 30)), rng.normal(size=(rows, 300))
    score = np.tanh(own[:, :5]).sum(axis=1) + np.tanh(other @ rng.normal(size=(300, 4)) / 10).sum(axis=1)
    label = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    for name, block in (("active", own), ("passive", other)):
        table = pd.DataFrame(np.round(block, 4), columns=[f"x{j}" for j in range(block.shape[1])])
        table.insert(0, "id", ids)
        if name == "active":
            table["label"] = label
        table.iloc[rng.permutation(rows)].to_csv(folder / f"{name}.csv", index=False)


def _credit(folder: Path, *, one: bool) -> list[tuple[str, Path, str, str]]:
    """Name, CSV, id column and label column of every party of scenarios/credit_default."""
    source = ROOT / "scenarios" / "credit_default"
    parties = [
        ("bank", source / "bank.csv", "customer_id", "default.payment.next.month"),
        ("card-network", source / "card_network.csv", "client", ""),
        ("biller", source / "biller.csv", "account_holder", ""),
    ]
    if not one:
        return parties
    tables = [pd.read_csv(path, dtype={column: str}).set_index(column) for _, path, column, _ in parties[1:]]
    joined = tables[0].join(tables[1], how="inner")
    joined.to_csv(folder / "passive.csv", index_label="client")
    return [parties[0], ("passive", folder / "passive.csv", "client", "")]


@contextmanager
def scenario_of(case: str, epochs: int) -> Iterator[Scenario]:
    """A case's scenario; the CSVs of those that have none are written, and deleted in the end."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        if case.startswith("rows-"):
            write_rows(folder, int(case.removeprefix("rows-")))
            parties = [("active", folder / "active.csv", "id", "label"), ("passive", folder / "passive.csv", "id", "")]
        else:
            parties = _credit(folder, one=case == "credit-one")
        lines = [f'name = "{case}"', 'task = "binary"', 'model = "splitnn"', f"seed = {SEED}"]
        lines.append(TRAINING.format(epochs=epochs))
        for name, data, column, label in parties:
            lines.append(PARTY.format(name=name, role="active" if label else "passive", data=data, id=column))
            lines += [f'label = "{label}"'] if label else []
        (folder / "scenario.toml").write_text("\n".join(lines))
        yield load_scenario(folder / "scenario.toml")


def print_run(case: str, scenario: Scenario) -> tuple[float, int, dict[str, int], str]:
    """Run in processes; print what it took; return seconds of an epoch, rows, passive columns and the kernel's name."""
    marks, memory = Marks(scenario.job.active), Memory()
    with memory.watched():
        summary = play(scenario, marks, memory)
    training, crypto, rows = summary.training, summary.crypto, summary.rows["train"] or 0
    first, *others = marks.seconds()
    mean = sum(others) / len(others)
    passive = {party.name: party.features or 0 for party in summary.parties if party.role == "passive"}
    columns = " + ".join(f"{party.features} ({party.name})" for party in summary.parties)
    print(
        f"{case}: {rows:,} rows, columns {columns}, 16 units, batches of 256, {crypto.key_bits} bits, kernel "
        f"{crypto.kernel}, threads {thread_count()}"
    )
    print(
        f"  in processes: first epoch {first:.2f} s, {len(others)} others {mean:.2f} s each ({min(others):.2f} to "
        f"{max(others):.2f}); {training.bytes / training.rounds / rows:,.0f} bytes per row and epoch; alignment "
        f"{summary.seconds['alignment']:.1f} s, in all {summary.seconds['total']:.1f} s"
    )
    shares = ", ".join(
        f"{role} " + " ".join(f"{part} {seconds:.1f}" for part, seconds in spent.items())
        for role, spent in summary.time.items()
    )
    print(f"  seconds of each role's main thread: {shares}")
    peaks = ", ".join(f"{role} {peak / 1024:,.0f}" for role, peak in sorted(memory.peaks.items()))
    print(f"  peak memory, MiB: {peaks}; loss {training.loss[0]:.4f} to {training.loss[-1]:.4f}")
    return mean, rows, passive, crypto.kernel


def print_peers(mean: float, rows: int, passive: dict[str, int]) -> None:
    """Print what the encrypted part of an epoch takes with phe and with plain gmpy2, and torch's pooled epoch."""
    columns = sum(passive.values())
    for name, seconds in (
        ("phe, a number per ciphertext", time_phe(columns) * rows),
        ("gmpy2, our slots, a power per cell", time_gmpy2(columns) * rows),
        ("torch, pooled, in the clear", time_torch(rows, columns)),
    ):
        print(f"  {name:36s} {seconds:12,.2f} s an epoch, {seconds / mean:10,.3f} times ours")


def time_phe(columns: int, rows: int = 2, units: int = 2) -> float:
    """Seconds per row of 16 units: X [[V]], decryption, encryption of dZ, X'[[dZ]]; one core."""
    public, private = phe.generate_paillier_keypair(n_length=2048)
    rng = np.random.default_rng(SEED)
    X = np.rint(rng.normal(size=(rows, columns)) * 1024).astype(int).tolist()
    V = [[public.encrypt(int(rng.integers(2**62))) for _ in range(units)] for _ in range(columns)]
    start = time.perf_counter()
    for row in X:
        for unit in range(units):
            total = V[0][unit] * row[0]
            for j in range(1, columns):
                total = total + V[j][unit] * row[j]
            total.obfuscate()
            private.decrypt(total)
    steps = [[public.encrypt(int(rng.integers(2**26))) for _ in range(units)] for _ in range(rows)]
    for j in range(columns):
        for unit in range(units):
            total = steps[0][unit] * X[0][j]
            for i in range(1, rows):
                total = total + steps[i][unit] * X[i][j]
    return (time.perf_counter() - start) / rows * 16 / units


def time_gmpy2(columns: int, rows: int = 24) -> float:
    """Seconds per row: the same with 16 units in one ciphertext, obfuscators r^N, decryption by CRT; one core."""
    from vfl.paillier import generate_keypair

    key = generate_keypair(2048)
    n, nn = gmpy2.mpz(key.public.n), gmpy2.mpz(key.public.n) ** 2
    p, q = (gmpy2.mpz(prime) for prime in key.primes())
    rng, state = np.random.default_rng(SEED), gmpy2.random_state(SEED)
    X = np.rint(rng.normal(size=(rows, columns)) * 1024).astype(int).tolist()

    def obfuscator() -> Any:
        return gmpy2.powmod(gmpy2.mpz_random(state, n), n, nn)

    V = [obfuscator() for _ in range(columns)]
    start = time.perf_counter()
    for row in X:
        total = gmpy2.mpz(1)
        for c, x in zip(V, row, strict=True):
            total = total * gmpy2.powmod(c, x, nn) % nn
        total = total * obfuscator() % nn
        gmpy2.powmod(total, p - 1, p * p), gmpy2.powmod(total, q - 1, q * q)
    steps = [obfuscator() for _ in range(rows)]
    for j in range(columns):
        total = gmpy2.mpz(1)
        for c, row in zip(steps, X, strict=True):
            total = total * gmpy2.powmod(c, row[j], nn) % nn
    return (time.perf_counter() - start) / rows


def time_torch(rows: int, columns: int) -> float:
    """Seconds of an epoch of the pooled network in the clear."""
    from vfl.epochs import Rows, run_epochs
    from vfl.network import make_network
    from vfl.plain_network import PlainSource

    members = (Member(name="bank", role="active"), Member(name="shop", role="passive"))
    job = Job(name="torch", model="splitnn", task="binary", parties=members, splitnn=SplitNN(epochs=2))
    rng = np.random.default_rng(SEED)
    X, own, y = rng.normal(size=(rows, columns)), rng.normal(size=(rows, 5)), (rng.random(rows) < 0.3).astype(float)
    network = make_network(job, 5, 1, y)
    source = PlainSource(X, rng.normal(size=(columns, 16)) / 10, job.splitnn.source_step)
    ends: list[float] = []
    from parties.checkpoint import Keeper

    run_epochs(job, network, source, Rows(own, y, None, rows), lambda *_: ends.append(time.perf_counter()), Keeper())
    return ends[1] - ends[0]


def print_plan() -> None:
    """Print how many units a ciphertext takes."""
    members = (Member(name="bank", role="active"), Member(name="shop", role="passive"))
    for columns in (18, 300):
        job = Job(name="plan", model="splitnn", task="binary", parties=members)
        plan = plan_layer(Terms(job, "active", "", 1, 1, {"bank": 1, "shop": columns}, consent=True))
        print(
            f"{columns} columns: {plan.forward.slots} slots of {plan.forward.slot_bits} bits forward, "
            f"{plan.backward.slots} of {plan.backward.slot_bits} backward"
        )


def main() -> None:
    """Print the blocks of the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--epochs", type=int, default=3, help="at least 2; default 3")
    parser.add_argument("--no-split", action="store_true", help="do not measure where the CPU time goes")
    options = parser.parse_args()
    if unknown := sorted(set(options.cases) - set(CASES)):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(CASES)}")
    if options.epochs < 2:
        parser.error("--epochs: the first epoch is told apart, ask for 2 at least")
    print_plan()
    for case in options.cases or CASES[:-1]:
        with scenario_of(case, options.epochs) as scenario:
            mean, rows, passive, kernel = print_run(case, scenario)
            print_peers(mean, rows, passive)
            if not options.no_split:
                marks = Marks(scenario.job.active, work_time(kernel))
                with one_thread():
                    play(scenario, marks, in_process=True)
                print_split(marks, WORK, "an epoch")
        print(flush=True)


if __name__ == "__main__":
    main()
