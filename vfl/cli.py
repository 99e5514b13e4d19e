"""The ``vfl`` command.

Exit codes: 0; 2 for a user's mistake; 1 when a role is lost or breaks the protocol; 130 on Ctrl-C.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, NoReturn

import typer
from rich.console import Console

from parties.errors import ConfigError, PeerLost, VflError
from vfl import __version__

if TYPE_CHECKING:
    from vfl.company_file import Company
    from vfl.report.summary import RunReport
    from vfl.watch import Watch

app = typer.Typer(
    name="vfl",
    help="Vertical federated learning: several companies train one model on the columns each of them keeps.",
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What typer raises on a wrong command line; it is click's own class or typer's copy of it, as the version has it.
UsageError: type[Exception] = typer.BadParameter.__mro__[2]

ScenarioPath = Annotated[
    Path, typer.Argument(metavar="SCENARIO", help="A scenario file, or a directory that holds scenario.toml.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a line, e.g. --set training.l2=0.01. Repeatable."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Guards refuse, as between companies, instead of warning.")]


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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print report.json on standard output, and nothing else there.")
    ] = False,
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


@app.command(epilog="Example: vfl check scenarios/credit_default")
def check(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="SCENARIO|PARTY",
            help="A scenario (file, or directory that holds scenario.toml); or, between companies, a party's file or "
            "the job file.",
        ),
    ],
    overrides: Overrides = None,
    strict: Strict = False,
) -> None:
    """Check files, ids, columns, labels and policies without training anything or touching a network."""
    from vfl.company_file import kind_of
    from vfl.job_file import read_document

    kind = kind_of(read_document(file))
    if kind == "scenario":
        _check_scenario(file, overrides or (), strict=strict)
    elif overrides:
        raise ConfigError(
            f"--set for {file.name}, got {len(overrides)}, expected none: companies train what their files say, "
            "change the file"
        )
    else:
        _check_company(file, kind)


def _check_scenario(scenario: Path, overrides: Sequence[str], *, strict: bool) -> None:
    from vfl.arithmetic import choose_arithmetic
    from vfl.check import check_scenario
    from vfl.display import show_arithmetic, show_check
    from vfl.job_file import load_scenario

    console = Console()
    loaded = load_scenario(scenario, overrides, strict=strict)
    arithmetic = choose_arithmetic(loaded.job.privacy.key_bits)
    checked = check_scenario(loaded)
    show_arithmetic(arithmetic, console)
    show_check(checked, console)
    checked.refuse_too_few()


def _check_company(file: Path, kind: Literal["job", "party"]) -> None:
    from vfl.company_file import load_company, load_joining
    from vfl.display import show_company, show_joining

    console = Console()
    if kind == "job":
        show_company(load_company(file), console)
        return
    from vfl.arithmetic import choose_arithmetic
    from vfl.check import check_joining
    from vfl.display import show_arithmetic

    joining = load_joining(file)
    arithmetic = choose_arithmetic(joining.company.job.privacy.key_bits)
    checked = check_joining(joining)
    show_company(joining.company, console)
    show_arithmetic(arithmetic, console)
    show_joining(checked, console)


@app.command(epilog="Example: vfl keygen bank --out keys")
def keygen(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The party's name in the job, or 'coordinator'.")],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", help="Directory of the two files. [default: .]", show_default=False),
    ] = Path(),
) -> None:
    """Make an identity for jobs between companies: NAME.key, which stays here, and NAME.pub, to share."""
    from parties.identity import make_identity, write_identity
    from vfl.display import show_identity

    identity = make_identity(name)
    show_identity(identity.public, *write_identity(identity, out), Console())


RunOut = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder of the run; one with an unfinished run goes on with it.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out, and refuse to begin a new one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print report.json on standard output, and nothing else there.")]
Level = Literal["debug", "info", "warning", "error"]
LogLevel = Annotated[
    Level, typer.Option("--log-level", help="Least level of lines in DIR/log.jsonl; debug has every message.")
]
MetricsAt = Annotated[
    str | None,
    typer.Option("--metrics", metavar="HOST:PORT", help="Serve metrics for Prometheus there; needs vfl[metrics]."),
]


@app.command(
    epilog="Example: vfl coordinator job.toml --listen 0.0.0.0:7700 --identity coordinator.key --out runs/first"
)
def coordinator(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The job file that all parties have.")],
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where the parties' connections come in.")
    ],
    identity: Annotated[Path, typer.Option("--identity", metavar="FILE", help="The coordinator's private .key file.")],
    out: RunOut,
    resume: Resume = False,
    as_json: AsJson = False,
    log_level: LogLevel = "info",
    metrics: MetricsAt = None,
) -> None:
    """Coordinate a job between companies: relay and aggregate what this process cannot read."""
    from parties.identity import read_identity
    from parties.link import COORDINATOR
    from vfl.company import coordinate
    from vfl.company_file import load_company, parse_address

    company = load_company(job)
    address = parse_address(listen, "--listen")
    own = read_identity(identity)
    seen = _Seen(f"coordinating {', '.join(company.identities)}, listening on {listen}", as_json, log_level, metrics)
    _play(company, COORDINATOR, out, seen, lambda watch: coordinate(company, own, address, out, watch, resume=resume))


@app.command(epilog="Example: vfl join bank.toml --out runs/first")
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
    from vfl.arithmetic import choose_arithmetic
    from vfl.company import join as join_run
    from vfl.company_file import load_joining

    joining = load_joining(party)
    company, name = joining.company, joining.spec.name
    choose_arithmetic(company.job.privacy.key_bits)
    seen = _Seen(f"joining as {name}, coordinator at {company.address}", as_json, log_level, metrics)
    _play(
        company,
        name,
        out,
        seen,
        lambda watch: join_run(joining, out, watch, resume=resume, baseline=not no_baselines),
    )


@app.command(epilog="Example: vfl audit runs/first")
def audit(
    directory: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Directory that a run left behind.")],
) -> None:
    """Say who learnt what in a run: every kind of message, who got it, how often, how many bytes."""
    from parties.ledger import read_ledger
    from vfl.display import show_audit

    show_audit(read_ledger(directory / "ledger.jsonl"), Console())


class Interrupted(VflError):
    """The user pressed Ctrl-C."""

    exit_code = 130


class _Seen(NamedTuple):
    """What users want to see of a role, and where."""

    doing: str
    as_json: bool
    log_level: Level
    metrics: str | None


def _play(company: Company, role: str, out: Path, seen: _Seen, play: Callable[[Watch], RunReport | None]) -> None:
    """Play a role of a job between companies; the terminal, the log and, if asked for, the metrics watch it."""
    from vfl.arithmetic import choose_arithmetic
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
        show_arithmetic(choose_arithmetic(job.privacy.key_bits), console)
        status = stack.enter_context(Status(job, role, out, console, as_json=seen.as_json))
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
        status.done(report)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave with its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)  # through every ``finally``, so that nothing is left behind
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a character still gets the rest
    sys.exit(execute(arguments))


def _leave(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


def execute(arguments: list[str] | None = None) -> int:
    """Run one command line; returns its exit code, errors said in one line."""
    try:
        given = sys.argv[1:] if arguments is None else arguments
        code = app(args=given or ["--help"], standalone_mode=False)
    except VflError as error:
        return _fail(str(error), error.exit_code)
    except UsageError as error:
        describe = getattr(error, "format_message", error.__str__)
        return _fail(f"{describe().rstrip('.')}; see 'vfl --help'", 2)
    except (KeyboardInterrupt, typer.Abort):
        code = Interrupted.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # a bug: one line that says where, as for a role's
        from vfl.role import internal_error

        return _fail(str(internal_error("vfl", error)), 1)
    if code == Interrupted.exit_code:  # as some versions of typer return it
        return _fail("interrupted; nothing was left behind", code)
    return code if isinstance(code, int) else 0


def _fail(text: str, code: int) -> int:
    """One printable line on standard error, whatever a file's or a column's name holds."""
    line = "".join(character if character.isprintable() else " " for character in text)
    sys.stderr.write(f"error: {line}\n")
    return code


if __name__ == "__main__":
    main()
