"""``vfl check``: what can be said before anybody talks to anybody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from parties.errors import ConfigError
from vfl.commands.app import TRAIN, Overrides, Strict, app
from vfl.commands.completing import complete_scenario

if TYPE_CHECKING:
    from parties.spec import PartySpec
    from vfl.job import Job


@app.command(rich_help_panel=TRAIN, epilog="Example: vfl check scenarios/credit_default")
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="SCENARIO|PARTY",
            help="A scenario (file, or directory that holds scenario.toml); or, between companies, a party's file or "
            "the job file.",
            autocompletion=complete_scenario,
        ),
    ],
    overrides: Overrides = None,
    strict: Strict = False,
    ids: Annotated[
        bool, typer.Option("--ids", help="Look at the ids alone, for vfl psi: neither model nor label is needed.")
    ] = False,
) -> None:
    """Check files, ids, columns, labels and policies without training anything or touching a network."""
    from vfl.company_file import kind_of
    from vfl.job_file import read_document

    kind = kind_of(read_document(file))
    if kind == "scenario":
        (_check_ids if ids else _check_scenario)(file, overrides or (), strict=strict)
    elif overrides:
        raise ConfigError(
            f"--set for {file.name}, got {len(overrides)}, expected none: companies train what their files say, "
            "change the file"
        )
    elif ids:
        _check_own_ids(file, kind)
    else:
        _check_company(file, kind)


def _check_scenario(scenario: Path, overrides: Sequence[str], *, strict: bool) -> None:
    from vfl.arithmetic import arithmetic_of
    from vfl.check import IdsRefused, check_scenario
    from vfl.display import show_arithmetic, show_check, show_ids
    from vfl.job_file import load_scenario

    console = Console()
    loaded = load_scenario(scenario, overrides, strict=strict)
    arithmetic = arithmetic_of(loaded.job)
    try:
        checked = check_scenario(loaded)
    except IdsRefused as refused:
        show_ids(refused.party, refused.ids, console)
        raise
    if arithmetic is not None:
        show_arithmetic(arithmetic, console)
    show_check(checked, console)
    checked.refuse_too_few()


def _check_ids(scenario: Path, overrides: Sequence[str], *, strict: bool) -> None:
    from vfl.job_file import load_scenario

    loaded = load_scenario(scenario, overrides, strict=strict, alone=True)
    _look_at_ids(loaded.job, loaded.parties)


def _check_own_ids(file: Path, kind: Literal["job", "party"]) -> None:
    from vfl.company_file import load_company, load_joining
    from vfl.display import show_company

    if kind == "job":
        show_company(load_company(file, alone=True), Console())
        return
    joining = load_joining(file, alone=True)
    show_company(joining.company, Console())
    _look_at_ids(joining.company.job, [joining.spec])


def _look_at_ids(job: Job, parties: Sequence[PartySpec]) -> None:
    from vfl.check import IdsRefused
    from vfl.check_ids import check_ids
    from vfl.display import show_ids, show_ids_check

    console = Console()
    try:
        checked = check_ids(job, parties)
    except IdsRefused as refused:
        show_ids(refused.party, refused.ids, console)
        raise
    show_ids_check(checked, console)
    checked.refuse_too_few()


def _check_company(file: Path, kind: Literal["job", "party"]) -> None:
    from vfl.company_file import load_company, load_joining
    from vfl.display import show_company, show_joining

    console = Console()
    if kind == "job":
        show_company(load_company(file), console)
        return
    from vfl.arithmetic import arithmetic_of
    from vfl.check import IdsRefused, check_joining
    from vfl.display import show_arithmetic, show_ids

    joining = load_joining(file)
    arithmetic = arithmetic_of(joining.company.job)
    try:
        checked = check_joining(joining)
    except IdsRefused as refused:
        show_ids(refused.party, refused.ids, console)
        raise
    show_company(joining.company, console)
    if arithmetic is not None:
        show_arithmetic(arithmetic, console)
    show_joining(checked, console)
