"""``run.json`` in a party's folder: what it takes, beside the shard, to use the shard later.

Which run it is of, the job, the party's own lines, what was agreed, and the alignment that its answers are counted on.
It names the SHA-256 of ``model.json``, which names that of ``model.npz``: a folder put together from different runs is
noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from parties.errors import DataError
from parties.policy import KeyHolder
from parties.spec import PartySpec
from vfl import __version__
from vfl.job import Job
from vfl.terms import Terms

FILE = "run.json"
_Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


class KeptRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file says.

    Attributes
    ----------
    format : int
        1: another one is of another version.
    run : str
        Id of the run; the same in all parties' folders.
    party : PartySpec
        The party's own lines; ``data`` is empty but for its name.
    outputs : int
        Scores per row.
    columns : dict of party to int
        Columns after encoding, in job order.
    key_holder, alignment : str or None
        Who had the key, and the SHA-256 (hex) of the ids trained on, which stays with the party: rows scored count on
        that account. None where silos alone have trained: they make no key, align nothing, and each has the whole
        model.
    """

    format: Literal[1] = 1
    version: str
    run: Annotated[str, Meta(min_length=1, max_length=64)]
    job: Job
    party: PartySpec
    key_holder: KeyHolder | None
    outputs: Annotated[int, Meta(ge=1)]
    columns: dict[str, Annotated[int, Meta(ge=0)]]
    alignment: _Sha256 | None
    model_sha256: _Sha256

    def __post_init__(self) -> None:
        alone = self.job.horizontal
        if (self.key_holder is None) != alone or (self.alignment is None) != alone:
            raise ValueError("a key and an alignment belong to a federation with a passive party, and to no other")

    def terms(self) -> Terms:
        """What all roles knew, without rows of a training; where there was a key."""
        if self.key_holder is None:
            raise TypeError("silos that train alone agree on no key")
        return Terms(self.job, self.key_holder, "", 0, self.outputs, self.columns, self.party.policy.partial_scores)

    @property
    def account(self) -> str:
        """The ids trained on, where there are any; see ``alignment``."""
        if self.alignment is None:
            raise TypeError("silos that train alone align nothing")
        return self.alignment


class _Format(msgspec.Struct, frozen=True):
    """What every version's file says."""

    format: int
    version: str = "unknown"


def save_kept_run(folder: Path, run: str, terms: Terms, spec: PartySpec, alignment: str) -> None:
    """Write ``run.json`` beside the shard that is there already."""
    _save(folder, run, terms.job, spec, terms.outputs, terms.columns, terms.key_holder, alignment)


def save_horizontal_run(folder: Path, run: str, job: Job, spec: PartySpec, outputs: int, columns: int) -> None:
    """Write ``run.json`` of a silo where there is no passive party, beside the shard that is there already.

    Parameters
    ----------
    outputs : int
        Scores per row.
    columns : int
        Encoded columns, the same at all silos.
    """
    _save(folder, run, job, spec, outputs, dict.fromkeys(job.labelled, columns), None, None)


def _save(
    folder: Path,
    run: str,
    job: Job,
    spec: PartySpec,
    outputs: int,
    columns: Mapping[str, int],
    key_holder: KeyHolder | None,
    alignment: str | None,
) -> None:
    kept = KeptRun(
        version=__version__,
        run=run,
        job=job,
        party=msgspec.structs.replace(spec, data=Path(spec.data).name),
        key_holder=key_holder,
        outputs=outputs,
        columns=dict(columns),
        alignment=alignment,
        model_sha256=_sha256(folder / "model.json"),
    )
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")


def load_kept_run(folder: Path) -> KeptRun:
    """Read ``run.json`` of a party's folder.

    Raises
    ------
    DataError
        It is missing, damaged, of another version, or ``model.json`` is not the one that it names.
    """
    path = folder / FILE
    try:
        content = path.read_bytes()
        _check_format(path, content)
        kept = msgspec.json.decode(content, type=KeptRun)
        sha256 = _sha256(folder / "model.json")
    except OSError as error:
        raise DataError(
            f"{error.filename or path}: cannot be read ({error.strerror}); expected a party's folder as a finished run "
            "left it"
        ) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        raise DataError(f"{path}: damaged, expected the file as the run left it; run the training again") from None
    if sha256 != kept.model_sha256:
        raise DataError(
            f"{folder}: model.json is not the one of this run, expected the shard that {FILE} names; put the party's "
            "folder back as the run left it, or train again"
        )
    return kept


def _check_format(path: Path, content: bytes) -> None:
    said = msgspec.json.decode(content, type=_Format)
    if said.format != 1:
        raise DataError(
            f"{path}: got a model in format {said.format}, written by vfl {said.version}, expected format 1, which vfl "
            f"{__version__} reads; use that version of vfl, or train again"
        )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
