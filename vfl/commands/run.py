"""``vfl run``: all roles of a scenario on this machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vfl.commands.app import AsJson, Overrides, ScenarioPath, Strict, app


@app.command(epilog="Example: vfl run scenarios/credit_default --set training.l2=0.01 --out runs/first")
def run(
    scenario: ScenarioPath,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Directory of the run. [default: runs/NAME-TIMESTAMP]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that --out holds.")] = False,
    overrides: Overrides = None,
    strict: Strict = False,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Leave out 'active alone' and 'pooled'.")
    ] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="All roles in this process, taking turns, instead of one process each.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Align the parties' rows, train the joint model, evaluate it: all roles on this machine."""
    from vfl.arithmetic import choose_arithmetic
    from vfl.display import Display, show_arithmetic, show_summary
    from vfl.job_file import load_scenario
    from vfl.report.summary import encode_report
    from vfl.run import default_out, run_scenario

    console = Console(stderr=as_json)
    loaded = load_scenario(scenario, overrides or (), strict=strict)
    show_arithmetic(choose_arithmetic(loaded.job.privacy.key_bits), console)
    target = out if out is not None else default_out(loaded.job.name)
    with Display(loaded.job, console) as display:
        summary = run_scenario(
            loaded, target, display.report, overwrite=overwrite, baselines=not no_baselines, in_process=in_process
        )
    if as_json:
        sys.stdout.buffer.write(encode_report(summary))
        sys.stdout.buffer.flush()
    show_summary(summary, target, console)
