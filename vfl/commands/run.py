"""``vfl run``: all roles of a scenario on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vfl.commands.app import TRAIN, AsJson, Overrides, ScenarioPath, Strict, app

if TYPE_CHECKING:
    from vfl.job import Job
    from vfl.report.summary import RunReport
    from vfl.tracking import Tracking


@app.command(
    rich_help_panel=TRAIN, epilog="Example: vfl run scenarios/credit_default --set training.l2=0.01 --out runs/first"
)
def run(
    scenario: ScenarioPath,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Directory of the run; by default runs/NAME-TIMESTAMP.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")] = False,
    overrides: Overrides = None,
    strict: Strict = False,
    no_baselines: Annotated[
        bool,
        typer.Option("--no-baselines", help="Leave out the models to compare with: active party alone, pooled, ..."),
    ] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="All roles in this process, taking turns, instead of one process each.")
    ] = False,
    mlflow: Annotated[
        bool,
        typer.Option(
            "--mlflow",
            help="Log the run in MLflow, where MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say; "
            r"needs vfl\[mlflow].",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Align the parties' rows, train the joint model, evaluate it: all roles on this machine."""
    from vfl.arithmetic import arithmetic_of
    from vfl.display import Display, show_arithmetic, show_summary
    from vfl.job_file import load_scenario
    from vfl.network_checks import check_torch
    from vfl.report.summary import encode_report
    from vfl.run import default_out, run_scenario

    console = Console(stderr=as_json)
    loaded = load_scenario(scenario, overrides or (), strict=strict)
    check_torch(loaded.job, loaded.parties)
    if (arithmetic := arithmetic_of(loaded.job)) is not None:
        show_arithmetic(arithmetic, console)
    tracking = _open_tracking() if mlflow else None
    target = out if out is not None else default_out(loaded.job.name)
    with Display(loaded.job, console) as display:
        summary = run_scenario(
            loaded, target, display.report, overwrite=overwrite, baselines=not no_baselines, in_process=in_process
        )
    if as_json:
        sys.stdout.buffer.write(encode_report(summary))
        sys.stdout.buffer.flush()
    show_summary(summary, target, console)
    if tracking is not None:
        _log(tracking, loaded.job, summary, target, console)


def _open_tracking() -> Tracking:
    from vfl.tracking import open_tracking

    return open_tracking()


def _log(tracking: Tracking, job: Job, summary: RunReport, out: Path, console: Console) -> None:
    """Log the run in MLflow; where that fails, the run has ended well all the same."""
    from vfl.display import say, warn
    from vfl.tracking import TrackingLost, log_run

    try:
        run = log_run(tracking, job, summary, out)
    except TrackingLost as error:
        warn(f"--mlflow: the run is not in MLflow ({error}); nothing of it is lost, it lies in {out}", console)
    else:
        say(f"MLflow: run {run} in experiment '{tracking.name}'", console)
