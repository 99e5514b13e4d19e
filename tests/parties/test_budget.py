"""Budgets over runs: counted before the answer, on disk, never taken back; a damaged file is never begun anew."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.budget import Budget, left
from parties.errors import LocalProtocolError, PolicyError

ALIGNMENT, OTHER = "ab" * 32, "cd" * 32


def weights(seed: int, columns: int = 3, scores: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(columns, scores))


def opened(path: Path, run: str = "one", alignment: str = ALIGNMENT) -> Budget:
    budget = Budget.open(path, run)
    budget.bind(alignment)
    return budget


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "budget.json"


# counting


def test_without_a_file_the_present_run_alone_counts() -> None:
    budget = Budget()
    assert [budget.evaluations(number) for number in (1, 5, 9)] == [1, 5, 9], "as if the numbers before were opened"
    assert [budget.spend_evaluation(number, weights(number)) for number in (1, 2, 3)] == [1, 2, 3]
    assert budget.evaluations(4) == 4
    assert Budget().evaluations(1) == 1, "another run knows nothing of it"


def test_runs_on_one_alignment_add_up(path: Path) -> None:
    one = opened(path)
    assert [one.spend_evaluation(number, weights(number)) for number in (1, 2)] == [1, 2]
    two = opened(path, "two")
    assert two.evaluations(1) == 3
    assert [two.spend_evaluation(number, weights(number)) for number in (1, 2)] == [3, 4], "same weights, another run"
    assert one.spend_evaluation(3, weights(3)) == 5


def test_another_alignment_has_a_budget_of_its_own(path: Path) -> None:
    opened(path).spend_evaluation(1, weights(1))
    other = opened(path, "two", OTHER)
    assert other.evaluations(1) == other.spend_evaluation(1, weights(1)) == 1
    assert {entry.alignment for entry in left(path)} == {ALIGNMENT, OTHER}


def test_a_resumed_run_finds_what_it_has_opened_with_the_count_of_then(path: Path) -> None:
    killed = opened(path)
    counts = [killed.spend_evaluation(number, weights(number)) for number in range(1, 8)]
    opened(path, "between").spend_evaluation(1, weights(99))
    resumed = opened(path)
    before = path.read_bytes()
    assert resumed.evaluations(5) == 5
    assert [resumed.spend_evaluation(number, weights(number)) for number in range(5, 8)] == counts[4:]
    assert path.read_bytes() == before, "nothing new was opened"
    assert resumed.spend_evaluation(8, weights(8)) == 9, "behind the run in between"


def test_other_weights_at_the_same_number_are_another_equation(path: Path) -> None:
    """Whoever resumes again and again from one step with other weights gains nothing by it."""
    counts = []
    for attempt in range(5):
        budget = opened(path)
        counts.append(budget.spend_evaluation(1, weights(attempt)))
    assert counts == [1, 2, 3, 4, 5]
    assert opened(path).spend_evaluation(2, weights(0)) == 6
    assert opened(path).spend_evaluation(1, weights(2)) == 3


def test_weights_of_another_shape_are_others(path: Path) -> None:
    flat = np.zeros((6, 1))
    budget = opened(path)
    assert budget.spend_evaluation(1, flat) == 1
    assert budget.spend_evaluation(1, flat.reshape(3, 2)) == 2
    assert budget.spend_evaluation(1, -flat) == 3, "told apart by bytes: a sign of zero may be told apart, never merged"


def test_the_active_party_counts_as_the_passive_parties_do(tmp_path: Path) -> None:
    """Runs, a crash, a resume: both sides come to the same counts, so that the active party stops in time."""
    story = [("a", range(1, 6)), ("b", range(1, 3)), ("a", range(4, 8)), ("c", range(1, 2))]
    seen: dict[str, list[int]] = {"bank": [], "shop": []}
    for run, numbers in story:
        for name, counts in seen.items():
            budget = opened(tmp_path / name, run)
            for number in numbers:
                own = None if name == "bank" else weights(10 * ord(run) + number)
                expected = budget.evaluations(number)
                counts.append(budget.spend_evaluation(number, own))
                assert counts[-1] == expected
    assert seen["bank"] == seen["shop"] == [1, 2, 3, 4, 5, 6, 7, 4, 5, 8, 9, 10]


def test_equations_of_models_with_several_scores_count_in_full(path: Path) -> None:
    """Two evaluations of three classes are six equations: for one score per row as many evaluations."""
    softmax = opened(path)
    assert [softmax.spend_evaluation(n, weights(n, scores=3), scores=3) for n in (1, 2)] == [1, 2]
    logistic = opened(path, "two")
    assert logistic.evaluations(1) == logistic.spend_evaluation(1, weights(7)) == 7
    assert opened(path, "three").evaluations(1, scores=3) == 4, "seven equations are more than two of three"


def test_rows_count_over_runs_and_once_per_content(path: Path) -> None:
    one = opened(path)
    assert one.rows(30) == one.spend_rows(1, 30, [b"weights", b"scores"]) == 30
    again = opened(path)
    assert again.rows(30) == again.spend_rows(1, 30, [b"weights", b"scores"]) == 30
    assert again.spend_rows(1, 30, [b"weight", b"sscores"]) == 60, "parts are told apart by their length"
    two = opened(path, "two")
    assert two.rows(10) == two.spend_rows(1, 10, [b"weights", b"scores"]) == 70
    assert two.evaluations(1) == 1, "rows are no equations"


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_not_permitted_is_not_counted(path: Path, kept: bool) -> None:
    budget = opened(path) if kept else Budget()
    budget.spend_evaluation(1, weights(1))

    def forbid(count: int) -> None:
        raise PolicyError(f"{count} are too many")

    with pytest.raises(PolicyError, match="2 are too many"):
        budget.spend_evaluation(2, weights(2), permit=forbid)
    with pytest.raises(PolicyError, match="^9 are"):
        budget.spend_rows(1, 9, [b""], forbid)
    assert (budget.evaluations(2), budget.rows(1)) == (2, 1)


STEPS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.integers(0, 2)), max_size=25)


@given(steps=STEPS)
def test_whatever_runs_do_each_new_equation_counts_and_each_old_one_stays(steps: list[tuple[str, int, int]]) -> None:
    """The account is shared by hand here: entries of two runs, in memory."""
    runs = {name: Budget(run=name) for name in "ab"}
    runs["b"]._account = runs["a"]._account
    known: dict[tuple[str, int, int], int] = {}
    for step in steps:
        run, number, seed = step
        count = runs[run].spend_evaluation(number, weights(seed))
        if step in known:
            assert count == known[step]
        else:
            assert count > max(known.values(), default=0) and count >= number
            known[step] = count
    assert len(set(known.values())) == len(known)


# the file


def test_it_is_on_disk_before_the_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New file written and synced, then named, then its directory synced; all before the count is returned."""
    budget = opened(path)
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def fsync(number: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file")
        sync(number)

    def rename(self: Path, target: Path) -> Path:
        steps.append(f"{self.name} becomes {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    budget.spend_evaluation(1, weights(1))
    assert steps == ["file", "budget.json.new becomes budget.json", "folder"]


def test_a_process_that_dies_right_after_has_counted(path: Path) -> None:
    code = (
        "import os, sys; import numpy as np; from pathlib import Path; from parties.budget import Budget\n"
        f"b = Budget.open(Path({str(path)!r}), 'one'); b.bind({ALIGNMENT!r})\n"
        "b.spend_evaluation(1, np.zeros((2, 1))); b.spend_evaluation(2, np.ones((2, 1))); os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert opened(path, "two").evaluations(1) == 3


def test_only_its_owner_reads_it(path: Path) -> None:
    old = os.umask(0)
    try:
        left_behind = path.with_name("budget.json.new")  # by a process that died
        left_behind.touch(0o600)
        left_behind.write_text("half a budget")
        opened(path).spend_evaluation(1, weights(1))
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"budget.json": 0o600, "budget.json.lock": 0o600}


def test_it_holds_no_weights_and_no_rows(path: Path) -> None:
    budget = opened(path)
    budget.spend_evaluation(1, weights(1))
    budget.spend_rows(1, 5, [b"secret row"])
    text = path.read_bytes()
    assert b"secret" not in text and weights(1).tobytes() not in text
    (account,) = json.loads(text.splitlines()[0])["alignments"].values()
    assert {key for entry in account["opened"] for key in entry} == {"run", "number", "content", "size", "count"}


def damages(content: bytes) -> dict[str, bytes]:
    line, seal = content.splitlines(keepends=True)
    bent = json.loads(line)
    entries = bent["alignments"][ALIGNMENT]["opened"]
    entries[0], entries[1] = entries[1], entries[0]
    fewer = json.loads(line)
    fewer["alignments"][ALIGNMENT]["opened"][1]["count"] = 1
    negative = json.loads(line)
    negative["alignments"][ALIGNMENT]["opened"][0]["size"] = -1

    def sealed(value: object) -> bytes:
        text = value if isinstance(value, bytes) else json.dumps(value).encode()
        return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"

    return {
        "empty": b"",
        "cut": content[:-1],
        "cut in half": content[: len(content) // 2],
        "without its seal": line,
        "more behind": content + b"\n",
        "a digit changed": content.replace(b'"count":2', b'"count":1'),
        "no JSON, sealed": sealed(b"{"),
        "deep, sealed": sealed(b"[" * 100_000),
        "no text, sealed": sealed(b"\xff"),
        "another version, sealed": sealed(json.loads(line) | {"version": 2}),
        "a further key, sealed": sealed(json.loads(line) | {"more": 1}),
        "no digest, sealed": sealed({"alignments": {"x": {}}}),
        "out of order, sealed": sealed(bent),
        "counts that do not grow, sealed": sealed(fewer),
        "negative, sealed": sealed(negative),
    }


DAMAGES = [
    "empty", "cut", "cut in half", "without its seal", "more behind", "a digit changed", "no JSON, sealed",
    "deep, sealed", "no text, sealed", "another version, sealed", "a further key, sealed", "no digest, sealed",
    "out of order, sealed", "counts that do not grow, sealed", "negative, sealed",
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_left_as_it_is(path: Path, damage: str) -> None:
    budget = opened(path)
    for number in (1, 2):
        budget.spend_evaluation(number, weights(number))
    bad = damages(path.read_bytes())[damage]
    assert bad != path.read_bytes()
    path.write_bytes(bad)
    uses = (
        lambda: Budget.open(path, "two"),
        lambda: budget.spend_evaluation(3, weights(3)),
        lambda: budget.evaluations(3),
        lambda: left(path),
    )
    for use in uses:
        with pytest.raises(
            PolicyError, match=r"^budget .*budget\.json: damaged, .* is not begun anew by itself"
        ) as error:
            use()
        assert error.value.exit_code == 2 and "\n" not in str(error.value)
    assert path.read_bytes() == bad


def test_each_single_bit_is_minded(path: Path) -> None:
    opened(path).spend_evaluation(1, weights(1))
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(PolicyError, match="damaged"):
            left(path)


def test_a_file_that_vanishes_during_a_run_is_not_begun_anew(path: Path) -> None:
    budget = opened(path)
    budget.spend_evaluation(1, weights(1))
    path.unlink()
    with pytest.raises(PolicyError, match=r"cannot be used \(No such file or directory\)"):
        budget.spend_evaluation(2, weights(2))
    assert not path.exists()


def test_a_full_disk_refuses_the_answer_and_keeps_what_was_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = opened(path)
    budget.spend_evaluation(1, weights(1))

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(PolicyError, match="No space left on device"):
        patch.setattr(os, "fsync", full)
        budget.spend_evaluation(2, weights(2))
    assert budget.evaluations(2) == budget.spend_evaluation(2, weights(2)) == 2


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="cannot be used"):
        Budget.open(tmp_path / "nowhere" / "budget.json", "one")


def test_several_runs_at_once_do_not_lose_a_count(path: Path) -> None:
    def run(name: int) -> list[int]:
        budget = opened(path, f"run {name}")
        return [budget.spend_evaluation(number, weights(number)) for number in range(1, 6)]

    with ThreadPoolExecutor(4) as pool:
        counts = [count for counts in pool.map(run, range(4)) for count in counts]
    assert sorted(counts) == list(range(1, 21))


def test_two_processes_at_once_do_not_lose_a_count(path: Path) -> None:
    code = (
        "import sys; import numpy as np; from pathlib import Path; from parties.budget import Budget\n"
        f"b = Budget.open(Path({str(path)!r}), sys.argv[1]); b.bind({ALIGNMENT!r})\n"
        "print(*[b.spend_evaluation(n, np.full((2, 1), n)) for n in range(1, 11)])\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE) for name in ("one", "two")]
    counts = [int(word) for run in runs for word in run.communicate()[0].split()]
    assert sorted(counts) == list(range(1, 21))


@pytest.mark.parametrize("run", ["", "x" * 201])
def test_a_run_needs_an_id(path: Path, run: str) -> None:
    with pytest.raises(LocalProtocolError, match="needs an id"):
        Budget.open(path, run)


def test_nothing_is_spent_before_the_alignment_is_known(path: Path) -> None:
    budget = Budget.open(path, "one")
    for use in (lambda: budget.evaluations(1), lambda: budget.spend_evaluation(1, weights(1)), lambda: budget.rows(1)):
        with pytest.raises(LocalProtocolError, match="before the alignment"):
            use()
    assert left(path) == ()


# what is left


def test_what_is_left_per_alignment(path: Path) -> None:
    assert left(path) == ()
    for run in ("one", "two"):
        budget = opened(path, run)
        for number in (1, 2):
            budget.spend_evaluation(number, weights(number), columns=10)
        budget.spend_rows(1, 40, [run.encode()])
    opened(path, "three", OTHER).spend_rows(1, 7, [b""])
    first, second = left(path, scored_rows=100)
    assert (first.alignment, first.runs, first.equations, first.rows) == (ALIGNMENT, 2, 4, 80)
    assert (first.equations_left, first.rows_left) == (5, 20), "the tenth of ten equations would be one too many"
    assert (second.runs, second.equations, second.equations_left, second.rows_left) == (1, 0, None, 93)
    assert [entry.rows_left for entry in left(path)] == [None, None]
    assert [entry.rows_left for entry in left(path, scored_rows=50)] == [0, 43]
