"""``vfl psi``: alignment alone, on this machine or between companies."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from parties.errors import ConfigError
from vfl.commands.app import TRAIN, Overrides, Strict, app
from vfl.commands.completing import complete_scenario
from vfl.commands.watched import Resume, Seen, play_watched

if TYPE_CHECKING:
    from vfl.psi_report import PsiReport, Purpose
    from vfl.watch import Watch


@app.command(rich_help_panel=TRAIN, epilog="Example: vfl psi scenarios/credit_default --out runs/aligned")
def psi(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="SCENARIO|PARTY",
            help="A scenario (file, or directory that holds scenario.toml); or, between companies, this party's own "
            "file.",
            autocompletion=complete_scenario,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Directory of the result; of a scenario by default runs/NAME-psi-TIMESTAMP."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")] = False,
    cardinality: Annotated[
        bool, typer.Option("--cardinality", help="Only how many ids are common; nobody learns which, no CSVs.")
    ] = False,
    overrides: Overrides = None,
    strict: Strict = False,
    resume: Resume = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print report.json on standard output, and nothing else there.")
    ] = False,
) -> None:
    """Find the parties' common rows, and nothing else: every party's CSV in, its aligned CSV out."""
    from vfl.company_file import kind_of
    from vfl.job_file import read_document

    purpose: Purpose = "psi cardinality" if cardinality else "psi"
    kind = kind_of(read_document(file))
    if kind == "job":
        raise ConfigError(
            f"{file.name}, got a job file, expected a scenario or a party's own file; the coordinator's command is "
            f"'vfl coordinator {file.name} --psi'"
        )
    if kind == "scenario":
        _refuse({"--resume": resume}, "a scenario", "begin anew: all roles are on this machine")
        _here(file, out, purpose, overrides or (), overwrite=overwrite, strict=strict, as_json=as_json)
        return
    given = {"--set": bool(overrides), "--overwrite": overwrite, "--strict": strict}
    _refuse(given, "a party's file", "companies align what their files say, guards refuse, and no run is replaced")
    _between(file, out, purpose, resume=resume, as_json=as_json)


def _refuse(given: Mapping[str, bool], kind: str, why: str) -> None:
    """Refuse options that act on the other kind of file only."""
    for option in (name for name, asked in given.items() if asked):
        raise ConfigError(f"{option} with {kind}, got both, expected no {option}: {why}")


def _here(
    file: Path,
    out: Path | None,
    purpose: Purpose,
    overrides: Sequence[str],
    *,
    overwrite: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """All roles on this machine."""
    from vfl.display import Display
    from vfl.job_file import load_scenario
    from vfl.psi_display import show_psi
    from vfl.psi_report import encode_psi
    from vfl.psi_run import align_scenario
    from vfl.run import default_out

    console = Console(stderr=as_json)
    scenario = load_scenario(file, overrides, strict=strict, alone=True)
    target = out if out is not None else default_out(f"{scenario.job.name}-psi")
    with Display(scenario.job, console, starting="Reading the ids") as display:
        report = align_scenario(scenario, target, display.report, purpose, overwrite=overwrite)
    if as_json:
        sys.stdout.buffer.write(encode_psi(report))
        sys.stdout.buffer.flush()
    show_psi(report, console, out=target)


def _between(file: Path, out: Path | None, purpose: Purpose, *, resume: bool, as_json: bool) -> None:
    """This company's party."""
    from vfl.company_file import load_joining
    from vfl.psi_company import join
    from vfl.psi_display import show_psi
    from vfl.psi_report import encode_psi

    joining = load_joining(file, alone=True)
    if out is None:
        raise ConfigError("--out missing, got none, expected the folder of this alignment, such as --out runs/aligned")
    company, name, folder = joining.company, joining.spec.name, out

    def play(watch: Watch) -> PsiReport | None:
        return join(joining, folder, watch, purpose, resume=resume)

    seen = Seen(f"aligning as {name}, coordinator at {company.address}", as_json, "info", None)
    play_watched(company, name, folder, seen, play, encode_psi, partial(show_psi, out=folder))
