"""Scenario files: TOML, and the command line's ``--set``, to a checked `Scenario`.

Everything that can be said about a scenario without opening a CSV is said here, once; whoever holds a `Scenario`
need not check it again.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from parties.errors import ConfigError
from parties.spec import PartySpec, check_spec
from vfl import tables
from vfl.job import (
    MODELS,
    TASKS,
    Averaging,
    Boosting,
    Job,
    Lines,
    Member,
    Scenario,
    ScenarioFile,
    SplitNN,
    Task,
    Training,
)
from vfl.job_checks import check_alignment_alone, check_job, resolve_task
from vfl.silo_checks import party_at_odds
from vfl.silo_tables import expand_silos
from vfl.tables import Source, Table, show

L = TypeVar("L", bound=Lines)


def load_scenario(path: Path, overrides: Sequence[str] = (), *, strict: bool = False, alone: bool = False) -> Scenario:
    """Read and check a scenario.

    Parameters
    ----------
    path : Path
        The file, or a directory that holds ``scenario.toml``.
    overrides : sequence of str
        ``KEY=VALUE`` of ``--set``: ``training.l2=0.01``, ``party.bank.data=other.csv`` (as if it stood in the file).
        The value is TOML, or else plain text.
    strict : bool
        Set ``privacy.enforce``.
    alone : bool
        It is for an alignment alone: neither a model nor a label is needed.

    Raises
    ------
    ConfigError
        One line: what, where, got, expected, what to do.
    """
    file = scenario_file(path)
    return build_scenario(
        read_document(path), file.absolute().parent, file=file.name, overrides=overrides, strict=strict, alone=alone
    )


def scenario_file(path: Path) -> Path:
    """``scenario.toml`` of a directory, or the file itself."""
    return path / "scenario.toml" if path.is_dir() else path


def read_document(path: Path) -> Table:
    """Parse a scenario, or another file of a job; nothing of what it says is checked."""
    file = scenario_file(path)
    if file != path and not os.path.exists(file):
        raise ConfigError(f"directory {str(path)!r} holds no scenario.toml, expected one, or name the file")
    return tables.load(file, "scenario", "name, model and two [[party]] tables")


def build_scenario(
    document: Mapping[str, object],
    directory: Path,
    *,
    file: str,
    overrides: Sequence[str] = (),
    strict: bool = False,
    alone: bool = False,
) -> Scenario:
    """Check a scenario that is already parsed; ``file`` is what errors call it. See `load_scenario`."""
    edited: Table = copy.deepcopy(dict(document))
    given = frozenset(place for override in overrides for place in _override(edited, override))
    if alone:
        imply_model(edited)
    edited, given = expand_silos(edited, given, file)
    lines = read_lines(ScenarioFile, edited, file, given)
    members = [Member(name=spec.name, role=spec.role) for spec in lines.party]
    job = make_job(lines, lines.task, members, file, enforce=strict, alone=alone)
    for spec in lines.party:
        check_party(spec, job, file, labelled=not alone)
    return Scenario(job=job, parties=tuple(_located(spec, directory) for spec in lines.party), directory=directory)


def read_lines(kind: type[L], document: Table, file: str, given: frozenset[tables.Path] = frozenset()) -> L:
    """Read a job's lines, and what else ``kind`` has, from a parsed file; ``given`` by ``--set``."""
    form = _form(document.get("model"))
    source = Source(file, document, given, {("training",): form})
    _refuse_other_models(document, source, form)
    return tables.read(kind, document, source)


def make_job(
    lines: Lines, task: Task | None, members: Iterable[Member], file: str, *, enforce: bool, alone: bool = False
) -> Job:
    """Make what all parties share, checked; ``enforce`` holds whatever the lines say of it.

    ``alone``: only an alignment is wanted, and what would be trained does not matter.
    """
    privacy = msgspec.structs.replace(lines.privacy, enforce=True) if enforce else lines.privacy
    job = Job(
        name=lines.name,
        task=resolve_task(lines.model, task, file),
        model=lines.model,
        seed=lines.seed,
        alignment=lines.alignment,
        split=lines.split,
        training=lines.training if isinstance(lines.training, Training) else Training(),
        boosting=lines.training if isinstance(lines.training, Boosting) else Boosting(),
        splitnn=lines.training if isinstance(lines.training, SplitNN) else SplitNN(),
        privacy=privacy,
        parties=tuple(members),
    )
    (check_alignment_alone if alone else check_job)(job, file)
    return job


def imply_model(document: Table) -> None:
    """Where nothing is trained a job needs no model: one that fits its task takes the place."""
    fitting = (model for model, task in TASKS.items() if task == document.get("task"))
    document.setdefault("model", next(fitting, "logistic"))


