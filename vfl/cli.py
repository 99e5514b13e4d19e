"""The ``vfl`` command; what each command does stands in ``vfl.commands``.

Exit codes: 0; 2 for a user's mistake; 1 when a role is lost or breaks the protocol; 130 on Ctrl-C.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import NoReturn

import typer

from parties.errors import VflError
from vfl.commands.app import Interrupted, app

# isort: off
# Each adds its commands to `app`, in the order in which the help lists them.
import vfl.commands.check  # noqa: F401
import vfl.commands.run  # noqa: F401
import vfl.commands.estimate  # noqa: F401
import vfl.commands.psi  # noqa: F401
import vfl.commands.predict  # noqa: F401
import vfl.commands.evaluate  # noqa: F401
import vfl.commands.report  # noqa: F401
import vfl.commands.audit  # noqa: F401
import vfl.commands.company  # noqa: F401
# isort: on

# What typer raises on a wrong command line; it is click's own class or typer's copy of it, as the version has it.
UsageError: type[Exception] = typer.BadParameter.__mro__[2]


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
        text = describe().rstrip(".")
        return _fail(f"{text}{'' if text.endswith('?') else ';'} see 'vfl --help'", 2)
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
