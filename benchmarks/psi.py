"""Set intersection: ours by protocol and size beside OpenMined's package and SecretFlow's ``spu``, in one run.

    python -m benchmarks.psi [--sizes 10000 100000 1000000] [--protocols kkrt ecdh ...] [--peers PYTHON] [--plot FILE]

Two parties with n ids each, half of them common; ``mpsi`` and ``ecdh (3)`` with three. Ours is the command ``vfl psi``
from CSV to aligned CSVs, all roles as processes over TLS on the loopback interface; SecretFlow's goes from CSV to
aligned CSVs too, two processes without TLS; OpenMined's takes lists of strings, both parties in one process. CPU is
that of all processes, memory that of the largest, bytes are what the loopback interface carried (none in OpenMined's
case). Starting four processes of Python costs ours 3 to 4 s of CPU, which is what small sizes show.

PYTHON is an interpreter that has the peers' packages (``pip install openmined-psi spu``), by default this one; a peer
that it lacks is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PEERS = {"SecretFlow KKRT": "KKRT", "SecretFlow RR22": "RR22", "SecretFlow ECDH": "ECDH"}
OURS = ("ecdh", "kkrt", "server-aided", "mpsi", "ecdh (3)", "mpsi (3)")
MOST = {"OpenMined": 100_000} | dict.fromkeys(("SecretFlow ECDH", "ecdh", "ecdh (3)", "mpsi", "mpsi (3)"), 1_000_000)
"""Larger sizes of these are left out: they take minutes and only get longer."""


@dataclass(frozen=True)
class Measured:
    """One run."""

    name: str
    ids: int
    parties: int
    wall: float
    cpu: float
    memory: int
    carried: int


def write_lists(folder: Path, ids: int, parties: int) -> None:
    """CSVs 0.csv, 1.csv ... with one column of ids; half of each is common to all."""
    for party in range(parties):
        own = (f"user{i:010d}\n" for i in range(ids // 2, ids))
        rest = (f"only{party}-{i:08d}\n" for i in range(ids // 2))
        with (folder / f"{party}.csv").open("w") as file:
            file.write("id\n")
            file.writelines(own)
            file.writelines(rest)


def scenario(folder: Path, protocol: str, parties: int) -> Path:
    """A scenario of these parties; the label, a column that is not there, is nothing to `vfl psi`."""
    lines = ['name = "benchmark"', 'model = "logistic"', "[alignment]", f'protocol = "{protocol}"']
    for party in range(parties):
        role = 'role = "active"\nlabel = "y"' if party == 0 else 'role = "passive"'
        lines.append(f'[[party]]\nname = "p{party}"\n{role}\ndata = "{party}.csv"\nid = "id"')
    file = folder / "scenario.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def loopback() -> int:
    """Bytes that the loopback interface has carried so far; 0 where the system does not say."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")), 0)


def spent() -> float:
    """CPU seconds of all processes that have ended and were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_ours(folder: Path, name: str, ids: int, parties: int) -> Measured:
    """``vfl psi`` as a process."""
    protocol = name.partition(" ")[0]
    file = scenario(folder, protocol, parties)
    vfl = shutil.which("vfl", path=str(Path(sys.executable).parent)) or "vfl"
    before, carried, start = spent(), loopback(), time.perf_counter()
    code = (
        "import json, resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=True)\n"
        "print(json.dumps([json.loads(done.stdout), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024]))\n"
    )
    command = [sys.executable, "-c", code, vfl, "psi", str(file), "--out", str(folder / "out"), "--overwrite", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    wall, cpu, carried = time.perf_counter() - start, spent() - before, loopback() - carried
    report, memory = json.loads(done.stdout)
    check(report["alignment"]["intersection"], ids)
    return Measured(name, ids, parties, wall, cpu, memory, carried)


def run_peer(folder: Path, name: str, ids: int, python: str) -> Measured:
    """A peer's two processes, or OpenMined's one."""
    script = str(Path(__file__).with_name("psi_peers.py"))
    ranks = [["openmined", "0"]] if name == "OpenMined" else [[PEERS[name], "0"], [PEERS[name], "1"]]
    carried, start = loopback(), time.perf_counter()
    roles = [
        subprocess.Popen(
            [python, script, *rank, str(folder), "18640"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        for rank in ranks
    ]
    said = [role.communicate()[0].decode().splitlines() for role in roles]  # among lines of the peer's own log
    answers = [json.loads(next(line for line in lines if line.startswith('{"common"'))) for lines in said]
    wall, carried = time.perf_counter() - start, loopback() - carried
    check(answers[0]["common"], ids)
    cpu, memory = sum(answer["cpu"] for answer in answers), max(answer["rss"] for answer in answers)
    return Measured(name, ids, 2, wall, cpu, memory, 0 if name == "OpenMined" else carried)


def check(common: int, ids: int) -> None:
    """Every run has to find what was planted."""
    if common != ids - ids // 2:
        raise SystemExit(f"found {common} common ids, planted {ids - ids // 2}")


def measure(run: Callable[[Path], Measured], ids: int, parties: int) -> Measured:
    """A run on lists of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_lists(folder, ids, parties)
        return run(folder)


