"""A whole run on one machine: play all roles, compare with the baselines, leave a directory behind.

The directory appears under its name only when the run has succeeded; until then everything is written beside it, so
that a failed run leaves nothing and an overwritten one is lost only to its successor.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from parties.errors import ConfigError
from parties.ledger import merge_sent, read_ledger, write_ledger
from vfl.events import Report
from vfl.job import Scenario
from vfl.launch import play_in_processes
from vfl.report.summary import RunReport, encode_report, summarise

if TYPE_CHECKING:
    from parties.data import PartyTable

REPORT, LEDGER = "report.json", "ledger.jsonl"


def run_scenario(
    scenario: Scenario,
    out: Path,
    report: Report,
    *,
    overwrite: bool = False,
    baselines: bool = True,
    in_process: bool = False,
    tables: Mapping[str, PartyTable] | None = None,
) -> RunReport:
    """Align, train and evaluate; write the run's directory.

    Parameters
    ----------
    out : Path
        Directory of the run, created with its parents; it must not exist or be empty, unless ``overwrite``.
    report : callable
        Called with every `vfl.session.Event`.
    tables : mapping of party name to PartyTable, optional
        Data in memory instead of CSVs; implies ``in_process``.

    Raises
    ------
    VflError
        Whatever ended the run; nothing is left in ``out`` then, and what was there stays.
    """
    _check_out(out, overwrite)
    start = time.perf_counter()
    with _new_directory(out) as folder:
        if in_process or tables is not None:
            from vfl.threads import play_in_threads  # pandas takes its time, and the roles import their own

            played = play_in_threads(scenario, folder, report, baselines=baselines, tables=tables)
        else:
            played = play_in_processes(scenario, folder, report, baselines=baselines)
        lead = played.results[scenario.job.active]
        pooled = None
        if baselines and lead.n_test:
            from vfl.pooled import pooled_metrics

            pooled = pooled_metrics(scenario, folder, lead.n_train, tables)
        ledger = merge_sent(read_ledger(folder / name / LEDGER) for name in played.results)
        write_ledger(folder / LEDGER, ledger)
        summary = summarise(scenario, played, ledger, pooled, time.perf_counter() - start)
        (folder / REPORT).write_bytes(encode_report(summary))
    return summary


def default_out(name: str) -> Path:
    """``runs/NAME-TIMESTAMP``, not taken yet."""
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out, count = stem, 1
    while out.exists():
        count += 1
        out = stem.with_name(f"{stem.name}-{count}")
    return out


def _check_out(out: Path, overwrite: bool) -> None:
    """Refuse a directory with something in it; ``overwrite`` replaces a run, but nothing else."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"--out {out}: got a file, expected a directory that is new or empty; choose another name")
    if not any(out.iterdir()):
        return
    holds_run = (out / REPORT).exists()
    if holds_run and not overwrite:
        raise ConfigError(f"--out {out}: holds a run already; choose another directory or pass --overwrite")
    if not holds_run:
        raise ConfigError(f"--out {out}: holds files that are no run; choose a directory that is new or empty")


@contextmanager
def _new_directory(out: Path) -> Iterator[Path]:
    """A directory beside ``out`` that takes its place in the end, or disappears."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another directory") from None
    try:
        yield folder
        if out.exists():
            _replace(out, folder)
        else:
            folder.rename(out)
        out.chmod(0o777 & ~_umask())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(out: Path, folder: Path) -> None:
    """Swap a new run in for an old one (or for an empty directory), and only then delete that."""
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    out.rename(old / "run")
    folder.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
