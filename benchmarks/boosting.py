"""Boosting: seconds per tree in processes, bytes, peak memory, beside plain XGBoost; and where the CPU time goes.

    python -m benchmarks.boosting [CASE ...] [--trees N] [--no-split]

Cases: credit-3, credit-5 (scenarios/credit_default, by depth), a9a, breast-cancer (scikit-learn's, cut in two), and
rows-10000, rows-100000, rows-1000000 (synthetic: 5 columns and a label, 20 columns at a passive party). By default all
but rows-1000000, which takes some six minutes with --no-split (half of them to write, read and align its CSVs) and
4.5 GiB of memory; without, twice as long and more.

A run is the one of ``vfl run``, every role a process; all common rows are trained on. The first tree, in which the key
and its tables are made and the stores of obfuscators fill, is told apart from the others. Then the same in one process
on one thread: where its CPU time went. XGBoost has the joined columns, the same parameters and two threads.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

from benchmarks.boosting_work import WORK, work_time
from benchmarks.work_time import Marks, print_split
from vfl.events import Event
from vfl.job import Scenario
from vfl.job_file import load_scenario
from vfl.paillier.split import thread_count
from vfl.run import run_scenario

ROOT = Path(__file__).resolve().parent.parent
SEED = 7
FEWEST_XGBOOST_TREES = 20  # they take milliseconds each
TREES, TREES_OF = 6, {"rows-100000": 3, "rows-1000000": 2}
DEFAULT = ("credit-3", "credit-5", "a9a", "breast-cancer", "rows-10000", "rows-100000")
SCENARIOS = {  # file, depth, bins
    "credit-3": ("credit_default/boosting.toml", 3, 32),
    "credit-5": ("credit_default/boosting.toml", 5, 32),
    "a9a": ("a9a/scenario.toml", 6, 255),
}
WRITTEN = {"breast-cancer": (3, 32), "rows-10000": (5, 32), "rows-100000": (5, 32), "rows-1000000": (5, 32)}
TOML = """
name = "{name}"
task = "binary"
model = "boosting"
seed = {seed}
[training]
[split]
[[party]]
name = "active"
role = "active"
data = "active.csv"
id = "id"
label = "label"
[[party]]
name = "passive"
role = "passive"
data = "passive.csv"
id = "id"
"""


@dataclass
class Memory:
    """Peak resident memory of this process's children, by role, as far as the system tells."""

    peaks: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    """Peaks up to the beginning of the training."""

    def look(self) -> None:
        """Read the peaks of all children that play a role, in KiB."""
        for children in Path("/proc/self/task").glob("*/children"):
            for pid in _read(children).split():
                words = _read(Path("/proc", pid, "cmdline")).split("\0")
                peak = _read(Path("/proc", pid, "status")).partition("VmHWM:")[2].split()
                if "vfl.role" in words and peak:
                    self.peaks[words[words.index("vfl.role") + 1]] = int(peak[0])

    def note(self, event: Event) -> None:
        """Remember a role's peak where its training begins."""
        if event.phase == "training" and event.role not in self.before:
            self.look()
            self.before[event.role] = self.peaks.get(event.role, 0)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look every fifth of a second."""
        end = threading.Event()

        def watch() -> None:
            while not end.wait(0.2):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()


def _read(file: Path) -> str:
    """Text of a file of the system's; none if the process has ended."""
    try:
        return file.read_text()
    except OSError:
        return ""


