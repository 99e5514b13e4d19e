"""What shells offer for scenarios whose parties are made of silos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.silos.siloed import Siloed
from vfl.commands import completing


class Typed:
    """As much of a command line's context as completing looks at."""

    def __init__(self, *words: str) -> None:
        self.args, self.params = list(words), {}


def offers(file: Path, typed: str) -> list[str]:
    context: Any = Typed(str(file))
    return [text for text, _ in completing.complete_key(context, typed)]


def test_each_silo_has_its_own_keys_and_its_party_the_rest(tmp_path: Path) -> None:
    Siloed(hospitals=0, insurer=2).write(tmp_path)
    silo = "party.insurer.silo.s1"
    assert offers(tmp_path, silo) == [
        f"{silo}.{key}=" for key in ("data", "weight", "id", "encoding", "missing_values")
    ]
    assert "party.insurer.data=" not in offers(tmp_path, "party.insurer.")
    assert {"party.insurer.id=", "party.insurer.drop="} <= set(offers(tmp_path, "party.insurer."))
    assert "party.hospitals.data=" in offers(tmp_path, "party.hospitals.")


@pytest.mark.parametrize("silo", ["north", [], [3], [{"data": "x"}], [{"name": 3}], {}], ids=repr)
def test_whatever_is_wrong_with_silos_offers_nothing(silo: object, tmp_path: Path) -> None:
    file = tmp_path / "s.toml"
    value = json.dumps(silo).replace('": ', '" = ')
    file.write_text(f'model = "logistic"\n[[party]]\nname = "bank"\nsilo = {value}\n', encoding="utf-8")
    assert offers(file, "party.bank.silo.") == []


def test_averaging_completes() -> None:
    assert offers(Path("none"), "training.aggregation=f") == [
        "training.aggregation=fedsgd",
        "training.aggregation=fedavg",
    ]
