"""``vfl estimate``: what a run will take, before it starts."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from vfl.commands.app import TRAIN, Overrides, ScenarioPath, Strict, app


@app.command(rich_help_panel=TRAIN, epilog="Example: vfl estimate scenarios/credit_default --set privacy.key_bits=3072")
def estimate(
    scenario: ScenarioPath,
    overrides: Overrides = None,
    strict: Strict = False,
    no_baselines: Annotated[
        bool, typer.Option("--no-baselines", help="Without the time of the models to compare with.")
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the estimate as one object on standard output, and nothing else."),
    ] = False,
) -> None:
    """Estimate rows, rounds, encryptions, bytes per link and seconds per phase of a run, without running it."""
    from vfl.arithmetic import arithmetic_of
    from vfl.display import show_arithmetic
    from vfl.estimating.estimate import estimate as estimate_run
    from vfl.estimating.table import encode_estimate, show_estimate
    from vfl.job_file import load_scenario

    console = Console(stderr=as_json)
    loaded = load_scenario(scenario, overrides or (), strict=strict)
    if (arithmetic := arithmetic_of(loaded.job)) is not None:
        show_arithmetic(arithmetic, console)
    found = estimate_run(loaded, baselines=not no_baselines)
    if as_json:
        sys.stdout.buffer.write(encode_estimate(found))
        sys.stdout.buffer.flush()
    else:
        show_estimate(found, console)
