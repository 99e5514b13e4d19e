"""``vfl predict``: joint scores of new rows, on this machine or between companies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from parties.errors import ConfigError
from vfl.commands.app import USE, RunDirectory, app
from vfl.commands.completing import complete_data

if TYPE_CHECKING:
    from vfl.prediction import Predicted
    from vfl.report.prediction import PredictionReport

PREDICTIONS = "predictions"
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="PARTY=CSV",
        help="A party's new rows; one for each party, or one's own. Silos that trained alone: of any, or just CSV.",
        autocompletion=complete_data,
    ),
]
Join = Annotated[
    Path | None,
    typer.Option(
        "--join", metavar="PARTY.toml", help="Between companies: this party's own file; RUN_DIR is what it was left."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out names.")]


@app.command(
    rich_help_panel=USE,
    epilog="Example: vfl predict runs/first --data bank=new_bank.csv --data shop=new_shop.csv --out scores.csv",
)
def predict(
    directory: RunDirectory,
    data: Data = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="CSV of the joint scores: id, score, class; active party only."),
    ] = None,
    overwrite: Overwrite = False,
    join: Join = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what happened as one object on standard output, and nothing else.")
    ] = False,
) -> None:
    """Score new rows jointly with the model that a run left behind."""
    files = parse_data(data or ())
    console = Console(stderr=as_json)
    start = time.perf_counter()
    if join is None:
        report = _predict_here(directory, files, out, console, start, overwrite=overwrite)
    else:
        report = _predict_together(join, directory, files, out, console, start, overwrite=overwrite)
    if as_json:
        from vfl.report.prediction import encode_prediction

        sys.stdout.buffer.write(encode_prediction(report))
        sys.stdout.buffer.flush()


def parse_data(given: Sequence[str]) -> dict[str, Path]:
    """Read ``PARTY=CSV``, one or more; a CSV alone is that of ``UNNAMED``."""
    from vfl.prediction import UNNAMED, unnamed

    files: dict[str, Path] = {}
    for text in given:
        name, sign, path = text.partition("=")
        if not sign:
            name, path = UNNAMED, text
        elif not name or not path:
            raise unnamed(text)
        if name in files and name == UNNAMED:
            raise unnamed(text)
        if name in files:
            raise ConfigError(f"--data, got two for party '{name}', expected one")
        files[name] = Path(path)
    return files


def _predict_here(
    directory: Path, files: dict[str, Path], out: Path | None, console: Console, start: float, *, overwrite: bool
) -> PredictionReport:
    from vfl.display import Display
    from vfl.display_prediction import show_prediction
    from vfl.kept_folder import kept_folder
    from vfl.prediction import LEDGER, load_models, predict_here
    from vfl.report.prediction import summarise_prediction, write_prediction

    target = writable(out, files.values(), overwrite=overwrite)
    models = load_models(directory)
    job = next(iter(models.values())).kept.job
    with Display(job, console, starting="Reading the rows") as display, kept_folder(directory / PREDICTIONS) as kept:
        predicted = predict_here(models, files, display.report, ledgers=kept.path)
        seconds, ledger = time.perf_counter() - start, kept.path / LEDGER
        first = predicted[0]
        report = summarise_prediction(first.new.model.kept, first.scored, ledger, seconds, predicted=predicted)
        unscored = write_scores(predicted, target)
        write_prediction(kept.path, report)
    show_prediction(report, target, unscored, kept.final, console)
    return report


def _predict_together(
    party: Path,
    directory: Path,
    files: dict[str, Path],
    out: Path | None,
    console: Console,
    start: float,
    *,
    overwrite: bool,
) -> PredictionReport:
    from vfl import company_prediction
    from vfl.company_file import load_joining
    from vfl.display import show_meeting
    from vfl.display_prediction import show_prediction
    from vfl.kept_folder import kept_folder
    from vfl.prediction import LEDGER, Predicted
    from vfl.report.prediction import summarise_prediction, write_prediction
    from vfl.status import Status

    joining = load_joining(party)
    company, name = joining.company, joining.spec.name
    if joining.spec.role == "passive" and out is not None:
        raise ConfigError(f"--out at passive party '{name}', got one, expected none: the active party gets the scores")
    target = None if joining.spec.role == "passive" else writable(out, files.values(), overwrite=overwrite)
    new = company_prediction.read_own_rows(joining, directory, files, labelled=False)
    show_meeting(company, f"prediction as {name}, coordinator at {company.address}", console)
    unscored = None
    with Status(company.job, directory, console) as status, kept_folder(directory / PREDICTIONS) as kept:
        result = company_prediction.join(joining, new, kept.path / LEDGER, status)
        predicted = (result,) if isinstance(result, Predicted) else ()
        scored = result.scored if isinstance(result, Predicted) else result
        seconds, ledger = time.perf_counter() - start, kept.path / LEDGER
        report = summarise_prediction(new.model.kept, scored, ledger, seconds, predicted=predicted)
        if predicted and target is not None:
            unscored = write_scores(predicted, target)
        write_prediction(kept.path, report)
        status.finish()
    show_prediction(report, target, unscored, kept.final, console)
    return report


def writable(out: Path | None, inputs: Iterable[Path], *, overwrite: bool) -> Path:
    """The file of the scores; refused before anything is done where it cannot be written."""
    if out is None:
        raise ConfigError("--out missing, got none, expected the CSV to write, such as --out scores.csv")
    if out.is_dir():
        raise ConfigError(f"--out {out}: got a directory, expected a file such as {out / 'scores.csv'}")
    given = {os.path.realpath(path) for path in inputs}
    for file in (out, unscored_file(out)):
        if os.path.realpath(file) in given:
            raise ConfigError(f"--out {out}: would replace {file}, one of the files of --data; choose another name")
        if file.exists() and not overwrite:
            raise ConfigError(f"--out {out}: {file} is there already; choose another name or pass --overwrite")
    folder = next(folder for folder in out.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--out {out}: cannot be written, for {folder} is no directory to write in; choose another")
    return out


def unscored_file(out: Path) -> Path:
    """The file of ids without a score, beside that of the scores."""
    return out.with_name(f"{out.stem}_unscored{out.suffix}")


def write_scores(predicted: Sequence[Predicted], out: Path) -> Path | None:
    """Write the scores, and beside them the ids without one; returns the file of the latter, if there is one."""
    from vfl.kept_folder import replace_file
    from vfl.prediction_csv import scores_csv, unmatched_csv

    unscored, left = unscored_file(out), unmatched_csv(predicted)
    if left is not None:
        replace_file(unscored, left)
    else:
        unscored.unlink(missing_ok=True)  # of the prediction that --overwrite replaces
    replace_file(out, scores_csv(predicted))
    return None if left is None else unscored