def check_party(spec: PartySpec, job: Job, file: str, *, labelled: bool = True) -> None:
    """Check a party's lines by themselves, and refuse those that the job's model or task cannot heed."""
    check_spec(spec, file, labelled=labelled)
    if spec.id is None and not job.horizontal:
        raise ConfigError(
            f"missing key 'id' in [[party]] '{spec.name}' of {file}, got none, expected the name of its id column, or "
            "a list of names"
        )
    for place, got, expected in party_at_odds(job, spec):
        raise ConfigError(f"{place} of party '{spec.name}' in {file}, got {got}, expected {expected}")
    if spec.positive is not None and job.task != "binary":
        raise ConfigError(
            f"positive of party '{spec.name}' in {file}, got {show(spec.positive)}, "
            f"expected none for task '{job.task}': it belongs to binary tasks, remove the line"
        )
    bound = [column for column, sign in spec.monotone_constraints.items() if sign]
    if bound and (job.model != "boosting" or job.task == "multiclass"):
        which = f"task '{job.task}'" if job.model == "boosting" else f"model '{job.model}'"
        raise ConfigError(
            f"monotone_constraints of party '{spec.name}' in {file}, got one for {show(bound[0])}, expected none for "
            f"{which}: they act with model 'boosting' and one output (binary, regression, count), remove the line"
        )


def _located(spec: PartySpec, directory: Path) -> PartySpec:
    """Make the party's data path absolute."""
    return msgspec.structs.replace(spec, data=os.path.realpath(directory / spec.data))


def _override(document: Table, text: str) -> list[tables.Path]:
    """Put one ``KEY=VALUE`` of ``--set`` into the document; return the places that it gave."""
    path, sign, value = text.partition("=")
    parts = [part.strip() for part in path.split(".")]
    if not sign or not all(parts):
        raise ConfigError(f"--set, got {show(text)}, expected KEY=VALUE such as training.l2=0.01")
    node: object = document
    place: tables.Path = ()
    given: list[tables.Path] = []
    for part in parts[:-1]:
        step, node, new = _enter(node, part, place, text)
        place = (*place, step)
        given += [place] if new else []
    if isinstance(node, list):
        raise ConfigError(f"--set, got {show(text)}, expected a key of one party, such as party.NAME.data")
    if not isinstance(node, dict):
        raise _single(place, text)
    node[parts[-1]] = _value(value)
    return [*given, (*place, parts[-1])]


def _enter(node: object, part: str, place: tables.Path, text: str) -> tuple[str | int, object, bool]:
    """One step of an override's path: into a table, made where missing, or to the party of that name."""
    if isinstance(node, dict):
        new = part not in node
        return part, node.setdefault(part, {}), new
    if isinstance(node, list):
        names = [row.get("name") if isinstance(row, dict) else None for row in node]
        if part in names:
            return names.index(part), node[names.index(part)], False
        known = [name for name in names if isinstance(name, str)]
        hint = f", did you mean '{tables.nearest(part, known)}'?" if known else ""
        raise ConfigError(f"--set, got {show(text)}: no {place[-1]} is named {show(part)}{hint}")
    raise _single(place, text)


def _single(place: tables.Path, text: str) -> ConfigError:
    """Make the error for an override that looks for a key inside a value."""
    return ConfigError(f"--set, got {show(text)}, but {show(place[-1])} is a single value, expected KEY=VALUE for it")


def _value(text: str) -> object:
    """Parse a TOML value, or take it as plain text."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


Form = type[Training | Boosting | SplitNN]
FORMS: dict[Form, str] = {
    Training: "logistic, softmax, linear and poisson",
    Boosting: "boosting",
    SplitNN: "splitnn",
}
"""The forms of [training], and whose they are."""


def forms_of(model: object) -> tuple[Form, ...]:
    """The forms that [training] may have; where no model is named, all of them."""
    return tuple(FORMS) if model is None else (_form(model),)


def _form(model: object) -> Form:
    """The form of [training] that a model has."""
    if model == "splitnn":
        return SplitNN
    return Boosting if model == "boosting" else Training


def _refuse_other_models(document: Table, source: Source, form: Form) -> None:
    """Refuse by name a key of [training] that other models have."""
    table, model = document.get("training"), document.get("model")
    if not isinstance(table, dict) or model not in MODELS:
        return
    for key, got in table.items():
        models = [name for other, name in FORMS.items() if key in other.__struct_fields__]
        if models and key not in form.__struct_fields__:
            known = ", ".join(sorted(form.__struct_fields__, key=lambda name: name in Averaging.__struct_fields__))
            raise ConfigError(
                f"{key} {source.where(('training',), key)}, got {show(got)} for model '{model}', expected no such "
                f"line: it belongs to {' and '.join(models)} (known for '{model}': {known})"
            )
