"""A whole run on one machine: play all roles, compare with the baselines, leave a directory behind.

Everything is written to a hidden directory inside ``--out`` and moved to its place when the run has succeeded,
``report.json`` last: a failed run leaves nothing, and an old one is lost only to its successor. Nothing that is not
part of a run is ever replaced or deleted.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from parties.errors import ConfigError, DataError
from parties.ledger import Entry, merge_sent, read_ledger, write_ledger
from parties.link import COORDINATOR
from vfl.events import Event, Played, Report
from vfl.job import Job, Scenario
from vfl.launch import play_in_processes
from vfl.report.evidence import FILE as EVIDENCE
from vfl.report.evidence import Evidence, load_evidence, merge_evidence
from vfl.report.summary import RunReport, encode_report, summarise
from vfl.report.wanted import page_wanted

if TYPE_CHECKING:
    from parties.data import PartyTable
    from vfl.common_alignment import Begun
    from vfl.own_modules import Modules

REPORT, PAGE, LEDGER = "report.json", "report.html", "ledger.jsonl"
USES = ("predictions", "evaluations")
"""Folders in a run's directory of what was done with its model."""
_UNFINISHED = ".unfinished-"


def run_scenario(
    scenario: Scenario,
    out: Path,
    report: Report,
    *,
    overwrite: bool = False,
    baselines: bool = True,
    in_process: bool = False,
    tables: Mapping[str, PartyTable] | None = None,
    begun: Begun | None = None,
    page: bool = True,
    modules: Modules | None = None,
) -> RunReport:
    """Align, train and evaluate; write the run's directory.

    Parameters
    ----------
    out : Path
        Directory of the run, created with its parents; it must be new or empty, or with ``overwrite`` hold a run.
    report : callable
        Called with every `vfl.events.Event`.
    tables : mapping of party name to PartyTable, optional
        Data in memory instead of CSVs; implies ``in_process``.
    begun : Begun, optional
        With ``tables``: an alignment of them that was made before.
    page : bool
        Also write ``report.html``, unless ``VFL_REPORT`` says otherwise.
    modules : mapping of party name to torch.nn.Module, optional
        With ``tables``, model splitnn: networks of the parties' own, instead of those that the job describes.

    Raises
    ------
    VflError
        Whatever ended the run; nothing is left in ``out`` then, and what was there stays.
    """
    page = page and page_wanted()
    start = time.perf_counter()
    with new_directory(out, [spec.name for spec in scenario.parties], overwrite=overwrite) as folder:
        if in_process or tables is not None:
            from vfl.threads import play_in_threads  # pandas takes its time, and the roles import their own

            played = play_in_threads(
                scenario, folder, report, baselines=baselines, tables=tables, begun=begun, modules=modules
            )
        else:
            played = play_in_processes(scenario, folder, report, baselines=baselines)
        references, evidence = None, evidence_of_run(scenario.job, folder)
        if evidence is not None and (baselines or evidence.silos):
            from vfl.pooled import refer

            report(Event(COORDINATOR, "comparing"))
            references = refer(scenario, folder, evidence, tables, modules, baselines=baselines)
        ledger = merge_sent(_ledgers(scenario.job, folder, played))
        write_ledger(folder / LEDGER, ledger)
        summary = summarise(scenario, played, ledger, references, time.perf_counter() - start)
        (folder / REPORT).write_bytes(encode_report(summary))
        if page:
            from vfl.report.page import write_page  # jinja2 takes its time

            report(Event(COORDINATOR, "reporting"))
            write_page(folder)
    return summary


def evidence_of_run(job: Job, folder: Path) -> Evidence | None:
    """What the active party left of its test rows, or all silos that hold labels of theirs; None without test rows."""
    if len(job.labelled) == 1:
        return load_evidence(folder / job.active)
    return merge_evidence({name: load_evidence(folder / name) for name in job.labelled})


def _ledgers(job: Job, folder: Path, played: Played) -> Iterator[list[Entry]]:
    """What every role wrote; of a silo that was lost, as far as it can be read."""
    for name in (COORDINATOR, *(party.name for party in job.parties)):
        try:
            yield read_ledger(folder / name / LEDGER)
        except DataError:
            if name in played.results:
                raise


def default_out(name: str) -> Path:
    """``runs/NAME-TIMESTAMP``, not taken yet."""
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    out, count = stem, 1
    while out.exists():
        count += 1
        out = stem.with_name(f"{stem.name}-{count}")
    return out


@contextmanager
def new_directory(out: Path, parties: list[str], *, overwrite: bool) -> Iterator[Path]:
    """A hidden directory in ``out`` whose content moves up in the end, or disappears after an error.

    Raises
    ------
    ConfigError
        ``out`` cannot be written, or holds a run (save with ``overwrite``) or anything else.
    """
    incoming = {REPORT, PAGE, LEDGER, EVIDENCE, COORDINATOR, *parties}
    _replaceable(out, incoming, overwrite=overwrite)
    made = [directory for directory in (out, *out.parents) if not os.path.lexists(directory)]
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=out))
        except OSError as error:
            raise _unusable(out, error) from None
        try:
            yield folder
            _move_up(folder, out, _replaceable(out, incoming, overwrite=overwrite))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        for directory in made:
            with suppress(OSError):  # it holds the run, or somebody else's files by now
                directory.rmdir()


def _replaceable(out: Path, incoming: set[str], *, overwrite: bool) -> set[str]:
    """Names in ``out`` that belong to a run and go; refuses a directory with anything in the way."""
    try:
        present = {name for name in os.listdir(out) if not name.startswith(_UNFINISHED)}
    except FileNotFoundError:
        return set()
    except NotADirectoryError:
        raise ConfigError(
            f"--out {out}: got a file, expected a directory that is new or empty; choose another name"
        ) from None
    except OSError as error:
        raise _unusable(out, error) from None
    old = _names_of_run(out) & present
    if old and not overwrite:
        raise ConfigError(f"--out {out}: holds a run already; choose another directory or pass --overwrite")
    if present and not old or incoming & (present - old):
        raise ConfigError(f"--out {out}: holds files that are no run; choose a directory that is new or empty")
    return old


class _Named(msgspec.Struct, frozen=True):
    name: str


class _OldReport(msgspec.Struct, frozen=True):
    """What tells which folders are a run's own."""

    parties: list[_Named] = []


def _names_of_run(out: Path) -> set[str]:
    """Names that the run in ``out`` gave its files and folders; none if there is no run."""
    try:
        report = msgspec.json.decode((out / REPORT).read_bytes(), type=_OldReport)
    except OSError:
        return set()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        report = _OldReport()
    return {REPORT, PAGE, LEDGER, EVIDENCE, COORDINATOR, *USES, *(party.name for party in report.parties)}


def _move_up(folder: Path, out: Path, old: set[str]) -> None:
    """Swap the new run in for the old one, the reports first out and last in; then delete the old one."""
    aside = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=out))
    for name in sorted(old, key=lambda name: name != REPORT):
        (out / name).rename(aside / name)
    for name in sorted(os.listdir(folder), key=lambda name: name == REPORT):
        (folder / name).rename(out / name)
    shutil.rmtree(aside, ignore_errors=True)


def _unusable(out: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another directory")
