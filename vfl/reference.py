"""The tables of every key of scenario, job and party files, written from the typed objects that check them.

``python -m vfl.reference > docs/reference.md`` writes it; a test compares, so that it cannot drift.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

import msgspec

from parties.spec import PartySpec
from vfl.company_file import JobFile, PartyFile, PinnedMember, PinnedSilo
from vfl.job import Averaging, Boosting, ScenarioFile, SplitNN, Training
from vfl.silo_tables import SiloLines
from vfl.tables import bare, describe, metas

HEAD = """# Keys of a scenario file

Written by `python -m vfl.reference > docs/reference.md` from the types that check the file. A key that is not listed
is refused, and the error names the nearest one that is. On the command line `--set training.l2=0.01` and
`--set party.NAME.data=other.csv` act as if the line stood in the file.

The section `[training]` has the keys of its model: `training (GLM)` for logistic, softmax, linear and poisson,
`training (boosting)` for boosting, `training (splitnn)` for splitnn. Where all parties are silos of one holder, GLMs
and splitnn have the keys of `training (silos)` too.

A `[[party]]` may be made of silos: then it has no `data`, and a `[[party.silo]]` for each of them, which is called
PARTY.SILO, and has from its party what its own table does not say. On the command line
`--set party.NAME.silo.SILO.data=other.csv`.
"""
JOB = """## Keys of a job file

A job file is what companies share: the keys of a scenario file (`[privacy] enforce` is always true), and those below.
Its `[[party]]` tables have no other keys than these. A party of silos has no `identity`: each of its `[[party.silo]]`
has one.
"""
PARTY = """## Keys of a party file

A party file stays with its party. At its top stand the keys that `[[party]]` has in a scenario file, save `role`,
which the job file says, and those below; `[party.policy]` is `[policy]` here. A silo has a party file of its own, whose
`name` is PARTY.SILO.
"""
FORMS: dict[type[msgspec.Struct], str] = {
    Training: " (GLM)",
    Boosting: " (boosting)",
    SplitNN: " (splitnn)",
    Averaging: " (silos)",
}
"""What tells the forms of a section apart whose keys depend on the model."""
SILOS: dict[type[msgspec.Struct], type[msgspec.Struct]] = {PartySpec: SiloLines, PinnedMember: PinnedSilo}
"""What each of a party's silos has in its own table."""


def reference() -> str:
    """Docs page: tables with section, key, type and range, default and meaning."""
    job = _table(_rows(JobFile, without=ScenarioFile.__struct_fields__[:-1]))
    party = _table(_rows(PartyFile, without=PartySpec.__struct_fields__))
    return "\n".join([HEAD, _table(_rows()), JOB, job, PARTY, party])


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    """Markdown of one table."""
    lines = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return f"| section | key | type and range | default | meaning |\n|---|---|---|---|---|\n{lines}\n"


def _rows(
    kind: type[msgspec.Struct] = ScenarioFile, section: str = "", without: Collection[str] = ()
) -> Iterator[tuple[str, ...]]:
    """One row per key, some at the top left out; a section's rows follow those of the table that it stands in."""
    hints = get_type_hints(kind, include_extras=True)
    inner_tables: list[tuple[type[msgspec.Struct], str]] = []
    for field in msgspec.structs.fields(kind):
        if field.name in without:
            continue
        hint = hints[field.name]
        if tables := _tables(hint):
            inner_tables += [(table, f"{section}.{field.name}{FORMS.get(table, '')}".lstrip(".")) for table in tables]
            continue
        yield section or "top", f"`{field.name}`", _code(describe(hint)), _default(field), _meaning(hint)
    if kind in SILOS:
        inner_tables.append((SILOS[kind], f"{section}.silo"))
    for inner, name in inner_tables:
        shared = Averaging.__struct_fields__ if inner is not Averaging and issubclass(inner, Averaging) else ()
        yield from _rows(inner, name, shared)


def _tables(hint: object) -> list[type[msgspec.Struct]]:
    """Structs that a key's value may be read into, be it a table or an array of tables; what they share comes last."""
    inner = bare(hint)
    if get_origin(inner) is tuple:
        inner = get_args(inner)[0]
    kinds = get_args(inner) if get_origin(inner) in (Union, UnionType) else (inner,)
    if NoneType in kinds:  # a silo's own policy has the keys of its party's
        return []
    found = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    return [*found, Averaging] if any(issubclass(kind, Averaging) for kind in found) else found


def _meaning(hint: object) -> str:
    """Collect the description that stands beside the type."""
    return " ".join(meta.description for meta in metas(hint) if meta.description)


def _default(field: msgspec.structs.FieldInfo) -> str:
    """Word a default: "required", "none", or the value as TOML writes it."""
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return "none" if value is None else f"`{msgspec.json.encode(value).decode()}`"


def _code(words: str) -> str:
    """Mark a pattern as code, for Markdown would read its brackets and stars."""
    before, sign, pattern = words.partition("matching ")
    return f"{before}{sign}`{pattern}`" if sign else words


if __name__ == "__main__":
    print(reference(), end="")
