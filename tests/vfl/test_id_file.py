"""Ids of a CSV, and its aligned rows: what the file says, cell by cell, whatever its size and encoding."""

import csv
import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties import csv_file
from parties.data import read_party
from parties.errors import DataError
from parties.spec import PartySpec
from psi.ids import IdRules, prepare_ids
from psi.source import ListedIds
from vfl import row_sorter
from vfl.id_file import read_id_file, write_aligned
from vfl.job import Alignment, Job, Member

MEMBERS = (Member(name="bank", role="active"), Member(name="shop", role="passive"))


def job(**alignment):
    return Job(name="j", task="binary", model="logistic", seed=3, alignment=Alignment(**alignment), parties=MEMBERS)


def party(path, **options):
    return PartySpec(**{"name": "bank", "role": "active", "data": str(path), "id": "id", "label": "y"} | options)


def written(folder, text, encoding="utf-8"):
    path = folder / "bank.csv"
    path.write_bytes(text.encode(encoding))
    return path


def read(folder, text, encoding="utf-8", alignment=None, **options):
    spec = party(written(folder, text, encoding), encoding=encoding, **options)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    return read_id_file(job(**(alignment or {})), spec, scratch)


def rows_of(own):
    return sorted(own.ids.csv_rows(own.ids.indices(0, 1)).tolist())


def aligned(folder, text, rows, encoding="utf-8"):
    spec = party(written(folder, text, encoding), encoding=encoding)
    write_aligned(spec, np.array(rows, np.int64), folder / "aligned.csv")
    return (folder / "aligned.csv").read_bytes()


def test_ids_alone_are_read(tmp_path):
    own = read(tmp_path, "id,income\na,much\nb,\nc,-\n")
    assert (own.total, own.count, own.missing, own.duplicates) == (3, 3, 0, 0)
    assert own.rules == IdRules()
    assert rows_of(own) == [0, 1, 2]


def test_rules_of_the_job_hold(tmp_path):
    rules = {"duplicates": "first", "missing": "drop", "casefold": True}
    own = read(tmp_path, 'id,x\n" A ",1\na,2\n,3\nb,4\n', alignment=rules)
    assert (own.total, own.count, own.missing, own.duplicates) == (4, 2, 1, 1)
    assert rows_of(own) == [0, 3]


def test_composite_ids_in_the_order_of_the_party_file(tmp_path):
    text = "b,x,a\nc,1,ab\nbc,2,a\n"
    own = read(tmp_path, text, id=("a", "b"))
    other = ListedIds.of(prepare_ids([["ab", "a"], ["c", "bc"]], IdRules(columns=2), party="shop"))
    assert own.ids.set_digest(np.arange(2)) == other.set_digest(np.arange(2))


REFUSED = {
    "duplicates": ("id,x\na,1\na,2\n", "1 ids occur more than once, in 2 of 2 rows"),
    "missing": ("id,x\n,1\nb,2\n", "1 of 2 rows have no id"),
    "no such column": ("name,x\na,1\n", 'id names the column "id", which is not in the header'),
    "two such columns": ("id,id\na,1\n", 'two columns are named "id"'),
    "ragged": ("id,x\na,1\nb\n", "line 3 has 1 fields, expected 2"),
    "quotes": ('id,x\na,"1\n', "row that starts in line 2 is not valid CSV"),
    "empty": ("", "is empty"),
    "header only": ("id,x\n", "has a header and no rows"),
    "semicolons": ("id;x\na;1\n", "separated by semicolons"),
    "zero byte": ("id,x\na,\0\n", "line 2 holds a NUL byte"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_as_a_training_refuses_it(tmp_path, case):
    text, why = REFUSED[case]
    with pytest.raises(DataError, match=why):
        read(tmp_path, text)


def test_refused_alone_if_all_rows_lack_an_id(tmp_path):
    with pytest.raises(DataError, match="0 valid ids in 2 rows"):
        read(tmp_path, "id,x\n,1\n,2\n", alignment={"missing": "drop"})


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no such file"):
        read_id_file(job(), party(tmp_path / "none.csv"), tmp_path)


def test_no_room_for_the_ids(tmp_path):
    spec = party(written(tmp_path, "id\na\n"))
    with pytest.raises(DataError, match="cannot hold the ids"):
        read_id_file(job(), spec, tmp_path / "not there")


CELLS = st.text(st.sampled_from('ab,"\n\r é€\u2028\ufeff'), max_size=6)


@given(st.lists(st.tuples(st.integers(0, 99), CELLS, CELLS), min_size=1, max_size=12), st.randoms(), st.integers(1, 9))
def test_cells_come_out_as_they_went_in(rows, random, block):
    table = [["id", "a b", "Größe"], *([f"{number}-{i}", *cells] for i, (number, *cells) in enumerate(rows))]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(table)
    order = random.sample(range(len(rows)), random.randint(0, len(rows)))
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_file, "_BLOCK", block)
        patch.setattr(row_sorter, "_PART_BYTES", 10 * block)
        patch.setattr(row_sorter, "_BATCH", 2)
        found = aligned(Path(folder), text.getvalue(), order)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["aligned.csv", "bank.csv"]
    assert list(csv.reader(io.StringIO(found.decode(), newline=""))) == [table[0], *(table[row + 1] for row in order)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "gb18030"])
