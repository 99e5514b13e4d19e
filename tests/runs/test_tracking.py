"""Runs in MLflow: what is logged and what is not, where it goes, and that nothing is lost when it cannot be had."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import msgspec
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from parties.errors import ConfigError
from tests.runs.companies import Companies, make_companies
from tests.runs.conftest import Command
from vfl import __version__
from vfl.job import Scenario
from vfl.job_file import load_scenario
from vfl.report.summary import RunReport
from vfl.run import run_scenario
from vfl.tracking import TrackingLost, log_run, metrics_of, open_tracking, parameters_of

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MLflow's store of plain files in a directory of the test, which is quick to make."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    return tmp_path / "store"


@pytest.fixture(scope="module")
def companies(tmp_path_factory: pytest.TempPathFactory) -> Companies:
    companies = make_companies(tmp_path_factory.mktemp("companies"))
    companies.write()
    return companies


@pytest.fixture(scope="module")
def finished(companies: Companies, tmp_path_factory: pytest.TempPathFactory) -> tuple[Scenario, RunReport, Path]:
    """One run for all tests that only log it."""
    out = tmp_path_factory.mktemp("run") / "out"
    scenario = load_scenario(companies.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFL_REPORT", "html")
        return scenario, run_scenario(scenario, out, lambda event: None, in_process=True), out


def logged(name: str = "vfl") -> list[Run]:
    """All runs of an experiment."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def artifacts(run: Run) -> set[str]:
    return {entry.path for entry in MlflowClient().list_artifacts(run.info.run_id)}


def test_a_run_is_logged_whole(finished: tuple[Scenario, RunReport, Path]) -> None:
    scenario, report, out = finished
    identity = log_run(open_tracking(), scenario.job, report, out)
    (run,) = logged()
    assert run.info.run_id == identity
    assert (run.info.run_name, run.info.status) == ("trial", "FINISHED")
    assert run.data.params["training.l2"] == "0.001"
    assert run.data.params["privacy.key_bits"] == "512"
    assert run.data.params["party.1"] == "bank active"
    assert run.data.params == parameters_of(scenario.job)
    for group in ("joint", "active_only", "pooled"):
        assert run.data.metrics[f"{group}.auc"] == report.metrics[group]["auc"]
    assert run.data.metrics["seconds.total"] == report.seconds["total"]
    assert run.data.metrics["bytes.training"] == report.training.bytes
    of_party = json.loads((out / "bank" / "run.json").read_text())["run"]
    assert {key: value for key, value in run.data.tags.items() if key.startswith("vfl.")} == {
        "vfl.version": __version__,
        "vfl.run": of_party,
        "vfl.kernel": report.crypto.kernel,
        "vfl.key_holder": report.training.key_holder,
    }


def test_losses_have_their_rounds_as_steps(finished: tuple[Scenario, RunReport, Path]) -> None:
    scenario, report, out = finished
    identity = log_run(open_tracking(), scenario.job, report, out)
    history = MlflowClient().get_metric_history(identity, "loss")
    assert {entry.step: entry.value for entry in history} == dict(enumerate(report.training.loss))


def test_nothing_of_single_rows_or_parties_leaves_the_directory(
    finished: tuple[Scenario, RunReport, Path], companies: Companies, store: Path
) -> None:
    scenario, report, out = finished
    log_run(open_tracking(), scenario.job, report, out)
    (run,) = logged()
    assert artifacts(run) == {"report.html", "report.json"}
    everything = b"\n".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b'"intersection"' in everything, "artifacts lie in the store"
    assert not [secret for secret in companies.secrets() if secret.encode() in everything]
    assert str(companies.folder).encode() not in everything


def test_a_run_without_its_page_is_logged_all_the_same(
    finished: tuple[Scenario, RunReport, Path], tmp_path: Path
) -> None:
    scenario, report, out = finished
    (tmp_path / "bare" / "bank").mkdir(parents=True)
    for name in ("report.json", "bank/run.json", "bank/model.json"):
        (tmp_path / "bare" / name).write_bytes((out / name).read_bytes())
    log_run(open_tracking(), scenario.job, report, tmp_path / "bare")
    assert artifacts(logged()[0]) == {"report.json"}


