"""Runs in MLflow, the extra ``vfl[mlflow]``: where they go is said as MLflow's users say it, in the environment.

``MLFLOW_TRACKING_URI`` names the store or server, ``MLFLOW_EXPERIMENT_NAME`` the experiment ("vfl" by default). What is
logged is what ``report.json`` and ``report.html`` say of the run as a whole. Shards of the model, scores, ids and
``evidence.npz`` stay in the run's directory: they tell of single rows or belong to single parties, and a tracking
server is read by many.
"""

from __future__ import annotations

import logging
import math
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parties.errors import ConfigError
from vfl.job import Job, job_fields
from vfl.kept_run import load_kept_run

if TYPE_CHECKING:  # an extra, which need not be installed
    from mlflow import MlflowClient

    from vfl.report.summary import RunReport

DEFAULT_EXPERIMENT = "vfl"
ARTIFACTS = ("report.html", "report.json")
_LONGEST = 500
"""Characters of a parameter or a tag that every version of MLflow takes; more are cut."""
_BATCH = 100  # parameters, and metrics, in one request
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would tell its makers, over the network, that it is used
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default minutes pass before a server that is down counts as down
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""MLflow's own variables, where the user has not set them."""
_TOLD = 200  # characters of an error of MLflow
_CREDENTIALS = re.compile(r"//[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Tracking:
    """An experiment that was found or made, and waits for a run."""

    client: MlflowClient
    experiment: str
    name: str


class TrackingLost(Exception):
    """A run could not be logged; the text says why, in one line."""


def open_tracking() -> Tracking:
    """Find the experiment, or make it: before a run starts, so that a mistake shows before hours are spent.

    Raises
    ------
    ConfigError
        MLflow is not installed, its store or server does not answer, or the experiment was deleted.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    with _quiet():
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise ConfigError(
                "--mlflow, got no MLflow installed, expected the extra vfl[mlflow]; pip install 'vfl[mlflow]', or "
                "leave --mlflow out"
            ) from None
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT
        try:
            client = MlflowClient()
            found = client.get_experiment_by_name(name)
            if found is None:
                return Tracking(client, client.create_experiment(name), name)
        except Exception as error:  # of MLflow, of its database, of the network: it has no common one
            raise ConfigError(
                f"--mlflow: experiment '{name}' cannot be opened ({_why(error)}); check MLFLOW_TRACKING_URI, or leave "
                "--mlflow out"
            ) from None
    if found.lifecycle_stage != "active":
        raise ConfigError(
            f"--mlflow: experiment '{name}', got one that was deleted in MLflow, expected an active one; restore it, "
            "or set MLFLOW_EXPERIMENT_NAME to another name"
        )
    return Tracking(client, found.experiment_id, name)


def log_run(tracking: Tracking, job: Job, report: RunReport, directory: Path) -> str:
    """Log a run that has ended well; returns MLflow's id of it.

    Parameters
    ----------
    directory : Path
        The run's own, with `ARTIFACTS` in it; one that is not there is left out.

    Raises
    ------
    TrackingLost
        Nothing in ``directory`` has changed.
    """
    client, run = tracking.client, ""
    with _quiet():
        try:
            tags = _tags(job, report, directory)
            run = str(client.create_run(tracking.experiment, run_name=job.name, tags=tags).info.run_id)
            _log(client, run, job, report)
            for path in (directory / name for name in ARTIFACTS):
                if path.is_file():
                    client.log_artifact(run, str(path))
            client.set_terminated(run)
        except Exception as error:  # as above; the training is not to be lost for it
            if run:
                with suppress(Exception):
                    client.set_terminated(run, "FAILED")
            raise TrackingLost(_why(error)) from None
    return run


def _log(client: MlflowClient, run: str, job: Job, report: RunReport) -> None:
    """Send parameters and metrics, in batches that a server takes."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    parameters = [Param(key, value) for key, value in parameters_of(job).items()]
    metrics = [Metric(key, value, now, step) for key, step, value in metrics_of(report)]
    for at in range(0, len(parameters), _BATCH):
        client.log_batch(run, params=parameters[at : at + _BATCH])
    for at in range(0, len(metrics), _BATCH):
        client.log_batch(run, metrics=metrics[at : at + _BATCH])


def parameters_of(job: Job) -> dict[str, str]:
    """Lines of the job, flat: ``training.l2``, ``seed``, ``privacy.key_bits``; nobody's columns, nobody's files."""
    return {key: value[:_LONGEST] for key, value in job_fields(job).items()}


def metrics_of(report: RunReport) -> Iterator[tuple[str, int, float]]:
    """Name, step and value of every figure: ``joint.auc``, ``loss`` per round, seconds, bytes; undefined ones not."""
    figures: dict[str, Mapping[str, float | None]] = {
        **report.metrics,
        "seconds": report.seconds,
        "rows": report.rows,
        "bytes": {"alignment": report.alignment.bytes, "training": report.training.bytes},
    }
    single = {f"{group}.{name}": value for group, values in figures.items() for name, value in values.items()}
    single |= {"intersection": report.alignment.intersection, "rounds": report.training.rounds}
    lines = [(name, 0, value) for name, value in single.items()]
    lines += [("loss", step, value) for step, value in enumerate(report.training.loss)]
    lines += [("validation_loss", step, value) for step, value in enumerate(report.training.validation_loss)]
    return ((name, step, float(value)) for name, step, value in lines if value is not None and math.isfinite(value))


def _tags(job: Job, report: RunReport, directory: Path) -> dict[str, str]:
    """What tells this run from others: the version, its id as in each party's ``run.json``, what it computed with."""
    return {
        "vfl.version": report.version,
        "vfl.run": load_kept_run(directory / job.active).run,
        "vfl.kernel": report.crypto.kernel or "none",
        "vfl.key_holder": report.training.key_holder or "none",
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow's and its database's chatter is not the user's: what matters comes as an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _why(error: Exception) -> str:
    """The first line of an error, without credentials that a URI in it holds."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {_CREDENTIALS.sub('//', first)[:_TOLD]}".rstrip(": ")
