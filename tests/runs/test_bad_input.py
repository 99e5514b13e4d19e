"""Files and options that cannot be run: exit code 2, one clear line, no id or value in it, nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.companies import Companies, files_in, make_companies, run_vfl
from tests.runs.conftest import Command

Change = Callable[[Companies], None]
CASES: dict[str, tuple[Change, tuple[str, ...]]] = {}


def case(*told: str) -> Callable[[Change], Change]:
    """One way to spoil three good CSVs and their scenario, and words that the error must have."""

    def keep(change: Change) -> Change:
        CASES[change.__name__.strip("_").replace("_", " ")] = change, told
        return change

    return keep


def csv(companies: Companies, name: str) -> Path:
    return companies.folder / str(companies.parties[name]["data"])


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def set_cells(companies: Companies, name: str, column: str, rows: slice | list[int], value: str) -> None:
    cells = companies.tables[name][column].tolist()
    for row in range(len(cells))[rows] if isinstance(rows, slice) else rows:
        cells[row] = value
    companies.tables[name][column] = cells
    companies.write()


def rewrite(companies: Companies, old: str, new: str) -> None:
    text = companies.file.read_text()
    assert old in text
    companies.file.write_text(text.replace(old, new, 1))


def set_party(companies: Companies, name: str, **lines: object) -> None:
    companies.parties[name] |= lines
    companies.write()


# The scenario file


@case("scenario.toml", "expected one, or name the file")
def _no_scenario(companies: Companies) -> None:
    companies.file.unlink()


@case("scenario.toml is empty")
def _empty_scenario(companies: Companies) -> None:
    companies.file.write_text(" \n")


@case("scenario.toml, line 2", "malformed TOML")
def _malformed_scenario(companies: Companies) -> None:
    companies.file.write_text('name = "x"\nmodel = = 3\n')


@case("unknown key 'lable'", "did you mean 'label'")
def _unknown_key(companies: Companies) -> None:
    rewrite(companies, "label =", "lable =")


@case("unknown key 'trainning'", "did you mean 'training'")
def _unknown_section(companies: Companies) -> None:
    rewrite(companies, "[training]", "[trainning]")


@case("got 2 active parties")
def _two_active_parties(companies: Companies) -> None:
    set_party(companies, "biller", role="active", label="x0")


@case("no passive party")
def _no_passive_party(companies: Companies) -> None:
    for name in ("card-network", "biller"):
        del companies.parties[name], companies.tables[name]
    companies.write()


@case("no active party")
def _no_active_party(companies: Companies) -> None:
    del companies.parties["bank"], companies.tables["bank"]
    companies.write()


@case("task", "'binary' for model 'logistic'")
def _task_and_model_conflict(companies: Companies) -> None:
    companies.top["task"] = "count"
    companies.write()


@case("embedding_gradients = true in its policy", "party 'bank'")
def _single_rows_in_the_clear_by_chance(companies: Companies) -> None:
    companies.top |= {"model": "splitnn", "task": "binary"}
    companies.sections["training"] = {"mode": "split"}
    companies.write()


@case("model", "'logistic'", "did you mean 'logistic'?")
def _unknown_model(companies: Companies) -> None:
    companies.top["model"] = "logisitc"
    companies.write()


@case("protocol in [alignment] of scenario.toml, got 'kkrt' for 3 parties", "'mpsi' or 'ecdh'")
def _protocol_for_two(companies: Companies) -> None:
    companies.sections["alignment"] = {"protocol": "kkrt"}
    companies.write()


@case("key_bits", "at least 2048")
def _key_too_small(companies: Companies) -> None:
    companies.sections["privacy"] = {"key_bits": 1024}
    companies.write()


@case("key_bits", "at least 512")
def _key_absurd(companies: Companies) -> None:
    companies.sections["privacy"] = {"key_bits": 64, "insecure_test_mode": True}
    companies.write()


@case("key_holder", "'coordinator'", "logistic and linear")
def _poisson_at_the_coordinator(companies: Companies) -> None:
    companies.top["model"] = "poisson"
    companies.sections["privacy"]["key_holder"] = "coordinator"
    companies.write()


@case("name", "'coordinator'")
def _party_called_coordinator(companies: Companies) -> None:
    rewrite(companies, 'name = "biller"', 'name = "coordinator"')


@case("'bank' twice")
def _party_named_twice(companies: Companies) -> None:
    rewrite(companies, 'name = "biller"', 'name = "bank"')


@case("test_fraction", "below 1")
def _everything_held_out(companies: Companies) -> None:
    companies.sections["split"] = {"test_fraction": 1.0}
    companies.write()


# The CSV as a file


@case("biller data.csv", "no such file")
def _missing_file(companies: Companies) -> None:
    csv(companies, "biller").unlink()


@case("bank data.csv", "is empty")
def _empty_file(companies: Companies) -> None:
    csv(companies, "bank").write_text("\n \n")


@case("bank data.csv", "no rows")
def _header_alone(companies: Companies) -> None:
    csv(companies, "bank").write_text("customer,outcome,x0\n")


@case("biller data.csv", "is a directory")
def _directory_as_file(companies: Companies) -> None:
    csv(companies, "biller").unlink()
    csv(companies, "biller").mkdir()


@case("biller data.csv", "line", "fields, expected")
def _ragged_rows(companies: Companies) -> None:
    append(csv(companies, "biller"), "0123456x,1,2,3,4,5\n")


@case("biller data.csv", "encoding")
def _other_encoding(companies: Companies) -> None:
    path = csv(companies, "biller")
    path.write_bytes(path.read_text().replace("x0", "größe").encode("latin-1"))


@case("biller data.csv", "semicolons")
def _other_separator(companies: Companies) -> None:
    path = csv(companies, "biller")
    path.write_text(path.read_text().replace(",", ";"))


@case("biller data.csv", 'two columns are named "x0"')
def _header_twice(companies: Companies) -> None:
    path = csv(companies, "biller")
    path.write_text(path.read_text().replace("x1", "x0", 1))


@case("biller data.csv", "NUL byte")
def _binary_file(companies: Companies) -> None:
    csv(companies, "biller").write_bytes(b"id,x0\n" + bytes(300))


@case("biller data.csv", "not valid CSV")
def _open_quote(companies: Companies) -> None:
    append(csv(companies, "biller"), '"never closed,1,2,3\n')


# Columns and cells


@case('id names the column "klient"', "nearest")
def _missing_id_column(companies: Companies) -> None:
    set_party(companies, "card-network", id="klient")


@case('label names the column "outcom"', '"outcome"')
def _missing_label_column(companies: Companies) -> None:
    set_party(companies, "bank", label="outcom")


@case("party 'biller'", "occur more than once", "duplicates")
def _duplicate_ids(companies: Companies) -> None:
    set_cells(companies, "biller", "Konto-Nr.", [1], companies.tables["biller"]["Konto-Nr."][0])


@case("party 'biller'", "have no id", "missing")
def _blank_ids(companies: Companies) -> None:
    set_cells(companies, "biller", "Konto-Nr.", [4, 9], "  ")


@case("alignment: no common ids")
def _no_common_ids(companies: Companies) -> None:
    companies.tables["biller"]["Konto-Nr."] = [f"z{row}" for row in range(len(companies.tables["biller"]))]
    companies.write()


@case("alignment: fewer than min_intersection ids in common: got 171", "min_intersection = 5000")
def _too_few_common_ids(companies: Companies) -> None:
    companies.sections["alignment"] = {"min_intersection": 5000}
    companies.write()


@case("party bank", "3 different values", "exactly 2")
def _three_label_values(companies: Companies) -> None:
    set_cells(companies, "bank", "outcome", [0], "perhaps")


@case("party bank", "1 different values", "exactly 2")
def _one_label_value(companies: Companies) -> None:
    set_cells(companies, "bank", "outcome", slice(None), "zq-yes")


@case("label column", "are missing")
def _missing_labels(companies: Companies) -> None:
    set_cells(companies, "bank", "outcome", [2, 5], "")


@case("labels do not fit task regression")
def _text_labels_for_a_regression(companies: Companies) -> None:
    companies.top["model"] = "linear"
    companies.write()


@case("labels do not fit task count")
def _negative_counts(companies: Companies) -> None:
    companies.top["model"] = "poisson"
    set_cells(companies, "bank", "outcome", slice(None), "-1")


@case('column "x1"', "hold text", "missing_values", "categorical")
def _text_among_numbers(companies: Companies) -> None:
    set_cells(companies, "biller", "x1", [3, 30], "zq-none")


@case('column "x1"', "infinite")
def _infinite_numbers(companies: Companies) -> None:
    set_cells(companies, "biller", "x1", [3], "inf")


@case('column "x1"', "infinite or beyond")
def _numbers_beyond_float(companies: Companies) -> None:
    set_cells(companies, "biller", "x1", [3], "1e999")


@case('column "x1"', "different values", "categorical")
def _free_text(companies: Companies) -> None:
    cells = [f"free text {row}" for row in range(len(companies.tables["biller"]))]
    companies.tables["biller"]["x1"] = cells
    companies.write()


@case("features", "'outcome'")
def _label_as_feature(companies: Companies) -> None:
    set_party(companies, "bank", features=["x0", "outcome"])


@case("id, label, sample_weight")
def _label_as_id(companies: Companies) -> None:
    set_party(companies, "bank", id="outcome")


@case('features names the column "x9"')
def _missing_feature(companies: Companies) -> None:
    set_party(companies, "biller", features=["x9"])


@case("party 'biller'", "no usable feature column")
def _constant_columns_alone(companies: Companies) -> None:
    for column in ("x0", "x1", "x2"):
        set_cells(companies, "biller", column, slice(None), "7.125")


@case("sample_weight", "negative")
def _negative_weight(companies: Companies) -> None:
    set_cells(companies, "bank", "x0", slice(None), "-1.5")
    set_party(companies, "bank", sample_weight="x0")


@case("positive")
def _positive_that_is_no_label(companies: Companies) -> None:
    set_party(companies, "bank", positive="zq-nobody")


@case("alignment: party 'biller', id columns: got 2, expected 1")
def _composite_at_one_party(companies: Companies) -> None:
    set_party(companies, "biller", id=["Konto-Nr.", "x0"])


@case("1 of 2 classes have no row among", "both parts")
def _a_class_in_one_part_only(companies: Companies) -> None:
    labels = ["zq-no"] * len(companies.tables["bank"])
    companies.tables["bank"]["outcome"] = labels
    shared = companies.tables["biller"]["Konto-Nr."]
    rows = companies.tables["bank"].index[companies.tables["bank"]["customer"].isin(shared[:1])]
    set_cells(companies, "bank", "outcome", list(rows), "zq-yes")


@case("min_intersection")
def _two_rows(companies: Companies) -> None:
    for name, table in companies.tables.items():
        companies.tables[name] = table.iloc[:2]
    set_cells(companies, "bank", "outcome", [0], "zq-yes")
    set_cells(companies, "bank", "outcome", [1], "zq-no")


@case("leave no training row")
def _no_training_row(companies: Companies) -> None:
    companies.sections |= {"alignment": {"min_intersection": 1}, "split": {"test_fraction": 0.999}}
    companies.write()


@pytest.fixture
def companies(tmp_path: Path) -> Companies:
    companies = make_companies(tmp_path / "scenario", classes=("zq-no", "zq-yes"), rows=200)
    companies.write()
    return companies


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(vfl: Command, companies: Companies, tmp_path: Path, name: str) -> None:
    change, told = CASES[name]
    change(companies)
    secrets = companies.secrets()
    before = files_in(tmp_path)
    for command in (("run", "--out", tmp_path / "out", "--in-process", "--json"), ("check",)):
        said = vfl(*command, companies.folder)
        assert said.code == 2, said.stderr
        assert all(words in said.error for words in told), said.error
        assert len(said.error) < 600
        assert not [cell for cell in secrets if cell in said.stdout + said.stderr]
        if command[0] == "run":
            assert said.stdout == ""
    assert files_in(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["text among numbers", "no common ids"])
def test_refused_in_one_line_by_the_role_that_finds_it(companies: Companies, tmp_path: Path, name: str) -> None:
    """A process's error reaches the terminal as it is; the others leave without a word."""
    change, told = CASES[name]
    change(companies)
    before = files_in(tmp_path)
    said = run_vfl("run", companies.folder, "--out", tmp_path / "out", "--json")
    assert said.code == 2 and said.stdout == ""
    assert all(words in said.error for words in told)
    assert files_in(tmp_path) == before
    assert not [cell for cell in companies.secrets() if cell in said.stderr]


