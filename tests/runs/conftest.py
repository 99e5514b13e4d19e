"""The ``vfl`` command inside the test's process: quick, and everything it says is caught."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.runs.companies import Outcome
from vfl import cli

Command = Callable[..., Outcome]


@pytest.fixture
def vfl(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run one command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = cli.execute([str(argument) for argument in arguments])
        said = capfd.readouterr()
        return Outcome(code, said.out, said.err)

    return run
