"""What ``vfl psi`` shows: numbers that whoever sees it may know, within 80 columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from vfl.job import Alignment, Job, Member
from vfl.psi_display import show_psi
from vfl.psi_report import PsiReport, PsiResult, Purpose, encode_psi, summarise_psi

MEMBERS = Member(name="bank", role="active"), Member(name="shop", role="passive")


def job(**alignment: Any) -> Job:
    return Job(
        name="trial", model="linear", task="regression", parties=MEMBERS, alignment=Alignment(**alignment), seed=4
    )


def result(role: str, **changes: Any) -> PsiResult:
    plain = PsiResult(
        role=role,
        sizes={"bank": 2_000, "shop": 3_000},
        protocol="ecdh",
        intersection=1_500,
        seconds={"aligning": 1.25 if role == "bank" else 1.5},
        warnings=[f"of {role}", "of all"],
        csv_rows=2_050 if role == "bank" else 3_000,
        ids=2_000 if role == "bank" else 3_000,
        missing=30 if role == "bank" else 0,
        duplicates=20 if role == "bank" else 0,
        file=True,
    )
    return msgspec.structs.replace(plain, **changes)


def summary(*results: PsiResult, purpose: Purpose = "psi", **alignment: Any) -> PsiReport:
    return summarise_psi(job(**alignment), purpose, {one.role: one for one in results}, [], 2.0)


def shown(report: PsiReport, width: int = 80) -> list[str]:
    out = io.StringIO()
    show_psi(report, Console(file=out, width=width, force_terminal=False), out=Path("runs/first"))
    return out.getvalue().splitlines()


def cells(report: PsiReport, party: str) -> list[str]:
    line = next(line for line in shown(report) if f" {party} " in line and "│" in line)
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_both_parties_on_one_machine() -> None:
    report = summary(result("bank"), result("shop"), result("coordinator", csv_rows=0, ids=0, file=False))
    assert cells(report, "bank") == ["2,050", "2,000", "1,500", "75.0%", "30", "20"]
    assert cells(report, "shop") == ["3,000", "3,000", "1,500", "50.0%", "0", "0"]
    assert [party.common for party in report.parties] == [1_500, 1_500]
    lines = shown(report)
    assert "1,500 common ids; ecdh, 2.0 s in all, 1.5 s aligning, 0 B sent" in lines
    assert lines[-4:] == [
        "Aligned rows, line by line the same people at every party:",
        "  runs/first/bank/aligned.csv",
        "  runs/first/shop/aligned.csv",
        "Who learnt what: vfl audit runs/first",
    ]
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: of coordinator",
        "warning: of all",
        "warning: of bank",
        "warning: of shop",
    ]
    assert max(map(len, lines)) <= 80


def test_one_party_knows_its_own_numbers() -> None:
    report = summary(result("shop", missing=0, duplicates=0))
    assert cells(report, "bank") == ["-", "2,000", "1,500", "75.0%"]
    assert cells(report, "shop") == ["3,000", "3,000", "1,500", "50.0%"]
    assert report.files == {"shop": "shop/aligned.csv"}


def test_a_padded_length_is_nobodys_number_of_ids() -> None:
    report = summary(result("bank", sizes={"bank": 5_000, "shop": 5_000}, missing=0, duplicates=0), pad_to=5_000)
    assert cells(report, "bank") == ["2,050", "2,000", "1,500", "75.0%"]
    assert cells(report, "shop") == ["-", "-", "1,500", "-"]
    assert report.alignment.rows == {"bank": 2_000, "shop": 5_000}
    assert any("lists padded to 5,000 ids" in line for line in shown(report))


def test_the_passive_party_of_a_one_sided_alignment_hears_no_number() -> None:
    report = summary(result("shop", intersection=None, file=False), one_sided=True)
    assert cells(report, "shop") == ["3,000", "3,000", "-", "-"]
    lines = shown(report)
    assert any(line.startswith("ecdh, 2.0 s in all") for line in lines)
    assert not [line for line in lines if "aligned.csv" in line]
    assert any(line.startswith("One-sided: bank alone has aligned rows; shop learns neither which") for line in lines)
    assert msgspec.json.decode(encode_psi(report))["alignment"]["intersection"] is None


def silo_summary(*results: PsiResult, purpose: Purpose = "psi") -> PsiReport:
    members = [Member(name="bank", role="active")]
    members += [Member(name=f"shop.{silo}", role="passive") for silo in ("east", "west")]
    made = Job(name="trial", model="linear", task="regression", parties=tuple(members), seed=4)
    sizes = {"bank": 2_000, "shop.east": 800, "shop.west": 900}
    known = {one.role: msgspec.structs.replace(one, sizes=sizes, warnings=[]) for one in results}
    return summarise_psi(made, purpose, known, [], 2.0)


def test_a_silo_has_its_own_share_of_the_common_rows() -> None:
    east, west = result("shop.east", ids=800, own=700), result("shop.west", ids=900, own=800)
    report = silo_summary(result("bank", own=1_500), east, west)
    assert cells(report, "bank")[2:4] == ["1,500", "75.0%"]
    assert cells(report, "shop.east")[2:4] == ["700", "87.5%"]
    assert cells(report, "shop.west")[2:4] == ["800", "88.9%"]
    assert "Aligned rows, each silo's own, in one order:" in shown(report)


def test_nobody_else_knows_how_many_rows_a_silo_has() -> None:
    report = silo_summary(result("shop.east", ids=800, own=700))
    assert [party.common for party in report.parties] == [1_500, 700, None]
    assert cells(report, "shop.west") == ["-", "900", "-", "-"]


def test_only_the_number_of_silos() -> None:
    report = silo_summary(result("shop.east", file=False), purpose="psi cardinality")
    assert [party.common for party in report.parties] == [1_500, None, None]


@pytest.mark.parametrize("role", ["bank", "coordinator"])
def test_only_the_number(role: str) -> None:
    lines = shown(summary(result(role, file=False, intersection=1), purpose="psi cardinality"))
    assert any(line.startswith("1 common id; ecdh") for line in lines)
    assert "Nobody has learnt which ids are common; no rows were written." in lines