def test_undefined_figures_are_left_out(finished: tuple[Scenario, RunReport, Path]) -> None:
    _, report, _ = finished
    odd = msgspec.structs.replace(report, metrics={"joint": {"auc": None, "ks": math.inf, "f1": 0.5}})
    names = [name for name, _, _ in metrics_of(odd)]
    assert "joint.f1" in names and not {"joint.auc", "joint.ks"} & set(names)


def test_many_rounds_and_long_lines_fit_into_requests(finished: tuple[Scenario, RunReport, Path]) -> None:
    scenario, report, out = finished
    losses = [1 / (step + 1) for step in range(1234)]
    long = msgspec.structs.replace(report, training=msgspec.structs.replace(report.training, loss=losses))
    privacy = msgspec.structs.replace(scenario.job.privacy, key_bits=2048)
    job = msgspec.structs.replace(scenario.job, privacy=privacy, task="b" * 9000)
    assert len(parameters_of(job)["task"]) <= 500
    identity = log_run(open_tracking(), job, long, out)
    assert len(MlflowClient().get_metric_history(identity, "loss")) == 1234


def test_the_experiment_is_the_one_that_the_environment_names(
    finished: tuple[Scenario, RunReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, report, out = finished
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "credit risk")
    for _ in range(2):
        log_run(open_tracking(), scenario.job, report, out)
    assert len(logged("credit risk")) == 2
    assert MlflowClient().get_experiment_by_name("vfl") is None


def test_a_deleted_experiment_is_refused() -> None:
    tracking = open_tracking()
    MlflowClient().delete_experiment(tracking.experiment)
    with pytest.raises(ConfigError, match=r"experiment 'vfl', got one that was deleted in MLflow, expected an active"):
        open_tracking()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of MLflow's connections to its database
def test_run_logs_to_the_store_that_mlflow_has_by_default(
    vfl: Command, companies: Companies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    said = vfl("run", companies.folder, "--in-process", "--no-baselines", "--json", "--mlflow", "--out", "out")
    assert said.code == 0, said.stderr
    assert said.stdout.encode() == (tmp_path / "out" / "report.json").read_bytes()
    (run,) = logged()
    assert said.stderr.splitlines()[-1] == f"MLflow: run {run.info.run_id} in experiment 'vfl'"
    assert (tmp_path / "mlflow.db").is_file()
    assert not [line for line in said.stderr.splitlines() if "INFO" in line or "Warning" in line]


def test_without_the_extra_nothing_starts(
    vfl: Command, companies: Companies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    said = vfl("run", companies.folder, "--in-process", "--mlflow", "--out", tmp_path / "out")
    assert said.code == 2
    assert said.error == (
        "error: --mlflow, got no MLflow installed, expected the extra vfl[mlflow]; pip install 'vfl[mlflow]', or leave "
        "--mlflow out"
    )
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_down_is_told_before_the_run(
    vfl: Command, companies: Companies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9")
    said = vfl("run", companies.folder, "--in-process", "--mlflow", "--out", tmp_path / "out")
    assert said.code == 2
    assert said.error.startswith("error: --mlflow: experiment 'vfl' cannot be opened (")
    assert said.error.endswith("); check MLFLOW_TRACKING_URI, or leave --mlflow out")
    assert SECRET not in said.stderr
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_lost_after_the_training_costs_a_warning(
    vfl: Command, companies: Companies, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lost(*_: object, **__: object) -> None:
        raise OSError(f"cannot reach http://me:{SECRET}@tracking.example\nmore")

    monkeypatch.setattr(MlflowClient, "log_batch", lost)
    out = tmp_path / "out"
    said = vfl("run", companies.folder, "--in-process", "--no-baselines", "--mlflow", "--out", out)
    assert said.code == 0
    assert said.stdout.splitlines()[-1] == (
        "warning: --mlflow: the run is not in MLflow (OSError: cannot reach http://tracking.example); nothing of it is "
        f"lost, it lies in {out}"
    )
    assert (out / "report.json").is_file()
    assert logged()[0].info.status == "FAILED"


def test_a_run_that_cannot_be_begun_is_lost_as_well(
    finished: tuple[Scenario, RunReport, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario, report, out = finished
    tracking = open_tracking()
    MlflowClient().delete_experiment(tracking.experiment)
    with pytest.raises(TrackingLost, match="MlflowException: "):
        log_run(tracking, scenario.job, report, out)
