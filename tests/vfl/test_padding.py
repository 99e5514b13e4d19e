"""``alignment.pad_to``: refused where it cannot work, before any network, and true numbers of ids stay at home."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from parties.errors import ConfigError, DataError
from tests.runs.companies import make_companies
from vfl import Federation, LogisticRegression, Party
from vfl.check import check_scenario
from vfl.job_file import load_scenario
from vfl.run import run_scenario

NOBODY = lambda event: None  # noqa: E731


def scenario_of(folder: Path, passive: int = 2, **alignment: Any) -> Any:
    companies = make_companies(folder, rows=150, passive=passive, alignment=alignment)
    return load_scenario(companies.write())


@pytest.mark.parametrize(
    ("lines", "passive", "text"),
    [
        (
            {"pad_to": 99},
            2,
            "pad_to in [alignment] of scenario.toml, got 99 beside min_intersection 100, expected at least "
            "min_intersection: so many ids could never be common",
        ),
        (
            {"pad_to": 500, "one_sided": True},
            1,
            "pad_to in [alignment] of scenario.toml, got 500 beside one_sided = true, expected none: the passive party "
            "trains on its whole list, whose length is therefore told; remove one line",
        ),
    ],
    ids=["below min_intersection", "one-sided"],
)
def test_lines_that_rule_padding_out(tmp_path: Path, lines: dict[str, Any], passive: int, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        scenario_of(tmp_path, passive, **lines)
    assert str(caught.value) == text


def test_more_ids_than_lists_are_padded_to(tmp_path: Path) -> None:
    text = (
        "party 'bank': got 150 valid ids, expected at most alignment.pad_to = 149, the length to which every list is "
        "padded; agree on a larger one in the job, or bring fewer rows"
    )
    scenario = scenario_of(tmp_path / "in", pad_to=149)
    with pytest.raises(DataError) as checked:
        check_scenario(scenario)
    with pytest.raises(DataError) as ran:
        run_scenario(scenario, tmp_path / "out", NOBODY, in_process=True)
    assert str(checked.value) == str(ran.value) == text
    assert not (tmp_path / "out").exists()


def test_the_python_interface_refuses_them_too() -> None:
    import pandas as pd

    ids = [str(number) for number in range(300)]
    bank = pd.DataFrame({"id": ids, "x": range(300), "y": [0, 1] * 150})
    shop = pd.DataFrame({"id": ids, "z": range(300)})
    parties = Party("bank", bank, id="id", label="y"), Party("shop", shop, id="id")
    with pytest.raises(DataError, match="party 'bank': got 300 valid ids, expected at most alignment.pad_to = 250"):
        Federation(*parties, alignment={"pad_to": 250}).fit(LogisticRegression())


def test_the_report_has_true_numbers_on_one_machine_and_nobody_heard_them(tmp_path: Path) -> None:
    scenario = scenario_of(tmp_path / "in", pad_to=180)
    report = run_scenario(scenario, tmp_path / "out", NOBODY, in_process=True, baselines=False, page=False)
    assert report.alignment.rows == {"bank": 150, "card-network": 140, "biller": 130}


def test_a_role_between_companies_knows_its_own_number_alone(tmp_path: Path) -> None:
    from vfl.paillier import operation_counts
    from vfl.report.summary import summarise_own
    from vfl.threads import play_in_threads

    scenario = scenario_of(tmp_path / "in", pad_to=180)
    played = play_in_threads(scenario, tmp_path, NOBODY, baselines=False)
    told = {
        role: summarise_own(scenario.job, played.results[role], [], operation_counts(), "", 0.0).alignment.rows
        for role in ("coordinator", "bank", "biller")
    }
    assert told == {
        "coordinator": {"bank": 180, "card-network": 180, "biller": 180},
        "bank": {"bank": 150, "card-network": 180, "biller": 180},
        "biller": {"bank": 180, "card-network": 180, "biller": 130},
    }


def test_so_have_predictions(tmp_path: Path) -> None:
    from vfl.prediction import load_models, predict_here

    scenario = scenario_of(tmp_path / "in", pad_to=180)
    run_scenario(scenario, tmp_path / "out", NOBODY, in_process=True, baselines=False, page=False)
    data = {spec.name: Path(spec.data) for spec in scenario.parties}
    (predicted,) = predict_here(load_models(tmp_path / "out"), data, NOBODY)
    assert predicted.scored.sizes == {"bank": 150, "card-network": 140, "biller": 130}
