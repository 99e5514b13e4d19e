"""The ``vfl`` command itself: its name, its help, and the options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parties.errors import VflError
from vfl import __version__
from vfl.commands.completing import complete_key, complete_run, complete_scenario

app = typer.Typer(
    name="vfl",
    help="Vertical federated learning: several companies train one model on the columns each of them keeps.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

TRAIN, USE, LOOK, BETWEEN = "Train", "Use a model", "Look", "Between companies"
"""Panels of the help; commands stand in them in the order in which ``vfl.cli`` names their files."""

ScenarioPath = Annotated[
    Path,
    typer.Argument(
        metavar="SCENARIO",
        help="A scenario file, or a directory that holds scenario.toml.",
        autocompletion=complete_scenario,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a line, e.g. --set training.l2=0.01 or --set party.bank.data=other.csv. Repeatable.",
        autocompletion=complete_key,
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Guards refuse, as between companies, instead of warning.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print report.json on standard output, and nothing else there.")]
RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Directory that a run left behind.", autocompletion=complete_run)
]


class Interrupted(VflError):
    """The user pressed Ctrl-C."""

    exit_code = 130


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"vfl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    pass