def has(python: str, module: str) -> bool:
    """Whether an interpreter has a package."""
    return subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL, check=False).returncode == 0


def show(rows: Sequence[Measured]) -> None:
    """Print a table; ratios are to SecretFlow's KKRT of the same size where it ran."""
    print(f"{'':18}{'ids':>10}{'wall s':>9}{'CPU s':>9}{'CPU us/id':>11}{'MiB':>8}{'bytes/id':>10}{'wall ratio':>12}")
    for row in rows:
        base = next((r.wall for r in rows if r.name == "SecretFlow KKRT" and r.ids == row.ids), None)
        ratio = f"{row.wall / base:.2f}" if base else "-"
        print(
            f"{row.name:18}{row.ids:>10,}{row.wall:>9.2f}{row.cpu:>9.2f}{row.cpu / row.ids * 1e6:>11.1f}"
            f"{row.memory / 2**20:>8.0f}{row.carried / row.ids:>10.0f}{ratio:>12}"
        )


def plot(rows: Sequence[Measured], file: Path) -> None:
    """Seconds from CSV to CSV by size, a line for each protocol, as SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "psi"
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name in dict.fromkeys(row.name for row in rows):
        points = sorted((row.ids, row.wall) for row in rows if row.name == name)
        peer = name in PEERS or name == "OpenMined"
        axes.plot(*zip(*points, strict=True), marker="o", linestyle="--" if peer else "-", label=name)
    axes.set(xscale="log", yscale="log", xlabel="ids of each party", ylabel="seconds, from CSVs to aligned CSVs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--protocols", nargs="+", default=[*OURS], choices=OURS)
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    peers = [name for name in ("OpenMined", *PEERS) if has(options.peers, _module(name))]
    for name in ("OpenMined", "SecretFlow KKRT"):
        if name not in peers:
            print(f"{name.split()[0]}: left out, {options.peers} has no {_module(name)}")
    rows = []
    for name in options.protocols:
        parties = 3 if name.endswith("(3)") else 2
        for ids in _sizes(options.sizes, name):
            row = measure(lambda folder, n=name, i=ids, p=parties: run_ours(folder, n, i, p), ids, parties)
            rows.append(row)
            print(f"  {name} {ids:,}: {row.wall:.1f} s", file=sys.stderr)
    for name in peers:
        for ids in _sizes(options.sizes, name):
            row = measure(lambda folder, n=name, i=ids: run_peer(folder, n, i, options.peers), ids, 2)
            rows.append(row)
            print(f"  {name} {ids:,}: {row.wall:.1f} s", file=sys.stderr)
    show(sorted(rows, key=lambda row: row.ids))
    if options.plot:
        plot(rows, options.plot)


def _module(name: str) -> str:
    return "private_set_intersection" if name == "OpenMined" else "spu"


def _sizes(sizes: Sequence[int], name: str) -> list[int]:
    return [ids for ids in sizes if ids <= MOST.get(name, max(sizes))]


if __name__ == "__main__":
    main()
