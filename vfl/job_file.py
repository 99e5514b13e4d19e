"""Scenario files: TOML, and the command line's ``--set``, to a checked `Scenario`.

Everything that can be said about a scenario without opening a CSV is said here, once; whoever holds a `Scenario`
need not check it again.
"""

from __future__ import annotations

import copy
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from parties.errors import ConfigError
from parties.spec import PartySpec, check_spec
from vfl import tables
from vfl.job import (
    LATER,
    MODELS,
    Boosting,
    Job,
    Member,
    Scenario,
    ScenarioFile,
    Training,
    check_job,
    resolve_task,
)
from vfl.tables import Source, Table, show


def load_scenario(path: Path, overrides: Sequence[str] = (), *, strict: bool = False) -> Scenario:
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

    Raises
    ------
    ConfigError
        One line: what, where, got, expected, what to do.
    """
    path = Path(path)
    file = path / "scenario.toml" if path.is_dir() else path
    document = _parse(_read_text(file, path), file.name)
    return build_scenario(document, file.absolute().parent, file=file.name, overrides=overrides, strict=strict)


def build_scenario(
    document: Mapping[str, object],
    directory: Path,
    *,
    file: str,
    overrides: Sequence[str] = (),
    strict: bool = False,
) -> Scenario:
    """Check a scenario that is already parsed; ``file`` is what errors call it. See `load_scenario`."""
    edited: Table = copy.deepcopy(dict(document))
    given = frozenset(place for override in overrides for place in _override(edited, override))
    form = Boosting if edited.get("model") == "boosting" else Training
    source = Source(file, edited, given, {("training",): form})
    _refuse_later(edited, source)
    _refuse_other_models(edited, source, form)
    lines = tables.read(ScenarioFile, edited, source)
    job = _job(lines, file, strict)
    for spec in lines.party:
        check_spec(spec, file)
        _check_party_and_job(spec, job, file)
    return Scenario(job=job, parties=tuple(_located(spec, directory) for spec in lines.party), directory=directory)


def _job(lines: ScenarioFile, file: str, strict: bool) -> Job:
    """Make the part of a scenario that all parties share, checked."""
    privacy = msgspec.structs.replace(lines.privacy, enforce=True) if strict else lines.privacy
    job = Job(
        name=lines.name,
        task=resolve_task(lines.model, lines.task, file),
        model=lines.model,
        seed=lines.seed,
        alignment=lines.alignment,
        split=lines.split,
        training=lines.training if isinstance(lines.training, Training) else Training(),
        boosting=lines.training if isinstance(lines.training, Boosting) else Boosting(),
        privacy=privacy,
        parties=tuple(Member(name=spec.name, role=spec.role) for spec in lines.party),
    )
    check_job(job, file)
    return job


def _check_party_and_job(spec: PartySpec, job: Job, file: str) -> None:
    """Refuse a party's lines that the job's model or task cannot heed."""
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


def _read_text(file: Path, asked: Path) -> str:
    """Text of a file, or an error that says what is wrong with it."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        if asked == file:
            raise ConfigError(
                f"scenario {str(asked)!r} does not exist, expected a file or a directory with one"
            ) from None
        raise ConfigError(f"directory {str(asked)!r} holds no scenario.toml, expected one, or name the file") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{file.name}, line {line}, column {column}: got a byte that is not UTF-8") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(f"scenario {str(asked)!r} cannot be read, got: {reason}") from None


def _parse(text: str, name: str) -> Table:
    """Parse TOML; errors name file, line and column."""
    if not text.strip():
        raise ConfigError(f"{name} is empty, expected at least name, model and two [[party]] tables")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{name} is malformed TOML, got arrays or tables nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        reason, _, place = str(error).replace("\n", " ").rpartition(" (at ")
        if not place.startswith("line"):
            lines = text.split("\n")
            place = f"line {len(lines)}, column {len(lines[-1]) + 1})"
        got = f"{name}, {place.removesuffix(')')}: malformed TOML, got: {reason}"
        raise ConfigError(f"{got}, expected KEY = VALUE or [SECTION]") from None
    except ValueError:
        raise ConfigError(f"{name} is malformed TOML, got a number of thousands of digits") from None


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


def _refuse_other_models(document: Table, source: Source, form: type[Training | Boosting]) -> None:
    """Refuse by name a key of [training] that other models have."""
    table, model = document.get("training"), document.get("model")
    if not isinstance(table, dict) or model not in MODELS:
        return
    other, models = (Training, "logistic, softmax, linear and poisson") if form is Boosting else (Boosting, "boosting")
    for key, got in table.items():
        if key in other.__struct_fields__ and key not in form.__struct_fields__:
            known = ", ".join(form.__struct_fields__)
            raise ConfigError(
                f"{key} {source.where(('training',), key)}, got {show(got)} for model '{model}', expected no such "
                f"line: it belongs to {models} (known for '{model}': {known})"
            )


def _refuse_later(document: Table, source: Source) -> None:
    """Refuse by name what the contract knows and this version lacks; drop what asks for nothing."""
    for (*section, key), (coming, present) in LATER.items():
        table: object = document.get(section[0]) if section else document
        if not isinstance(table, dict) or key not in table:
            continue
        got = table[key]
        where = source.where(tuple(section), key)
        if coming and got in coming:
            exists = ", ".join(f"'{value}'" for value in present)
            raise ConfigError(f"{key} {where}, got '{got}', which is not in this version, expected one of {exists}")
        if not coming and any(got == value and isinstance(got, bool) == isinstance(value, bool) for value in present):
            del table[key]
        elif not coming:
            default = show(present[0]) if present else "no such line"
            raise ConfigError(f"{key} {where}, got {show(got)}, which is not in this version, expected {default}")