def write_breast_cancer(folder: Path) -> None:
    """Cut scikit-learn's breast cancer data in two."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    X = pd.DataFrame(data.data, columns=[name.replace(" ", "_") for name in data.feature_names])
    _write(folder, X.iloc[:, :15], X.iloc[:, 15:], data.target)


def write_rows(folder: Path, rows: int) -> None:
    """Continuous columns and a label that depends on both parties' columns together."""
    rng = np.random.default_rng(SEED)
    own, other = rng.normal(size=(rows, 5)), rng.normal(size=(rows, 20))
    score = own @ rng.normal(size=5) / 2 + other @ rng.normal(size=20) / 4 + own[:, 0] * other[:, 0]
    label = (rng.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    names = [f"x{j}" for j in range(25)]
    _write(folder, pd.DataFrame(own, columns=names[:5]), pd.DataFrame(other, columns=names[5:]), label)


def _write(folder: Path, own: pd.DataFrame, other: pd.DataFrame, label: Any) -> None:
    """Write both parties' CSVs, their rows in different orders."""
    ids = [f"id{i:07d}" for i in range(len(own))]
    rng = np.random.default_rng(SEED)
    for name, table in (("active", own.assign(label=label)), ("passive", other)):
        table.insert(0, "id", ids)
        table.iloc[rng.permutation(len(own))].to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


@contextmanager
def scenario_of(case: str, trees: int) -> Iterator[Scenario]:
    """A case's scenario; the CSVs of those that have none are written, and deleted in the end."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        if case in SCENARIOS:
            file, depth, bins = SCENARIOS[case]
            path = ROOT / "scenarios" / file
        else:
            depth, bins = WRITTEN[case]
            path = folder / "scenario.toml"
            path.write_text(TOML.format(name=case, seed=SEED))
            if case == "breast-cancer":
                write_breast_cancer(folder)
            else:
                write_rows(folder, int(case.removeprefix("rows-")))
        training = {"n_estimators": trees, "max_depth": depth, "max_bin": bins, "learning_rate": 0.3}
        overrides = [f"training.{name}={value}" for name, value in training.items()]
        yield load_scenario(path, [*overrides, "split.test_fraction=0"])


def play(scenario: Scenario, marks: Marks, memory: Memory | None = None, *, in_process: bool = False) -> Any:
    """Run once and leave nothing behind; returns the report."""

    def report(event: Event) -> None:
        marks(event)
        if memory:
            memory.note(event)

    with tempfile.TemporaryDirectory() as directory:
        return run_scenario(scenario, Path(directory) / "run", report, baselines=False, in_process=in_process)


def print_run(case: str, scenario: Scenario) -> tuple[float, str]:
    """Run in processes; print what it took, and return the mean seconds of a tree and the kernel's name."""
    marks, memory = Marks(scenario.job.active), Memory()
    with memory.watched():
        summary = play(scenario, marks, memory)
    settings, training, crypto = scenario.job.boosting, summary.training, summary.crypto
    first, *others = marks.seconds()
    mean = sum(others) / len(others)
    columns = " + ".join(f"{party.features} ({party.name})" for party in summary.parties)
    print(
        f"{case}: {summary.rows['train']:,} rows, columns {columns}, depth {settings.max_depth}, {settings.max_bin} "
        f"bins, {crypto.key_bits} bits, kernel {crypto.kernel}, threads {thread_count()}"
    )
    print(
        f"  in processes: first tree {first:.3f} s, {len(others)} others {mean:.3f} s each ({min(others):.3f} to "
        f"{max(others):.3f}); {training.bytes / training.rounds / 2**20:.2f} MiB sent a tree; alignment "
        f"{summary.seconds['alignment']:.1f} s, in all {summary.seconds['total']:.1f} s"
    )
    if memory.peaks:
        peaks = [
            f"{role} {peak / 1024:,.0f} ({memory.before.get(role, 0) / 1024:,.0f} before the training)"
            for role, peak in sorted(memory.peaks.items())
        ]
        print(f"  peak memory, MiB: {', '.join(peaks)}")
    seconds, loss = time_xgboost(scenario)
    print(
        f"  XGBoost {xgboost.__version__}, 2 threads: {seconds * 1000:.2f} ms a tree, ours takes {mean / seconds:,.0f} "
        f"times as long; loss after {training.rounds} trees {loss:.5f}, ours {training.loss[-1]:.5f}"
    )
    return mean, crypto.kernel


def time_xgboost(scenario: Scenario) -> tuple[float, float]:
    """Seconds of XGBoost's trees on the joined columns (median, no first), and its loss after as many trees as ours."""
    joined: pd.DataFrame | None = None
    for spec in scenario.parties:
        (column,) = spec.id_columns
        table = pd.read_csv(spec.data, dtype={column: str}).set_index(column)
        joined = table if joined is None else joined.join(table, how="inner")
    label = next(spec.label for spec in scenario.parties if spec.label)
    assert joined is not None
    y = joined.pop(label).to_numpy()
    data = xgboost.DMatrix(joined, label=y, nthread=2)
    settings = scenario.job.boosting
    names = ("max_depth", "max_bin", "learning_rate", "reg_lambda", "reg_alpha", "gamma", "min_child_weight")
    parameters = {name: getattr(settings, name) for name in names}
    parameters |= {"objective": "binary:logistic", "tree_method": "hist", "nthread": 2}
    booster, seconds, loss = xgboost.Booster(parameters, [data]), [], float("nan")
    for number in range(max(settings.n_estimators, FEWEST_XGBOOST_TREES)):
        if number == settings.n_estimators:
            p = booster.predict(data)
            loss = -float(np.mean(np.log(np.where(y == 1, p, 1 - p))))
        start = time.perf_counter()
        booster.update(data, number)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:])), loss


def print_case(case: str, trees: int, *, split: bool) -> None:
    """Print one case's block."""
    with scenario_of(case, trees) as scenario:
        mean, kernel = print_run(case, scenario)
        if case.startswith("rows-"):
            print(f"  {mean * 1e4 / int(case.removeprefix('rows-')):.3f} s per tree and 10^4 rows")
        if split:
            marks = Marks(scenario.job.active, work_time(kernel))
            with one_thread():
                play(scenario, marks, in_process=True)
            print_split(marks, WORK, "a tree")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep the kernel to one thread, so that no part waits for another."""
    asked = os.environ.get("VFL_THREADS")
    os.environ["VFL_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["VFL_THREADS"]
        if asked is not None:
            os.environ["VFL_THREADS"] = asked


def main() -> None:
    """Print the blocks of the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join([*SCENARIOS, *WRITTEN]))
    parser.add_argument("--trees", type=int, help=f"at least 2; default {TREES}, fewer where there are many rows")
    parser.add_argument("--no-split", action="store_true", help="do not measure where the CPU time goes")
    options = parser.parse_args()
    if unknown := sorted(set(options.cases) - {*SCENARIOS, *WRITTEN}):
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join([*SCENARIOS, *WRITTEN])}")
    if options.trees is not None and options.trees < 2:
        parser.error("--trees: the first tree is told apart, ask for 2 at least")
    for case in options.cases or DEFAULT:
        print_case(case, options.trees or TREES_OF.get(case, TREES), split=not options.no_split)
        print(flush=True)


if __name__ == "__main__":
    main()
