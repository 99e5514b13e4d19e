"""How one role of a job between companies is watched while it plays: options, and what they lead to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeVar

import typer
from rich.console import Console

from parties.errors import PeerLost
from vfl.commands.app import Interrupted

if TYPE_CHECKING:
    from vfl.arithmetic import Arithmetic
    from vfl.company_file import Company
    from vfl.watch import Watch

R = TypeVar("R")

RunOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the run; one with an unfinished run goes on with it.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, and refuse to begin a new one.")]
Level = Literal["debug", "info", "warning", "error"]
LogLevel = Annotated[
    Level, typer.Option("--log-level", help="Least level of lines in DIR/log.jsonl; debug has every message.")
]
MetricsAt = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help=r"Serve metrics for Prometheus there; needs vfl\[metrics]."),
]


class Seen(NamedTuple):
    """What users want to see of a role, and where."""

    doing: str
    as_json: bool
    log_level: Level
    metrics: str | None


def play_watched(
    company: Company,
    role: str,
    out: Path,
    seen: Seen,
    play: Callable[[Watch], R | None],
    encode: Callable[[R], bytes],
    show: Callable[[R, Console], None],
    *,
    arithmetic: Arithmetic | None = None,
) -> None:
    """Play a role of a job between companies; the terminal, the log and, if asked for, the metrics watch it.

    Parameters
    ----------
    play : callable
        Returns the report, or None where all had ended before.
    encode, show : callable
        What makes JSON of the report, and what says on the terminal what came of it.
    arithmetic : Arithmetic, optional
        What it computes with, to be shown.
    """
    from vfl.company_file import parse_address
    from vfl.display import say, show_arithmetic, show_meeting
    from vfl.log import LOG, Log
    from vfl.metrics_endpoint import Metrics, serving
    from vfl.role import internal_error
    from vfl.status import Status
    from vfl.watch import all_of

    job, console = company.job, Console(stderr=seen.as_json)
    patience = f"{company.network.reconnect_timeout:g} s"
    way_on = f"the same command goes on with the run in {out}; the others wait {patience} for it"
    log = Log(out / LOG, role, job.name, seen.log_level)
    watches: list[Watch] = [log]
    with ExitStack() as stack:
        if seen.metrics is not None:
            counted = Metrics(role, job.name, list(company.identities))
            stack.enter_context(serving(counted, *parse_address(seen.metrics, "--metrics")))
            watches.append(counted)
        show_meeting(company, seen.doing, console)
        if arithmetic is not None:
            show_arithmetic(arithmetic, console)
        status = stack.enter_context(Status(job, out, console, as_json=seen.as_json))
        try:
            report = play(all_of(status, *watches))
        except BaseException as error:
            log.end(error, str(internal_error(role, error)) if isinstance(error, Exception) else "")
            if isinstance(error, PeerLost):
                raise PeerLost(f"{error}; to go on, start the same command again, with --resume") from None
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(f"interrupted; {way_on}") from None
            if isinstance(error, SystemExit):
                say(f"stopped; {way_on}", console)
            raise
        log.end()
        if report is None:
            status.ended_before()
        else:
            status.done(encode(report), lambda: show(report, console))
