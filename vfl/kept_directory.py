"""The directory of the run behind a fitted model in Python, and its report that can be shown."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from parties.errors import ConfigError
from vfl.notebook import show_page
from vfl.report.evidence import FILE as EVIDENCE
from vfl.report.summary import RunReport
from vfl.report.wanted import page_wanted
from vfl.run import LEDGER, PAGE, REPORT, new_directory


class KeptDirectory:
    """A run's directory; one that nobody asked for goes when its model does.

    Parameters
    ----------
    path : Path, optional
        Where the run lies; by default a new directory that lives as long as this object.
    """

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            made = tempfile.mkdtemp(prefix="vfl-")
            self.path = Path(made) / "run"
            weakref.finalize(self, shutil.rmtree, made, ignore_errors=True)
        else:
            self.path = path.absolute()

    def page(self) -> Path:
        """``report.html``, written if it is not there.

        Raises
        ------
        ConfigError
            The run's directory is gone.
        """
        from vfl.report.page import write_page

        self.check()
        path = self.path / PAGE
        return path if path.exists() else write_page(self.path)

    def check(self) -> None:
        """Refuse to go on where the run's directory is gone."""
        if not self.path.is_dir():
            raise ConfigError(
                f"{self.path}: got no such directory, expected the run that was kept there; load the model again"
            )

    def copy(self, out: Path, parties: list[str], *, overwrite: bool) -> None:
        """Copy the run to a directory that is new or empty, whole or not at all; see `new_directory`."""
        self.check()
        with new_directory(out, parties, overwrite=overwrite) as folder:
            for name in (REPORT, LEDGER, EVIDENCE):
                if name != EVIDENCE or (self.path / name).exists():  # of silos: of others it is the active party's
                    shutil.copyfile(self.path / name, folder / name)
            for directory in sorted(path for path in self.path.iterdir() if _of_a_role(path)):
                shutil.copytree(directory, folder / directory.name)
            if page_wanted():
                shutil.copyfile(self.page(), folder / PAGE)


class ModelReport(RunReport, frozen=True, dict=True):
    """report.json of the run, with `show` for its page.

    Its fields are those of the file; where the run lies is no field, so that both encode to the same.
    """

    @classmethod
    def of(cls, report: RunReport, directory: KeptDirectory) -> ModelReport:
        """The report of the run that lies in ``directory``."""
        fields = {name: getattr(report, name) for name in report.__struct_fields__}
        made = cls(**fields)
        vars(made)["_directory"] = directory
        return made

    def show(self) -> Path | None:
        """Show ``report.html``: inside a notebook's cell, else in the browser.

        Returns
        -------
        Path or None
            Where the page lies; in a notebook None.

        Raises
        ------
        ConfigError
            The run's directory is gone.
        """
        directory: KeptDirectory = vars(self)["_directory"]
        return show_page(directory.page())


def _of_a_role(path: Path) -> bool:
    """Folders of roles have a ledger; what was done with a model later lies in others."""
    return path.is_dir() and (path / LEDGER).is_file() and not path.name.startswith(".")
