"""Hold ``vfl estimate`` against the runs that follow: ours / truth for seconds, bytes and encryptions.

    .venv/bin/python -m benchmarks.estimate [SCENARIO ...] [--json]

Each scenario is estimated, then run once. Seconds are to be within a factor 1.5 on a quiet machine; the CPU column says
how much of a difference is other work on the machine, which CPU seconds do not see.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent / "scenarios"
SCENARIOS = (
    "credit_default/scenario.toml",
    "vehicle/scenario.toml",
    "diabetes/scenario.toml",
    "claims/scenario.toml",
    "a9a/scenario.toml",
    "credit_default/boosting.toml",
    "vehicle/boosting.toml",
    "diabetes/boosting.toml",
    "credit_default/splitnn.toml",
    "digits/scenario.toml",
    "digits/split.toml",
)
FACTOR = 1.5
COLUMNS = (
    *("scenario", "total s", "ratio", "training s", "ratio"),
    *("alignment", "CPU", "bytes", "encryptions", "decryptions"),
)
VFL = str(Path(sys.executable).with_name("vfl"))


def main() -> None:
    """Print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS, help="files below scenarios/; by default all")
    parser.add_argument("--json", action="store_true", help="print estimates and reports as they are, a line each")
    given = parser.parse_args()
    if not given.json:
        print(
            "| scenario | total s | ratio | training s | ratio | alignment | CPU | bytes | encryptions | decryptions |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    beyond = []
    for name in given.scenarios:
        ours, truth = measure(name)
        if given.json:
            print(json.dumps({"scenario": name, "estimate": ours, "run": truth}), flush=True)
            continue
        print(line(name, ours, truth), flush=True)
        if not 1 / FACTOR <= ours["seconds"]["total"] / truth["seconds"]["total"] <= FACTOR:
            beyond.append(name)
    if not given.json:
        print(f"\nRatios are estimate / run. Totals beyond a factor {FACTOR}: {', '.join(beyond) or 'none'}.")


def measure(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Estimate a scenario and run it; the run's report has its CPU seconds as well."""
    scenario = str(HERE / name)
    ours = _json([VFL, "estimate", scenario, "--json"])
    before = _cpu()
    with tempfile.TemporaryDirectory() as folder:
        truth = _json([VFL, "run", scenario, "--json", "--out", f"{folder}/run"])
        ledger = Path(folder, "run", "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    truth["cpu_seconds"] = _cpu() - before
    truth["bytes"] = sum(json.loads(entry)["bytes"] for entry in ledger)
    return ours, truth


def line(name: str, ours: dict[str, Any], truth: dict[str, Any]) -> str:
    """A row of the table."""
    mine, theirs = ours["seconds"], truth["seconds"]
    cells = [
        name.removesuffix("/scenario.toml"),
        f"{mine['total']:.1f} / {theirs['total']:.1f}",
        _ratio(mine["total"], theirs["total"]),
        f"{mine['training']:.1f} / {theirs['training']:.1f}",
        _ratio(mine["training"], theirs["training"]),
        _ratio(mine["aligning"], theirs["alignment"]),
        _ratio(ours["cpu_seconds"], truth["cpu_seconds"]),
        f"{ours['bytes'] / truth['bytes']:.4f}",
        _share(ours["encryptions"], truth["crypto"]["encryptions"]),
        _share(ours["decryptions"], truth["crypto"]["decryptions"]),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(mine: float, theirs: float) -> str:
    return f"{mine / theirs:.2f}" if theirs else "-"


def _share(mine: int, theirs: int) -> str:
    return f"{mine / theirs:.4f}" if theirs else "-"


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