def test_a_file_that_cannot_be_read(vfl: Command, companies: Companies, tmp_path: Path) -> None:
    """A link to itself, since root may read whatever permissions forbid."""
    path = csv(companies, "biller")
    path.unlink()
    path.symlink_to(path)
    said = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process")
    assert said.code == 2 and "permissions" in said.error


def test_a_file_that_vanishes_under_way(
    vfl: Command, companies: Companies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pooled baseline reads the CSVs once more."""

    def gone(*_: object, **__: object) -> None:
        csv(companies, "biller").unlink()

    monkeypatch.setattr("vfl.session.score_as_coordinator", lambda *a: (gone(), scored(*a)))
    from vfl.scoring import score_as_coordinator as scored

    said = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process")
    assert said.code == 2 and "no such file" in said.error
    assert not (tmp_path / "out").exists()


GOOD: dict[str, Change] = {}


def good(change: Change) -> Change:
    """Odd files that are fine."""
    GOOD[change.__name__.strip("_").replace("_", " ")] = change
    return change


@good
def _windows_line_ends_and_byte_order_mark(companies: Companies) -> None:
    for name in companies.tables:
        path = csv(companies, name)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))


@good
def _names_in_many_scripts(companies: Companies) -> None:
    table = companies.tables["biller"]
    companies.tables["biller"] = table.rename(columns={"Konto-Nr.": "顧客 番号", "x0": "größe, [b]€[/b]", "x1": "a\nb"})
    set_party(companies, "biller", id="顧客 番号", data="データ [red].csv")


@good
def _huge_and_tiny_numbers(companies: Companies) -> None:
    table = companies.tables["biller"]
    table["x0"] = [f"{float(cell) * 1e300!r}" for cell in table["x0"]]
    table["x1"] = [f"{float(cell) * 1e-300!r}" for cell in table["x1"]]
    set_cells(companies, "biller", "x2", [0], "1.7e308")


@good
def _ids_with_a_decimal_point(companies: Companies) -> None:
    for name, party in companies.parties.items():
        table = companies.tables[name]
        table[party["id"]] = [f"{int(cell[:-1])}.0" for cell in table[party["id"]]]
    companies.write()


@good
def _the_same_column_names_everywhere(companies: Companies) -> None:
    for name in companies.tables:
        table = companies.tables[name].rename(columns={companies.parties[name]["id"]: "id"})
        companies.tables[name], companies.parties[name]["id"] = table, "id"
    companies.write()


@good
def _absolute_path_through_a_link(companies: Companies) -> None:
    link = companies.folder / "link.csv"
    link.symlink_to(csv(companies, "bank"))
    companies.parties["bank"]["data"] = str(link.absolute())
    companies.file.write_text(companies.text())


@good
def _a_column_that_copies_another(companies: Companies) -> None:
    companies.tables["biller"]["twin"] = companies.tables["biller"]["x0"]
    companies.tables["card-network"]["twin"] = companies.tables["card-network"]["x0"]
    companies.write()


@pytest.mark.parametrize("name", GOOD)
def test_odd_but_fine(vfl: Command, companies: Companies, tmp_path: Path, name: str) -> None:
    GOOD[name](companies)
    said = vfl("run", companies.folder, "--out", tmp_path / "out", "--in-process", "--set", "training.max_iter=3")
    assert said.code == 0, said.stderr
    assert "ready to run" in vfl("check", companies.folder).stdout
