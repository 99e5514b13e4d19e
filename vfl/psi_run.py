"""An alignment alone on one machine: every role a process of its own, a directory of aligned CSVs in the end.

The directory is there whole or not at all, as a run's is (`vfl.run`).
"""

from __future__ import annotations

import time
from pathlib import Path

from parties.ledger import merge_sent, read_ledger, write_ledger
from vfl.events import Report
from vfl.job import Scenario
from vfl.launch import align_in_processes
from vfl.psi_report import PsiReport, Purpose, encode_psi, summarise_psi
from vfl.run import LEDGER, REPORT, new_directory


def align_scenario(
    scenario: Scenario, out: Path, report: Report, purpose: Purpose = "psi", *, overwrite: bool = False
) -> PsiReport:
    """Align the parties' CSVs.

    Parameters
    ----------
    out : Path
        Created with its parents; new or empty, or with ``overwrite`` the directory of a run or an alignment.
    report : callable
        Called with every `vfl.events.Event`.

    Raises
    ------
    VflError
        Whatever ended it; nothing is left in ``out`` then, and what was there stays.
    """
    start, names = time.perf_counter(), [spec.name for spec in scenario.parties]
    with new_directory(out, names, overwrite=overwrite) as folder:
        results = align_in_processes(scenario, folder, report, purpose)
        ledger = merge_sent(read_ledger(folder / name / LEDGER) for name in results)
        write_ledger(folder / LEDGER, ledger)
        summary = summarise_psi(scenario.job, purpose, results, ledger, time.perf_counter() - start)
        (folder / REPORT).write_bytes(encode_psi(summary))
    return summary
