"""The rows of a CSV, one after the other, whatever its size.

The file is read in blocks, decoded and parsed as it comes; nothing of it stays in memory but the row that the caller
has. Messages name the party, file and line, and never a cell's value.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from parties.errors import DataError

NAMED = "data (it is relative to the file that names it)"

_BLOCK = 1 << 20
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def csv_rows(path: Path, encoding: str, source: str, named: str = NAMED) -> Iterator[tuple[int, list[str]]]:
    """Yield the header, then every row: the line it starts in, and its cells as they stand in the file.

    Quoted line breaks are fine, ragged rows are not; blank lines are passed over.

    Parameters
    ----------
    source : str
        Party and file, as messages name them.
    named : str
        What names the path, and is to be corrected where there is no such file.

    Raises
    ------
    DataError
        A file that cannot be read, decoded or parsed, or that has no rows.
    """
    reader = csv.reader(_lines(path, encoding, source, named), strict=True)
    width = rows = 0
    start = 1
    try:
        for row in reader:
            blank = not row or (len(row) == 1 and not row[0].strip())
            if not blank and not width:
                width = len(row)
                _check_separator([spelled(name) for name in row], source)
                yield start, row
            elif not blank:
                if len(row) != width:
                    raise DataError(
                        f"{source}: line {start} has {len(row)} fields, expected {width} as in the header; "
                        "put text that holds commas in double quotes, or correct the line"
                    )
                rows += 1
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{source}: the row that starts in line {start} is not valid CSV ({error}); expected double quotes in "
            "pairs and fields under 128 KiB; correct the line"
        ) from None
    if not rows:
        raise DataError(f"{source}: has a header and no rows; expected one line per row below it")


def spelled(name: str) -> str:
    """One spelling for names with accents, which macOS and Windows write differently, on one line."""
    return unicodedata.normalize("NFC", " ".join(part.strip() for part in name.split("\n")).strip())


def check_column(name: str, option: str, columns: Iterable[str], source: str) -> None:
    """Refuse an option that names a column which is not there, and offer the nearest one.

    Raises
    ------
    DataError
    """
    names = list(columns)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1) or [
        other for other in names if other.casefold() == name.casefold()
    ]
    hint = f'; the nearest is "{near[0]}"' if near else f"; the file has {len(names)} columns"
    raise DataError(f'{source}: {option} names the column "{name}", which is not in the header{hint}; correct {option}')


def _lines(path: Path, encoding: str, source: str, named: str) -> Iterator[str]:
    """Lines of the text with their ends, as a file opened with ``newline=""`` gives them."""
    pending = ""
    for text in _texts(path, encoding, source, named):
        lines = io.StringIO(pending + text, newline="").readlines()
        pending = lines.pop() if lines and not lines[-1].endswith("\n") else ""  # a "\r" may be half of an end
        yield from lines
    if pending:
        yield from io.StringIO(pending, newline="")


def _texts(path: Path, encoding: str, source: str, named: str) -> Iterator[str]:
    """The text of the file in pieces, without its byte-order mark."""
    decoder = _decoder(encoding, source)
    first, line, begun, start = True, 1, False, b""
    for block in _blocks(path, source, named):
        start = start or block[:2]
        begun = begun or bool(block.strip())
        before = line - decoder.getstate()[0].count(b"\n")  # bytes of half a character count as not yet read
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise _undecodable(before + error.object[: error.start].count(b"\n"), start, encoding, source) from None
        except ValueError:
            raise _no_encoding(source) from None
        if "\0" in text:
            raise _zero_byte(before + text[: text.index("\0")].count("\n"), source)
        line += block.count(b"\n")
        yield text.removeprefix("\ufeff") if first else text
        first = first and not text
    if not begun:
        raise DataError(f"{source}: is empty; expected a header line and one line per row")


def _blocks(path: Path, source: str, named: str) -> Iterator[bytes]:
    """The file's bytes, and an empty block at the end; or a DataError that says why there are none."""
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except FileNotFoundError:
        raise DataError(f"{source}: there is no such file; correct {named}") from None
    except IsADirectoryError:
        raise DataError(f"{source}: is a directory, expected a CSV file; correct data") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no valid path"
        raise DataError(f"{source}: cannot be read ({reason}); correct data or the file's permissions") from None
    yield b""


def _decoder(encoding: str, source: str) -> codecs.IncrementalDecoder:
    try:
        "a".encode(encoding)  # refuses codecs that are not of text
        return codecs.getincrementaldecoder(encoding)()
    except (LookupError, ValueError):
        raise _no_encoding(source) from None


def _check_separator(header: Sequence[str], source: str) -> None:
    """Name the separator where the file is separated by something else than commas."""
    for separator, name in _SEPARATORS.items():
        if len(header) == 1 and separator in header[0]:
            raise DataError(
                f"{source}: its header is separated by {name}, expected commas; export it as comma-separated CSV "
                "(numbers with a decimal point)"
            )


def _undecodable(line: int, start: bytes, encoding: str, source: str) -> DataError:
    guess = "utf-16" if start in (b"\xff\xfe", b"\xfe\xff") else "latin-1 or cp1252"
    return DataError(
        f"{source}: line {line} is not {encoding} text; say what the file is with the option encoding, for "
        f"example {guess}, or save it as UTF-8"
    )


def _no_encoding(source: str) -> DataError:
    return DataError(
        f"{source}: the option encoding names no text encoding that Python knows; expected for example utf-8, "
        "utf-16, latin-1 or cp1252"
    )


def _zero_byte(line: int, source: str) -> DataError:
    return DataError(
        f"{source}: line {line} holds a NUL byte; expected a text file; if it is UTF-16 text, set the option "
        "encoding to utf-16-le or utf-16-be, else export it as CSV again"
    )
