"""What a shell offers for a word half typed: scenarios, runs, keys of a job, parties of a run.

Called by ``vfl --install-completion``'s script at every press of Tab, so that nothing slow is imported, and whatever is
wrong with a file offers nothing instead of an error. Without an offer shells complete names of files.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer

if TYPE_CHECKING:
    import msgspec

Offer = tuple[str, str]  # what is typed, and its help


class _Key(NamedTuple):
    """A key of a scenario as ``--set`` names it, the values to begin with, and its meaning."""

    path: str
    values: Sequence[str]
    meaning: str


def complete_scenario(incomplete: str) -> list[str]:
    """Directories that hold ``scenario.toml``, here, in ``scenarios/`` and where the word leads, or TOML files."""
    return _directories_with("scenario.toml", incomplete, "scenarios") or _files(incomplete, ".toml")


def complete_run(incomplete: str) -> list[str]:
    """Directories that runs left behind."""
    return _directories_with("report.json", incomplete, "runs")


def complete_key(ctx: typer.Context, incomplete: str) -> list[Offer]:
    """Keys of ``--set`` with ``=``; of the one key that is left, its values, or its default to be changed."""
    document = _document(_first_argument(ctx))
    keys = [key for key in _keys(document) if key.path.startswith(incomplete.partition("=")[0])]
    if "=" in incomplete:
        keys = [key for key in keys if key.path == incomplete.partition("=")[0]]
    if len(keys) != 1:
        return [(f"{key.path}=", key.meaning) for key in keys]
    only = keys[0]
    offers = [f"{only.path}={value}" for value in only.values or [""]]
    return [(offer, only.meaning) for offer in offers if offer.startswith(incomplete)]


def complete_data(ctx: typer.Context, incomplete: str) -> list[str]:
    """``PARTY=`` for the parties of RUN_DIR that no ``--data`` names yet; then files."""
    name, sign, path = incomplete.partition("=")
    if sign:
        return [f"{name}={found}" for found in _files(path, ".csv")]
    given = {str(one).partition("=")[0] for one in ctx.params.get("data") or ()}
    parties = _directories_with("run.json", f"{_first_argument(ctx)}/") if _first_argument(ctx) else []
    names = sorted(Path(party).name for party in parties)
    return [f"{party}=" for party in names if party.startswith(incomplete) and party not in given]


def _first_argument(ctx: typer.Context) -> str:
    """SCENARIO or RUN_DIR of a command line whose last option lacks its value; empty if it is not there yet."""
    return next((word for word in ctx.args if word), "")


def _directories_with(file: str, incomplete: str, usual: str = "") -> list[str]:
    """Directories that begin with the word and hold a file, beside it and in the usual place."""
    beside = os.path.dirname(incomplete)
    places = dict.fromkeys([beside, usual] if usual else [beside])
    found = (os.path.join(place, name) for place in places for name in _names(place))
    return sorted(path for path in found if path.startswith(incomplete) and os.path.isfile(os.path.join(path, file)))


def _files(incomplete: str, suffix: str) -> list[str]:
    """Files with a suffix that begin with the word."""
    place = os.path.dirname(incomplete)
    paths = sorted(os.path.join(place, name) for name in _names(place))
    return [path for path in paths if path.startswith(incomplete) and path.endswith(suffix) and os.path.isfile(path)]


def _names(place: str) -> list[str]:
    """What lies in a directory, hidden things left out; nothing if it cannot be read."""
    try:
        return [name for name in os.listdir(place or ".") if not name.startswith(".")]
    except OSError:
        return []


def _document(scenario: str) -> dict[str, object]:
    """The scenario as far as it can be read."""
    path = Path(scenario)
    try:
        return tomllib.loads((path / "scenario.toml" if path.is_dir() else path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _keys(document: dict[str, object]) -> Iterator[_Key]:
    """All keys that a scenario may have: those of its model, and of its parties by their names."""
    from parties.spec import PartySpec
    from vfl.job import Alignment, Privacy, ScenarioFile, Split
    from vfl.job_file import forms_of
    from vfl.silo_tables import SiloLines

    forms: dict[str, type[msgspec.Struct]] = {"alignment": Alignment, "split": Split, "privacy": Privacy}
    yield from _own_keys(ScenarioFile, "")
    known: set[str] = set()
    for training in forms_of(document.get("model")):  # without a model those of all, which have keys in common
        keys = [key for key in _own_keys(training, "training.") if key.path not in known]
        known |= {key.path for key in keys}
        yield from keys
    for section, form in forms.items():
        yield from _own_keys(form, f"{section}.")
    for name, party in _named(document.get("party")):
        silos = _named(party.get("silo"))
        own = _own_keys(PartySpec, f"party.{name}.")
        yield from (key for key in own if not (silos and key.path.endswith(".data")))
        for silo, _ in silos:
            yield from _own_keys(SiloLines, f"party.{name}.silo.{silo}.")


def _named(tables: object) -> list[tuple[str, dict[str, object]]]:
    """Tables of an array that have a name, by it."""
    rows = [row for row in tables if isinstance(row, dict)] if isinstance(tables, list) else []
    return [(row["name"], row) for row in rows if isinstance(row.get("name"), str)]


def _own_keys(kind: type[msgspec.Struct], before: str) -> Iterator[_Key]:
    """Keys of one table; those that are tables themselves are left out."""
    import msgspec

    from vfl.tables import bare, metas

    hints = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        hint = hints[field.name]
        parts = [bare(part) for part in _alternatives(bare(hint))]
        if any(_is_table(part) for part in parts) or (before.startswith("party.") and field.name in ("name", "role")):
            continue
        meaning = " ".join(mark.description for mark in metas(hint) if mark.description)
        yield _Key(before + field.name, _values(parts, field.default), meaning)


def _alternatives(hint: object) -> tuple[object, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_table(hint: object) -> bool:
    """Whether a value is one table or several: ``--set`` sets their keys, not them."""
    import msgspec

    inner = get_args(hint)[0] if get_origin(hint) is tuple else hint
    return isinstance(inner, type) and issubclass(inner, msgspec.Struct)


def _values(parts: Sequence[object], default: object) -> list[str]:
    """What a value may be, where that is a list; else its default, where there is one."""
    choices = [str(value) for part in parts if get_origin(part) is Literal for value in get_args(part)]
    if choices:
        return choices
    if bool in parts:
        return ["true", "false"]
    return [json.dumps(default)] if isinstance(default, int | float) else []
