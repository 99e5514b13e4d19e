"""Paillier on both kernels beside phe, naive gmpy2 and SecretFlow's HEU: rates and ratios, on one core and on two.

    python benchmarks/paillier.py [--bits 2048] [--rounds 5]        # some five minutes; HEU: pip install -e '.[bench]'
    python benchmarks/paillier.py --measure ours --kernel ifma --cores 1        # one column, as a line of JSON

Every column comes from a process of its own, which may run on so many cores before it imports anything. Figures are
the best of several rounds: CPU time on one core, wall time on two. phe and gmpy2 use one core and keep their figures.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

COLUMNS = ("ifma", "gmpy2", "phe", "naive", "HEU")
OURS = ("ifma", "gmpy2")
ONE_CORE_ONLY = ("phe", "naive")
LINES = {  # name of the figure: what it is, and whether more of it is better (a rate) or less (seconds)
    "products": ("products mod N^2", "/s"),
    "products_reused": ("products by factors of many uses", "/s"),
    "squarings": ("squarings mod N^2", "/s"),
    "add": ("add, 20,000 ciphertexts", "/s"),
    "encrypt_public": ("encrypt, exponents of N/2 bits", "/s"),
    "encrypt_short": ("encrypt, exponents of 448 bits", "/s"),
    "encrypt_owner": ("encrypt, key's owner", "/s"),
    "encrypt_pool": ("encrypt, from a full pool", "/s"),
    "rerandomise": ("re-randomise towards the owner", "/s"),
    "decrypt": ("decrypt", "/s"),
    "decrypt_packed": ("decrypt, values in 80-bit slots", "/s"),
    "dense": ("X'[[r]], a row per ciphertext", "s"),
    "dense_and_r": ("  the same and encrypting r", "s"),
    "dense_packed": ("X'[[r]], several rows each", "s"),
    "dense_and_r_packed": ("  the same and encrypting r", "s"),
    "one_hot": ("one-hot X, a row per ciphertext", "s"),
    "one_hot_packed": ("one-hot X, several rows each", "s"),
    "histogram": ("histogram, 64,000 additions", "s"),
    "write": ("write for the wire", "/s"),
    "read": ("read, unchecked", "/s"),
    "receive": ("read and check (from_bytes)", "/s"),
    "new_key": ("new key (mean of four)", "s"),
    "encrypt_public_table": ("more in a first call: N/2 bits", "s"),
    "encrypt_short_table": ("more in a first call: 448 bits", "s"),
    "encrypt_owner_table": ("more in a first call: key's owner", "s"),
    "rerandomise_table": ("more in a first call: to the owner", "s"),
}
INSTEAD = {  # a peer without packing or an owner's short cut is compared by what it does for the same end
    "products_reused": "products",
    "encrypt_short": "encrypt_public",
    "encrypt_owner": "encrypt_public",
    "encrypt_pool": "encrypt_public",
    "dense_packed": "dense",
    "dense_and_r_packed": "dense_and_r",
    "one_hot_packed": "one_hot",
    "receive": "read",
}
NOTES = """
X: 2000 x 16, entries of 16 bits; the histogram has 2000 ciphertexts, 32 features and 16 bins. phe and naive gmpy2 get a
part of X and of the histogram, HEU a part of X, and their times are scaled; naive gmpy2 gets its inverses for nothing.
Where a peer has but one way to the same end it stands beside each of ours: shorter exponents, the owner's way, the pool
and packed rows beside its encryption and its X'[[r]]. HEU reads without checks, naive gmpy2 checks that it gets units,
ours takes Jacobi symbols too. phe opens one value per ciphertext, HEU two. First calls make tables, HEU with its key.
The pool refills itself while it is drawn from. Ratios above 1: the first is the faster."""

Figures = dict[str, float]


def use_cores(cores: int) -> None:
    """Keep this process and its children to so many cores."""
    os.environ["VFL_THREADS"] = str(cores)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def measure(options: argparse.Namespace) -> Figures:
    """Return one column. Nothing that counts cores when it is imported may have been imported so far."""
    use_cores(options.cores)
    if options.measure == "ours":
        os.environ["VFL_KERNEL"] = options.kernel
        work = importlib.import_module("paillier_ours").measure
    else:
        work = getattr(importlib.import_module("paillier_peers"), f"measure_{options.measure}")
    figures: Figures = work(options.bits, options.cores, options.rounds)
    return figures


def column(name: str, cores: int, options: argparse.Namespace) -> Figures:
    """Measure one column in a process of its own."""
    what = ["ours", "--kernel", name] if name in OURS else [name.lower()]
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", *what, "--cores", str(cores)]
    command += ["--bits", str(options.bits), "--rounds", str(options.rounds)]
    print(f"measuring {name}, cores: {cores}", file=sys.stderr, flush=True)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: Figures = json.loads(output.splitlines()[-1])
    return figures


def why_not(name: str, bits: int) -> str | None:
    """Return why a column cannot be measured here."""
    if name == "HEU" and importlib.util.find_spec("heu") is None:
        return "not installed: pip install 'sf-heu', or -e '.[bench]' (x86-64 Linux, Python before 3.12)"
    if name == "ifma":
        from vfl.paillier.ifma_kernel import why_not_ifma

        return why_not_ifma(bits)
    return None


def number(x: float | None) -> str:
    """Write a figure in at most nine characters."""
    if x is None:
        return "-"
    return f"{x:,.0f}" if x >= 1000 else f"{x:.3g}"


def ratio(line: str, unit: str, first: Figures, second: Figures) -> float | None:
    """Return how many times as fast the first is."""
    own, other = first.get(line), second.get(line, second.get(INSTEAD.get(line, "")))
    if not own or not other:
        return None
    return own / other if unit == "/s" else other / own


def print_table(columns: dict[str, Figures]) -> None:
    """Print figures, and ratios of ours to the others."""
    pairs = [(a, b) for a in OURS for b in COLUMNS if a != b and (a, b) != ("gmpy2", "ifma")]
    headers = [*COLUMNS, *(f"{a}/{b}" for a, b in pairs)]
    widths = [37, *(max(9, len(header)) for header in headers)]
    print_row(widths, "", *headers)
    print_row(widths, "---", *["---:"] * len(headers))
    for line, (title, unit) in LINES.items():
        figures = [number(columns[name].get(line)) for name in COLUMNS]
        ratios = [number(ratio(line, unit, columns[a], columns[b])) for a, b in pairs]
        print_row(widths, f"{title}, {unit}", *figures, *ratios)


def print_row(widths: list[int], title: str, *cells: str) -> None:
    """Print a row of a Markdown table."""
    aligned = [f"{cell:>{width}s}" for width, cell in zip(widths[1:], cells, strict=True)]
    print("| " + " | ".join([title.ljust(widths[0]), *aligned]) + " |", flush=True)


def print_remarks(columns: dict[str, Figures], cores: int) -> None:
    """Print how many rows were packed, and what the processor would allow."""
    for name in OURS:
        if columns[name]:
            rows, slots = (int(columns[name][what]) for what in ("rows_packed", "slots"))
            print(f"{name}: {rows} rows of r per ciphertext where several; {slots} slots of 80 bits")
    ifma = columns["ifma"]
    if ifma:
        print(
            f"IFMA limit on {cores}: {ifma['ifma_limit'] / 1e9:.2f} G instructions/s; at {ifma['ifma_digits']:.0f} "
            f"digits products reach {ifma['ifma_products']:.0%} of it, those by factors of many uses "
            f"{ifma['ifma_products_reused']:.0%}, squarings {ifma['ifma_squarings']:.0%}"
        )


def processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    return " ".join(values.get(name, "").strip() for name in ("model name", "cpu family", "model"))


def versions() -> str:
    """Name what was measured with."""
    names = [name for name in ("gmpy2", "phe", "sf-heu") if name != "sf-heu" or importlib.util.find_spec("heu")]
    found = [f"{name} {importlib.metadata.version(name)}" for name in names]
    return ", ".join([f"Python {platform.python_version()}", *found])


def compare(options: argparse.Namespace) -> None:
    """Measure all columns and print them."""
    today = datetime.date.today().isoformat()
    print(f"{options.bits}-bit N; {today}; {processor()}; {versions()}")
    obstacles = {name: why_not(name, options.bits) for name in COLUMNS}
    for name, obstacle in obstacles.items():
        if obstacle:
            print(f"{name}: {obstacle}")
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    alone: dict[str, Figures] = {}
    for cores in (1, 2)[:available]:
        columns: dict[str, Figures] = {}
        for name in COLUMNS:
            kept = alone.get(name, {}) if name in ONE_CORE_ONLY else {}
            columns[name] = kept or ({} if obstacles[name] else column(name, cores, options))
        alone = alone or columns
        print(f"\ncores: {cores}\n")
        print_table(columns)
        print()
        print_remarks(columns, cores)
    print(NOTES)


def main() -> None:
    """Print the table, or one column of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5, help="at least; short ones are repeated for half a second")
    parser.add_argument("--measure", choices=("ours", "phe", "naive", "heu"))
    parser.add_argument("--kernel", choices=OURS, default="ifma")
    parser.add_argument("--cores", type=int, default=1)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options)))
    else:
        compare(options)


if __name__ == "__main__":
    main()
