"""Files that are replaced whole or not at all."""

import pytest

from parties.durable import replaced_durably, write_durably


def test_it_stands_in_its_place_once_it_is_whole(tmp_path):
    path = tmp_path / "file"
    write_durably(path, b"old")
    with replaced_durably(path) as file:
        file.write(b"ne")
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_whatever_goes_wrong_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file"
    write_durably(path, b"old")
    with pytest.raises(error), replaced_durably(path) as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_durably(tmp_path / "none" / "file", b"")
