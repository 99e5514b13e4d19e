"""Reading a party's CSV: every rule of the contract, every bad file, and no cell's value in any message."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.columns import Place, check_classes_in_both_parts, encode_labels, parse_number, read_weights
from parties.data import PartyTable, read_party, table_from_frame
from parties.errors import ConfigError, DataError, VflError
from parties.spec import PartySpec
from vfl.job_file import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SECRET = "s3cr3t"


def spec(path: object = "x.csv", **options: object) -> PartySpec:
    given: dict[str, object] = {"name": "bank", "role": "active", "id": "id", "data": str(path), **options}
    return PartySpec(**given)  # type: ignore[arg-type]


def read(tmp_path: Path, content: str | bytes, **options: object) -> PartyTable:
    path = tmp_path / "bank.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_party(spec(path, **options))


def refused(tmp_path: Path, content: str | bytes, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, **options)
    message = str(caught.value).replace(str(tmp_path), "")
    assert message.startswith("party bank, ")
    assert "\n" not in message
    assert SECRET not in message
    return message


# ids


def test_ids_stay_text(tmp_path: Path) -> None:
    table = read(tmp_path, "id,x\n001,1\n1234567890123456789,2\n 7 ,3\nNA,4\n,5\n")
    assert table.id_columns == [["001", "1234567890123456789", " 7 ", "NA", ""]]
    assert table.n_rows == 5


def test_composite_key_has_one_list_per_column(tmp_path: Path) -> None:
    table = read(tmp_path, "branch,x,no\na,1,01\nb,2,02\n", id=("no", "branch"))
    assert table.id_columns == [["01", "02"], ["a", "b"]]
    assert list(table.features) == ["x"]


# kinds of columns


def test_default_columns_are_all_but_id_label_and_weight(tmp_path: Path) -> None:
    table = read(tmp_path, "w,id,y,a,b\n1,i,0,3,u\n2,j,1,4,v\n", label="y", sample_weight="w")
    assert table.kinds == {"a": "numeric", "b": "categorical"}
    assert table.labels == ["0", "1"]
    assert table.weights is not None
    assert table.weights.tolist() == [1.0, 2.0]
    assert table.features["a"].dtype == np.float64
    assert table.features["b"].dtype == object


def test_features_and_drop_choose_columns(tmp_path: Path) -> None:
    content = "id,a,b,c\ni,1,2,3\nj,2,3,4\n"
    assert list(read(tmp_path, content, features=("c", "a")).features) == ["c", "a"]
    assert list(read(tmp_path, content, drop=("b",)).features) == ["a", "c"]
    assert list(read(tmp_path, content, features=("a", "b"), drop=("b",)).features) == ["a"]
    only_ids = read(tmp_path, content, features=())
    assert (only_ids.features.shape, only_ids.n_rows) == ((2, 0), 2)


@pytest.mark.parametrize("missing", ["", "NA", "NaN", "null", "N/A", "  NA "])
def test_missing_spellings(tmp_path: Path, missing: str) -> None:
    table = read(tmp_path, f"id,x,c\n1,2.5,u\n2,{missing},{missing}\n3,1,v\n")
    assert np.isnan(table.features["x"][1])
    assert table.features["c"][1] is None
    assert table.features["c"].tolist() == ["u", None, "v"]


@pytest.mark.parametrize("text", ["nan", "na", "None", "NULL", "-", "?"])
def test_other_spellings_are_text_unless_listed(tmp_path: Path, text: str) -> None:
    content = f"id,x\n1,2.5\n2,{text}\n3,1\n"
    assert "missing_values" in refused(tmp_path, content)
    assert np.isnan(read(tmp_path, content, missing_values=(text,)).features["x"][1])


def test_half_numbers_is_a_column_of_numbers(tmp_path: Path) -> None:
    message = refused(tmp_path, f"id,x\n1,1\n2,2\n3,{SECRET}\n4,u\n5,\n")
    assert 'column "x"' in message
    assert "2 of 5 cells (first in line 4)" in message
    assert "categorical" in message
    less_than_half = read(tmp_path, "id,x\n1,1\n2,u\n3,v\n")
    assert less_than_half.kinds == {"x": "categorical"}


def test_listed_categorical_is_never_numeric_and_has_no_limit(tmp_path: Path) -> None:
    content = "id,x\n" + "".join(f"{i},{i:04d}\n" for i in range(150))
    table = read(tmp_path, content, categorical=("x",))
    assert table.kinds == {"x": "categorical"}
    assert table.features["x"][7] == "0007"


def test_over_100_categories_are_refused_unless_listed(tmp_path: Path) -> None:
    def content(n: int) -> str:
        return "id,x\n" + "".join(f"{i},{SECRET}{i}\n" for i in range(n))

    assert read(tmp_path, content(100)).kinds == {"x": "categorical"}
    message = refused(tmp_path, content(101))
    assert "101 different values" in message
    assert "categorical" in message
    assert "drop" in message


def test_decimal_commas_are_explained(tmp_path: Path) -> None:
    content = "id,x\n" + "".join(f'{i},"{i},5"\n' for i in range(120))
    assert "decimal point" in refused(tmp_path, content)


@pytest.mark.parametrize("text", ["inf", "-Infinity", "1e999", "INF"])
def test_infinite_numbers_are_refused(tmp_path: Path, text: str) -> None:
    message = refused(tmp_path, f"id,x\n1,1\n2,{text}\n3,3\n")
    assert "infinite" in message
    assert 'column "x"' in message
    assert "line 3" in message
    assert text not in message.replace("infinite", "")


def test_huge_and_exact_numbers_are_read(tmp_path: Path) -> None:
    table = read(tmp_path, "id,x\n1,1e308\n2,0.1\n3,1e+05\n4,-4.9e-324\n")
    assert table.features["x"].tolist() == [1e308, 0.1, 1e5, -5e-324]


def test_column_without_any_value_is_numeric_and_all_missing(tmp_path: Path) -> None:
    table = read(tmp_path, "id,x\n1,\n2,NA\n")
    assert table.kinds == {"x": "numeric"}
    assert table.features["x"].isna().all()


def test_parse_number_takes_no_python_spellings() -> None:
    assert [parse_number(text) for text in ("1_000", "nan", "0x10", "", "1,5")] == [None] * 5
    assert [parse_number(text) for text in ("-.5", "1e3", "+7")] == [-0.5, 1000.0, 7.0]


# files


def test_missing_file_and_directory_and_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_party(spec(tmp_path / "nowhere.csv"))
    with pytest.raises(DataError, match="directory"):
        read_party(spec(tmp_path))
    with pytest.raises(DataError, match="cannot be read"):
        read_party(spec(tmp_path / ("long" * 100)))

    def forbidden(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DataError, match="Permission denied.*permissions"):
        read_party(spec(tmp_path / "bank.csv"))


@pytest.mark.parametrize("content", ["", "\n", " \n\t\n"])
def test_empty_file(tmp_path: Path, content: str) -> None:
    assert "is empty" in refused(tmp_path, content)


@pytest.mark.parametrize("content", ["id,x", "id,x\n", "id,x\n\n", "\n\nid,x\r\n \n"])
def test_header_only(tmp_path: Path, content: str) -> None:
    assert "no rows" in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("row", "got"), [(f"7,{SECRET}", "has 2 fields"), (f"7,{SECRET},3,4", "has 4 fields"), (SECRET, "has 1 fields")]
)
def test_ragged_rows_name_line_and_counts(tmp_path: Path, row: str, got: str) -> None:
    message = refused(tmp_path, f'id,x,y\n1,2,"a\nb"\n\n{row}\n')
    assert got in message
    assert "line 5" in message
    assert "expected 3" in message


def test_quoted_newlines_commas_and_blank_lines_are_fine(tmp_path: Path) -> None:
    table = read(tmp_path, '\nid,x\r\n1,"a\nb"\r\n\r\n2,"c,""d"\n   \n3,e')
    assert table.features["x"].tolist() == ["a\nb", 'c,"d', "e"]


@pytest.mark.parametrize(
    "content", ['id,x\n1,"s3cr3t\n2,3\n', 'id,x\n1,"s3"cr3t\n2,3\n', f'id,x\n1,"{"x" * 140_000}"\n']
)
def test_broken_quotes_name_the_line(tmp_path: Path, content: str) -> None:
    message = refused(tmp_path, content)
    assert "starts in line 2" in message
    assert "quotes" in message


def test_byte_order_mark_is_removed(tmp_path: Path) -> None:
    assert read(tmp_path, b"\xef\xbb\xbfid,x\n1,2\n2,3\n").id_columns == [["1", "2"]]
    assert read(tmp_path, "id,x\n1,2\n2,3\n".encode("utf-16"), encoding="utf-16").id_columns == [["1", "2"]]


def test_other_encodings_name_the_option(tmp_path: Path) -> None:
    content = "id,x\n1,a\n2,Zürich\n".encode("latin-1")
    message = refused(tmp_path, content)
    assert "line 3" in message
    assert "encoding" in message
    assert "latin-1" in message
    assert read(tmp_path, content, encoding="latin-1").features["x"][1] == "Zürich"
    assert "utf-16" in refused(tmp_path, "id,x\n1,2\n".encode("utf-16"))


@pytest.mark.parametrize("encoding", ["utf8000", "base64", "undefined", "", "rot13", "a\0b"])
def test_unknown_encoding(tmp_path: Path, encoding: str) -> None:
    assert "encoding" in refused(tmp_path, "id,x\n1,2\n", encoding=encoding)


def test_nul_bytes(tmp_path: Path) -> None:
    message = refused(tmp_path, b"id,x\n1,2\n2,\x00\n")
    assert "NUL" in message
    assert "line 3" in message


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_other_separators_are_named(tmp_path: Path, separator: str, name: str) -> None:
    assert name in refused(tmp_path, "id,x\n1,2,5\n".replace(",", separator))
    assert name in refused(tmp_path, f"id{separator}x\n1{separator}2,5\n")


# columns that options name


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("id", "ID"),
        ("id", ("id", "branhc")),
        ("label", "lable"),
        ("sample_weight", "weihgt"),
        ("features", ("x", "branhc")),
        ("drop", ("branhc",)),
        ("categorical", ("branhc",)),
    ],
)
def test_missing_column_names_option_and_nearest(tmp_path: Path, option: str, value: object) -> None:
    message = refused(tmp_path, "id,x,branch,label,weight\n1,2,3,0,1\n", **{option: value})
    assert f": {option} names the column" in message
    assert "the nearest is" in message


def test_missing_column_without_a_near_one(tmp_path: Path) -> None:
    assert "has 2 columns" in refused(tmp_path, "id,x\n1,2\n", label="default")


def test_duplicated_column_names(tmp_path: Path) -> None:
    assert 'two columns are named "x"' in refused(tmp_path, "id,x, x\n1,2,3\n")


def test_unnamed_columns(tmp_path: Path) -> None:
    assert "column 1 has no name" in refused(tmp_path, ",id,x\n0,1,2\n")
    table = read(tmp_path, "id,x,,\n1,2,,\n2,3,,\n")
    assert list(table.features) == ["x"]
    assert len(table.warnings) == 2


@pytest.mark.parametrize("option", ["features", "categorical"])
def test_id_or_label_cannot_be_a_feature(tmp_path: Path, option: str) -> None:
    assert "label" in refused(tmp_path, "id,x,y\n1,2,0\n", label="y", **{option: ("y",)})
    assert "id" in refused(tmp_path, "id,x,y\n1,2,0\n", **{option: ("id",)})


def test_accents_match_in_either_unicode_form(tmp_path: Path) -> None:
    table = read(tmp_path, "id,re\u0301gion\n1,a\n2,b\n", categorical=("r\u00e9gion",))
    assert table.kinds == {"r\u00e9gion": "categorical"}


def test_line_break_in_a_header_is_a_space(tmp_path: Path) -> None:
    table = read(tmp_path, 'id,"annual \r\n income"\n1,2\n2,3\n', features=("annual income",))
    assert table.kinds == {"annual income": "numeric"}


# labels


def test_missing_labels_count_in_rows_with_an_id(tmp_path: Path) -> None:
    message = refused(tmp_path, "id,y\n1,0\n2,NA\n3, \n,\n", label="y")
    assert "2 of 4 cells (first in line 3)" in message
    assert read(tmp_path, "id,y\n1,0\n2,1\n ,NA\n", label="y").labels == ["0", "1", "NA"]
    with pytest.raises(DataError, match="party bank: 1 of 2 labels are missing"):
        encode_labels(["1", ""], "binary", None, "bank")


def test_binary_order() -> None:
    assert encode_labels(["9", "10", "9"], "binary", None, "bank").classes == ["9", "10"]
    assert encode_labels(["9", "x10", "9"], "binary", None, "bank").classes == ["9", "x10"]
    assert encode_labels(["yes", "no"], "binary", None, "bank").values.tolist() == [1.0, 0.0]
    good = encode_labels(["good", "bad", "good"], "binary", "bad", "bank")
    assert (good.classes, good.values.tolist()) == (["good", "bad"], [0.0, 1.0, 0.0])
    assert good.values.dtype == np.float64


def test_numeric_labels_are_compared_as_numbers() -> None:
    encoded = encode_labels(["1", "1.0", "-1", " 1"], "binary", "-1.0", "bank")
    assert encoded.values.tolist() == [0.0, 0.0, 1.0, 0.0]
    assert encoded.classes == ["1", "-1"]
    assert encode_labels(["True", "False"], "binary", "false", "bank").values.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("labels", "count"), [(["a", SECRET, "c"], "3"), ([SECRET, SECRET], "1")])
def test_binary_needs_two_values(labels: list[str], count: str) -> None:
    with pytest.raises(DataError, match=f"party bank: the label has {count} different values.*exactly 2") as caught:
        encode_labels(labels, "binary", None, "bank")
    assert SECRET not in str(caught.value)


def test_positive_must_be_one_of_the_values() -> None:
    with pytest.raises(DataError, match="positive is none of the label's 2 values") as caught:
        encode_labels(["a", SECRET], "binary", "c", "bank")
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="only binary"):
        encode_labels(["a", "b"], "multiclass", "b", "bank")
    with pytest.raises(ConfigError, match="unknown"):
        encode_labels(["a", "b"], "ranking", None, "bank")


def test_multiclass_codes() -> None:
    encoded = encode_labels(["10", "9", "2", "9"], "multiclass", None, "bank")
    assert encoded.classes == ["2", "9", "10"]
    assert encoded.values.tolist() == [2, 1, 0, 1]
    assert encoded.values.dtype == np.int64
    with pytest.raises(DataError, match="at least 2"):
        encode_labels(["a", "a"], "multiclass", None, "bank")


@pytest.mark.parametrize(
    ("task", "bad", "expected"),
    [
        ("regression", SECRET, "finite"),
        ("regression", "inf", "finite"),
        ("regression", "nan", "finite"),
        ("count", "-1", "whole"),
        ("count", "1.5", "whole"),
        ("count", "1e300", "whole"),
    ],
)
def test_number_labels_are_checked(task: str, bad: str, expected: str) -> None:
    with pytest.raises(DataError, match=f"1 of 3 labels do not fit task {task}; expected {expected}") as caught:
        encode_labels(["1", bad, "2.0"], task, None, "bank")
    assert SECRET not in str(caught.value)
    assert encode_labels(["1", "2.0"], task, None, "bank").values.tolist() == [1.0, 2.0]
    assert encode_labels(["1", "2.0"], task, None, "bank").classes == []


def test_counts_cannot_all_be_zero() -> None:
    with pytest.raises(DataError, match="all labels are 0"):
        encode_labels(["0", "0"], "count", None, "bank")


def test_both_parts_hold_every_class() -> None:
    codes = np.array([0, 1, 2, 0, 1, 2])
    check_classes_in_both_parts(codes, 3, ["a", "b", "c"])
    check_classes_in_both_parts(codes, 6, ["a", "b", "c"])
    check_classes_in_both_parts(codes, 1, [])
    with pytest.raises(DataError, match="1 of 3 classes have no row among the 2 test rows.*test_fraction"):
        check_classes_in_both_parts(codes, 4, ["a", "b", "c"])
    with pytest.raises(DataError, match="2 of 3 classes have no row among the 1 training rows"):
        check_classes_in_both_parts(codes, 1, ["a", "b", "c"], "bank")


# sample weights


@pytest.mark.parametrize("bad", ["-1", "", "NA", "inf", "nan", SECRET])
def test_bad_weights(tmp_path: Path, bad: str) -> None:
    message = refused(tmp_path, f"id,w\n1,1\n2,{bad}\n", sample_weight="w")
    assert 'sample_weight column "w": 1 of 2 cells (first in line 3)' in message


def test_weights_cannot_all_be_zero() -> None:
    with pytest.raises(DataError, match="zero in all rows"):
        read_weights("w", ["0", "0.0"], Place("party bank", [2, 3]))


# DataFrames


def test_frame_passes_the_same_checks() -> None:
    frame = pd.DataFrame(
        {
            "id": [7, 8, 9],
            "x": [0.1, np.nan, np.float64(1e308)],
            "c": np.array(["u", None, "v"], dtype=object),
            "b": [True, False, True],
            "d": pd.to_datetime(["2024-01-01", None, "2024-01-03"]),
            "y": [0, 1, 1],
        },
        index=[5, 5, 6],
    )
    table = table_from_frame(frame, spec(label="y"))
    assert table.id_columns == [["7", "8", "9"]]
    assert table.kinds == {"x": "numeric", "c": "categorical", "b": "categorical", "d": "categorical"}
    assert table.features["x"].tolist()[::2] == [0.1, 1e308]
    assert np.isnan(table.features["x"][1])
    assert table.features["c"].tolist() == ["u", None, "v"]
    assert table.features["d"][1] is None
    assert table.labels == ["0", "1", "1"]
    assert table.features["x"].index.tolist() == [0, 1, 2]


def test_frame_errors_name_rows_and_no_values() -> None:
    with pytest.raises(DataError, match=r"first in row 1\)") as caught:
        table_from_frame(pd.DataFrame({"id": ["a", "b"], "x": [1, SECRET]}), spec())
    assert SECRET not in str(caught.value)
    with pytest.raises(DataError, match="floating-point"):
        table_from_frame(pd.DataFrame({"id": [1.0, 2.0]}), spec())
    with pytest.raises(DataError, match='two columns are named "x"'):
        table_from_frame(pd.DataFrame([["1", 2, 3]], columns=["id", "x", " x"]), spec())
    with pytest.raises(DataError, match="no rows"):
        table_from_frame(pd.DataFrame({"id": []}, dtype=str), spec())


def test_frame_and_csv_give_the_same_table(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"id": [f"{i:03d}" for i in range(50)], "x": rng.normal(size=50), "c": rng.choice(["u", "v"], 50)}
    )
    frame.loc[3, "x"] = np.nan
    frame.to_csv(tmp_path / "bank.csv", index=False)
    from_csv, from_frame = read_party(spec(tmp_path / "bank.csv")), table_from_frame(frame, spec())
    pd.testing.assert_frame_equal(from_csv.features, from_frame.features, check_exact=True)
    assert from_csv.id_columns == from_frame.id_columns


# any bytes at all


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200), encoding=st.sampled_from(["utf-8", "latin-1", "utf-16", "cp1252", "ascii"]))
def test_any_bytes_give_a_table_or_a_vfl_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, encoding: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(content)
    try:
        read_party(spec(path, encoding=encoding, id="a", label="b"))
    except VflError:
        pass


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_mutated_csvs_give_a_table_or_a_vfl_error(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = random.Random(seed)
    content = bytearray("id,y,x,c,w\n" + "".join(f"{i},{i % 2},{i / 7},{'uv'[i % 2]},1\n" for i in range(12)), "utf-8")
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(content) + 1)
        content[at : at + rng.randrange(3)] = rng.choice(
            [b"", b'"', b",", b"\n", b"\r", b";", b"\0", b"\xff", b"\xef\xbb\xbf", b"inf", b"1e999", b"NA", b"9" * 400]
        )
    path = tmp_path_factory.getbasetemp() / "mutated.csv"
    path.write_bytes(bytes(content))
    try:
        table = read_party(spec(path, label="y", sample_weight="w"))
        encode_labels(table.labels or [], "binary", None, "bank")
    except VflError:
        pass


# the scenarios that ship


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("credit_default", [27_600, 26_400, 25_500]),
        ("vehicle", [812, 795]),
        ("diabetes", [433, 429, 424]),
        ("claims", [5_820, 5_400, 5_280]),
    ],
)
def test_scenarios_can_be_read(name: str, rows: list[int]) -> None:
    scenario = load_scenario(SCENARIOS / name)
    tables = [read_party(party) for party in scenario.parties]
    assert [table.n_rows for table in tables] == rows
    labels = tables[0].labels
    assert labels is not None
    assert len(encode_labels(labels, scenario.job.task, None, "active").values) == rows[0]


def test_claims_uses_real_life_paths() -> None:
    insurer, telematics, garage = (read_party(party) for party in load_scenario(SCENARIOS / "claims").parties)
    assert insurer.kinds["région"] == "categorical"
    assert telematics.features["hard_braking"].isna().any()
    assert garage.features["brake_state"].isna().any()
    assert any(text.startswith("0") for text in insurer.id_columns[0])
