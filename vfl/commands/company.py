"""``vfl keygen``, ``vfl coordinator`` and ``vfl join``: jobs between companies."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from parties.errors import ConfigError
from vfl.commands.app import BETWEEN, AsJson, app
from vfl.commands.watched import LogLevel, MetricsAt, Resume, RunOut, Seen, play_watched

if TYPE_CHECKING:
    from parties.identity import Identity
    from vfl.company_file import Company
    from vfl.psi_report import Purpose
    from vfl.report.summary import RunReport
    from vfl.watch import Watch


@app.command(rich_help_panel=BETWEEN, epilog="Example: vfl keygen bank --out keys")
def keygen(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The party's name in the job, or 'coordinator'.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="DIR", help="Directory of the two files; by default this one.", show_default=False
        ),
    ] = Path(),
) -> None:
    """Make an identity for jobs between companies: NAME.key, which stays here, and NAME.pub, to share."""
    from parties.identity import make_identity, write_identity
    from vfl.display import show_identity

    identity = make_identity(name)
    show_identity(identity.public, *write_identity(identity, out), Console())


@app.command(
    rich_help_panel=BETWEEN,
    epilog="Example: vfl coordinator job.toml --listen 0.0.0.0:7700 --identity coordinator.key --out runs/first",
)
def coordinator(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The job file that all parties have.")],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the parties' connections come in.")
    ],
    identity: Annotated[Path, typer.Option("--identity", metavar="FILE", help="The coordinator's private .key file.")],
    out: RunOut,
    resume: Resume = False,
    predict: Annotated[
        bool,
        typer.Option("--predict", help="Coordinate a prediction with a trained model instead; parties: vfl predict."),
    ] = False,
    psi: Annotated[
        bool, typer.Option("--psi", help="Coordinate an alignment alone instead; parties: vfl psi PARTY.")
    ] = False,
    cardinality: Annotated[
        bool, typer.Option("--cardinality", help="With --psi: only how many ids are common; as at the parties.")
    ] = False,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
    metrics: MetricsAt = None,
) -> None:
    """Coordinate a job between companies: relay and aggregate what this process cannot read."""
    from parties.identity import read_identity
    from parties.link import COORDINATOR
    from vfl.company import coordinate
    from vfl.company_file import load_company, parse_address

    if cardinality and not psi:
        raise ConfigError("--cardinality, got it without --psi, expected both: a training needs the common rows")
    company = load_company(job, alone=psi)
    address = parse_address(listen, "--listen")
    own = read_identity(identity)
    if predict:
        given = {
            "--psi": psi,
            "--resume": resume,
            "--json": as_json,
            "--metrics": metrics is not None,
            "--log-level": log_level != "info",
        }
        for option in (name for name, asked in given.items() if asked):
            raise ConfigError(f"{option} with --predict, got both, expected one: a prediction is short and begun anew")
        _coordinate_prediction(company, own, address, out, listen)
        return
    what = ", ".join(company.identities)
    if psi:
        seen = Seen(f"coordinating the alignment of {what}, listening on {listen}", as_json, log_level, metrics)
        _coordinate_psi(company, own, address, out, seen, "psi cardinality" if cardinality else "psi", resume=resume)
        return
    seen = Seen(f"coordinating {what}, listening on {listen}", as_json, log_level, metrics)

    def play(watch: Watch) -> RunReport | None:
        return coordinate(company, own, address, out, watch, resume=resume)

    _train(company, COORDINATOR, out, seen, play)


@app.command(rich_help_panel=BETWEEN, epilog="Example: vfl join bank.toml --out runs/first")
def join(
    party: Annotated[Path, typer.Argument(metavar="PARTY", help="This party's own file.")],
    out: RunOut,
    resume: Resume = False,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Leave out 'active party alone'.")] = False,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
    metrics: MetricsAt = None,
) -> None:
    """Take part in a job between companies with this company's own CSV: dial the coordinator, and train."""
    from vfl.arithmetic import arithmetic_of
    from vfl.company import join as join_run
    from vfl.company_file import load_joining
    from vfl.network_checks import check_torch

    joining = load_joining(party)
    company, name = joining.company, joining.spec.name
    check_torch(company.job, [joining.spec])
    arithmetic_of(company.job)
    seen = Seen(f"joining as {name}, coordinator at {company.address}", as_json, log_level, metrics)

    def play(watch: Watch) -> RunReport | None:
        return join_run(joining, out, watch, resume=resume, baseline=not no_baselines)

    _train(company, name, out, seen, play)


def _coordinate_prediction(company: Company, own: Identity, address: tuple[str, int], out: Path, listen: str) -> None:
    """Coordinate a prediction; its ledger is left in ``out``, under the time."""
    from vfl.company_prediction import coordinate as coordinate_prediction
    from vfl.display import say, show_meeting
    from vfl.kept_folder import kept_folder
    from vfl.status import Status

    console = Console()
    parties = ", ".join(company.identities)
    show_meeting(company, f"coordinating a prediction of {parties}, listening on {listen}", console)
    with Status(company.job, out, console) as status, kept_folder(out) as kept:
        scored = coordinate_prediction(company, own, address, kept.path / "ledger.jsonl", status)
        status.finish()
    brought = ", ".join(f"{name} {rows:,}" for name, rows in scored.sizes.items())
    say(f"Scored the rows that all have, of {brought} ids; who learnt what: vfl audit {kept.final}", console)


def _coordinate_psi(
    company: Company,
    own: Identity,
    address: tuple[str, int],
    out: Path,
    seen: Seen,
    purpose: Purpose,
    *,
    resume: bool,
) -> None:
    """Coordinate an alignment alone."""
    from parties.link import COORDINATOR
    from vfl.psi_company import coordinate as coordinate_psi
    from vfl.psi_display import show_psi
    from vfl.psi_report import PsiReport, encode_psi

    def play(watch: Watch) -> PsiReport | None:
        return coordinate_psi(company, own, address, out, watch, purpose, resume=resume)

    play_watched(company, COORDINATOR, out, seen, play, encode_psi, partial(show_psi, out=out))


def _train(company: Company, role: str, out: Path, seen: Seen, play: Callable[[Watch], RunReport | None]) -> None:
    """Play a role of a whole run."""
    from vfl.arithmetic import arithmetic_of
    from vfl.display import show_own_summary
    from vfl.report.summary import encode_report

    def show(report: RunReport, console: Console) -> None:
        show_own_summary(report, role, out, console)

    play_watched(company, role, out, seen, play, encode_report, show, arithmetic=arithmetic_of(company.job))
