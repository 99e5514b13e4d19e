"""The short form of `tests.chaos.fuzz`: every decoder, some thousand altered inputs each, in little memory."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from tests.chaos import fuzz

EACH = int(os.environ.get("VFL_FUZZ_EACH", "2000"))


@pytest.mark.slow
def test_decoders_raise_what_they_document_and_take_little_memory(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        names = pool.apply(fuzz.target_names, (str(tmp_path / "names"),))
    total = fuzz.run_all(tmp_path, "short", dict.fromkeys(names, EACH), 0.0, 2)
    assert set(total) == set(names)
    for name, (executions, accepted, _) in total.items():
        assert executions >= EACH, name
        assert accepted < executions, f"{name} refuses nothing"
