"""``vfl evaluate``: joint metrics on new rows with labels, on this machine or between companies."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from vfl.commands.app import USE, AsJson, RunDirectory, app
from vfl.commands.predict import Data, Join, Overwrite, parse_data

if TYPE_CHECKING:
    from vfl.prediction import Predicted
    from vfl.report.summary import RunReport

EVALUATIONS = "evaluations"


@app.command(
    rich_help_panel=USE, epilog="Example: vfl evaluate runs/first --data bank=new_bank.csv --data shop=new_shop.csv"
)
def evaluate(
    directory: RunDirectory,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Directory of the evaluation; by default RUN_DIR/evaluations/TIME."),
    ] = None,
    overwrite: Overwrite = False,
    join: Join = None,
    as_json: AsJson = False,
) -> None:
    """Judge the model that a run left behind on new rows with labels: joint metrics and a report."""
    from vfl.evaluation import report_of_training

    console, start = Console(stderr=as_json), time.perf_counter()
    files = parse_data(data or ())
    trained = report_of_training(directory)
    names = [party.name for party in trained.parties]
    with _folder(directory, out, names, overwrite=overwrite) as (folder, final):
        if join is None:
            predicted = _score_here(directory, files, folder, console)
        else:
            predicted = _score_together(join, directory, files, folder, console)
        report = _write(folder, predicted, trained, start)
    if as_json:
        from vfl.report.summary import encode_report

        sys.stdout.buffer.write(encode_report(report))
        sys.stdout.buffer.flush()
    from vfl.display_prediction import show_evaluation

    show_evaluation(report, sum(len(one.unmatched) for one in predicted), final, console)


@contextmanager
def _folder(directory: Path, out: Path | None, names: list[str], *, overwrite: bool) -> Iterator[tuple[Path, Path]]:
    """The evaluation's directory while it is filled, and under its name; after an error there is none."""
    if out is None:
        from vfl.kept_folder import kept_folder

        with kept_folder(directory / EVALUATIONS) as kept:
            yield kept.path, kept.final
    else:
        from vfl.run import new_directory

        with new_directory(out, names, overwrite=overwrite) as path:
            yield path, out


def _score_here(directory: Path, files: dict[str, Path], folder: Path, console: Console) -> tuple[Predicted, ...]:
    from vfl.display import Display
    from vfl.prediction import load_models, predict_here

    models = load_models(directory)
    job = next(iter(models.values())).kept.job
    with Display(job, console, starting="Reading the rows") as display:
        return predict_here(models, files, display.report, labelled=True, ledgers=folder)


def _score_together(
    party: Path, directory: Path, files: dict[str, Path], folder: Path, console: Console
) -> tuple[Predicted, ...]:
    from parties.errors import LocalProtocolError
    from vfl import company_prediction
    from vfl.company_file import load_joining
    from vfl.display import show_meeting
    from vfl.prediction import LEDGER, Predicted
    from vfl.status import Status

    joining = load_joining(party)
    company, name = joining.company, joining.spec.name
    new = company_prediction.read_own_rows(joining, directory, files, labelled=True)
    show_meeting(company, f"evaluation as {name}, coordinator at {company.address}", console)
    with Status(company.job, directory, console) as status:
        predicted = company_prediction.join(joining, new, folder / LEDGER, status)
        status.finish()
    if not isinstance(predicted, Predicted):
        raise LocalProtocolError("the active party ended without scores")
    return (predicted,)


def _write(folder: Path, predicted: Sequence[Predicted], trained: RunReport, start: float) -> RunReport:
    """Fill the evaluation's directory."""
    from parties.ledger import read_ledger
    from vfl.evaluation import evaluate_rows, write_evaluation
    from vfl.prediction import LEDGER
    from vfl.report.wanted import page_wanted

    entries = read_ledger(folder / LEDGER)
    report = evaluate_rows(predicted, trained, entries, time.perf_counter() - start)
    write_evaluation(folder, predicted, report)
    if page_wanted():
        from vfl.report.page import write_page  # matplotlib takes its time

        write_page(folder)
    return report
