"""One role's part in an alignment alone: align, and write the party's common rows in the agreed order.

The messages are those with which a run begins (`psi.align`), and nothing is trained: neither a label nor a column but
the ids is read. With ``cardinality`` how many ids are common is all that anybody learns, and nothing is written.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from parties.link import Endpoint
from parties.policy import Guards, common_rows
from parties.spec import PartySpec
from psi.exchange import warnings_of
from vfl import consent, session
from vfl.events import Report
from vfl.id_file import IdFile, read_id_file, write_aligned
from vfl.job import Job
from vfl.prepare import check_padding, is_told
from vfl.psi_report import ALIGNED, PsiResult, Purpose
from vfl.terms import Integers


@contextmanager
def ready(
    job: Job, spec: PartySpec | None, folder: Path, scratch: Path, report: Report, purpose: Purpose
) -> Iterator[Callable[[Endpoint], PsiResult]]:
    """What plays a role behind the greeting, the coordinator where ``spec`` is None; a party's ids are read first.

    Parameters
    ----------
    folder : Path
        Where a party's aligned rows are to lie.
    scratch : Path
        A directory for files that grow with its list, made for them and removed in the end.

    Raises
    ------
    DataError, PolicyError
        All that can be refused without the others.
    """
    cardinality = purpose == "psi cardinality"
    if spec is None:
        yield lambda endpoint: play_coordinator(endpoint, job, report, cardinality=cardinality)
        return
    check_consent(job, spec, _guards(job), cardinality=cardinality)
    with own_ids(job, spec, scratch) as own:
        yield lambda endpoint: play_party(endpoint, job, spec, own, folder, report, cardinality=cardinality)


@contextmanager
def own_ids(job: Job, spec: PartySpec, scratch: Path) -> Iterator[IdFile]:
    """Read a party's ids; files that grow with them lie in ``scratch`` meanwhile."""
    shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
    scratch.mkdir(mode=0o700, parents=True)
    try:
        ids = read_id_file(job, spec, scratch)
        check_padding(job, spec.name, ids.count)
        yield ids
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def play_party(
    endpoint: Endpoint, job: Job, spec: PartySpec, own: IdFile, folder: Path, report: Report, *, cardinality: bool
) -> PsiResult:
    """Play a party to its end; its aligned rows lie in ``folder`` then, unless it is to learn none.

    Raises
    ------
    DataError
        Too few ids are common.
    PolicyError
        The party's policy does not consent, and guards are enforced.
    """
    guards, clock = _guards(job), session.Clock(endpoint.name, report)
    check_consent(job, spec, guards, cardinality=cardinality)
    endpoint.advanced = clock.part
    endpoint.consent = consent.of(job, spec, guards, cardinality=cardinality)
    with clock.phase("aligning"):
        alignment = session.align(endpoint, job, own.ids, cardinality=cardinality)
    told = is_told(job, spec)
    if told and not cardinality:
        with clock.phase("saving"):
            _write(spec, alignment.rows, folder / ALIGNED, own)
    return PsiResult(
        role=spec.name,
        sizes=alignment.sizes,
        protocol=alignment.protocol,
        intersection=alignment.intersection if told else None,
        seconds=clock.seconds,
        warnings=[*warnings_of(job.alignment.protocol, alignment.sizes), *guards.warnings],
        csv_rows=own.total,
        ids=own.count,
        missing=own.missing,
        duplicates=own.duplicates,
        own=len(alignment.rows) if told and not cardinality else None,
        file=told and not cardinality,
    )


def play_coordinator(endpoint: Endpoint, job: Job, report: Report, *, cardinality: bool) -> PsiResult:
    """Play the coordinator to its end."""
    clock = session.Clock(endpoint.name, report)
    endpoint.advanced = clock.part
    with clock.phase("aligning"):
        joined = session.join(endpoint, job, cardinality=cardinality)
    return PsiResult(
        role=endpoint.name,
        sizes=joined.sizes,
        protocol=joined.protocol,
        intersection=joined.intersection,
        seconds=clock.seconds,
        warnings=[],
    )


def check_consent(job: Job, spec: PartySpec, guards: Guards, *, cardinality: bool) -> None:
    """The party's policy against what an alignment alone tells the others, before anything is sent.

    Raises
    ------
    PolicyError
    """
    least = job.alignment.min_intersection
    guards.heed(common_rows(spec.policy, party=spec.name, min_intersection=least))
    consent.check_alignment(job, spec, guards, cardinality=cardinality)


def _guards(job: Job) -> Guards:
    return Guards(enforce=job.privacy.enforce, small_data=True)


def _write(spec: PartySpec, rows: Integers, path: Path, own: IdFile) -> None:
    """Write the aligned rows; what the disk does not take names the file."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_aligned(spec, rows, path, own.stamp)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
