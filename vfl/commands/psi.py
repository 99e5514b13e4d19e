"""``vfl psi``: alignment alone, on this machine or between companies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from parties.errors import ConfigError
from vfl.commands.app import TRAIN, Overrides, Strict, app
from vfl.commands.company import LogLevel, MetricsAt, Resume
from vfl.commands.completing import complete_scenario

if TYPE_CHECKING:
    from vfl.psi_report import PsiReport, Purpose


@app.command(
    rich_help_panel=TRAIN, epilog="Example: vfl psi scenarios/credit_default --out runs/aligned (or: vfl psi bank.toml)"
)
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
    log_level: LogLevel = "info",
    metrics: MetricsAt = None,
) -> None:
    """Find the parties' common rows, and nothing else: every party's CSV in, its aligned CSV out."""
    from vfl.company_file import kind_of
    from vfl.job_file import read_document

    purpose: Purpose = "psi cardinality" if cardinality else "psi"
    kind = kind_of(read_document(file))
    if kind == "scenario":
        report = _here(file, out, purpose, overrides or (), Console(stderr=as_json), overwrite=overwrite, strict=strict)
    else:
        raise ConfigError(f"{file.name}, got a {kind} file, expected a scenario")
    if as_json:
        from vfl.psi_report import encode_psi

        sys.stdout.buffer.write(encode_psi(report))
        sys.stdout.buffer.flush()


def _here(
    file: Path,
    out: Path | None,
    purpose: Purpose,
    overrides: Sequence[str],
    console: Console,
    *,
    overwrite: bool,
    strict: bool,
) -> PsiReport:
    """All roles on this machine."""
    from vfl.display import Display
    from vfl.job_file import load_scenario
    from vfl.psi_display import show_psi
    from vfl.psi_run import align_scenario
    from vfl.run import default_out

    scenario = load_scenario(file, overrides, strict=strict, alone=True)
    target = out if out is not None else default_out(f"{scenario.job.name}-psi")
    with Display(scenario.job, console, starting="Reading the ids") as display:
        report = align_scenario(scenario, target, display.report, purpose, overwrite=overwrite)
    show_psi(report, target, console)
    return report