@pytest.mark.parametrize("block", [1, 2, 3, 5, 1 << 20])
def test_characters_may_lie_across_blocks(tmp_path, monkeypatch, encoding, block):
    monkeypatch.setattr(csv_file, "_BLOCK", block)
    name = "ü" if encoding == "cp1252" else "ü€𝄞" if encoding != "gb18030" else "中文"
    text = f"id,y\r\n{name},1\r\n\r\nb,{name}\r\n"
    own = read(tmp_path, text, encoding)
    assert (own.total, own.count) == (2, 2)
    assert aligned(tmp_path, text, [1, 0], encoding).decode() == f"id,y\nb,{name}\n{name},1\n"
    table = read_party(party(tmp_path / "bank.csv", encoding=encoding))
    assert table.id_columns == [[name, "b"]]


@pytest.mark.parametrize("block", [3, 4, 1 << 20])
@pytest.mark.parametrize(("encoding", "guess"), [("utf-8", "latin-1 or cp1252"), ("utf-16", "utf-16")])
def test_the_line_that_cannot_be_decoded_is_named(tmp_path, monkeypatch, block, encoding, guess):
    monkeypatch.setattr(csv_file, "_BLOCK", block)
    path = tmp_path / "bank.csv"
    start = b"\xff\xfe" if encoding == "utf-16" else b"id\n\xc3\xa9\n"
    path.write_bytes(start + b"b\nc\xe9\n" if encoding == "utf-8" else start + "id\na\nb\n".encode("utf-16-le"))
    line = 4 if encoding == "utf-8" else 1
    with pytest.raises(DataError, match=f"line {line} is not utf-8 text.*{guess}"):
        read_id_file(job(), party(path), tmp_path)


def test_rows_that_are_gone_are_noticed_and_nothing_is_written(tmp_path):
    spec = party(written(tmp_path, "id\na\n"))
    (tmp_path / "aligned.csv").write_text("older\n")
    with pytest.raises(DataError, match="has changed while its rows were aligned"):
        write_aligned(spec, np.array([0, 1]), tmp_path / "aligned.csv")
    assert (tmp_path / "aligned.csv").read_text() == "older\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aligned.csv", "bank.csv"]


@pytest.mark.parametrize("text", ["id\na\nb\n", "id\nbb\nc\nd\n"])
def test_another_file_in_its_place_is_noticed(tmp_path, text):
    own = read(tmp_path, "id\na\nb\n")
    (tmp_path / "bank.csv").unlink()
    spec = party(written(tmp_path, text))
    os.utime(spec.data, ns=(1, 1))
    with pytest.raises(DataError, match="has changed while its rows were aligned"):
        write_aligned(spec, np.array([0, 1]), tmp_path / "aligned.csv", own.stamp)
    assert not (tmp_path / "aligned.csv").exists()


def test_the_same_file_passes(tmp_path):
    own = read(tmp_path, "id\na\nb\n")
    write_aligned(party(tmp_path / "bank.csv"), np.array([1]), tmp_path / "aligned.csv", own.stamp)
    assert (tmp_path / "aligned.csv").read_text() == "id\nb\n"


def test_only_the_owner_can_read_the_aligned_rows(tmp_path):
    aligned(tmp_path, "id\na\n", [0])
    assert (tmp_path / "aligned.csv").stat().st_mode & 0o777 == 0o600
