import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import ConfigError
from vfl.paillier import split
from vfl.paillier.split import even_cuts, run_parts, thread_count


@pytest.mark.parametrize(
    "asked", ["0", "-1", "257", "1.5", "two", " 2", "2 ", "1e2", "+2", "\u0662", "\u00b2", "9" * 5000]
)
def test_nonsense_is_refused(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_THREADS", asked)
    with pytest.raises(ConfigError, match="VFL_THREADS.*from 1 to 256"):
        thread_count()


@pytest.mark.parametrize("asked", ["1", "2", "07", "256"])
def test_the_environment_sets_the_number(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VFL_THREADS", asked)
    assert thread_count() == int(asked)


@pytest.mark.parametrize("unset", [None, ""])
def test_by_default_all_cores_of_this_process(unset: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VFL_THREADS", raising=False)
    if unset is not None:
        monkeypatch.setenv("VFL_THREADS", unset)
    assert 1 <= thread_count() <= (os.cpu_count() or 1)


@given(st.integers(0, 500), st.integers(1, 20), st.integers(1, 16))
def test_cuts_are_even_and_cover_everything(count: int, parts: int, multiple: int) -> None:
    cuts = even_cuts(count, parts, multiple)
    assert (cuts[0], cuts[-1]) == (0, count)
    assert 1 <= len(cuts) - 1 <= parts
    assert all(start % multiple == 0 for start in cuts[:-1])
    sizes = [stop - start for start, stop in zip(cuts, cuts[1:], strict=False)]
    assert all(size > 0 for size in sizes) or count == 0
    assert max(sizes) - min(sizes) < 2 * multiple


@pytest.mark.parametrize("parts", [1, 2, 7])
def test_every_part_is_done_once(parts: int) -> None:
    done = [0] * 100

    def work(start: int, stop: int) -> None:
        for i in range(start, stop):
            done[i] += 1

    run_parts(work, even_cuts(100, parts))
    assert done == [1] * 100


def test_parts_run_side_by_side() -> None:
    both = threading.Barrier(2, timeout=30.0)
    run_parts(lambda start, stop: both.wait() and None, [0, 1, 2])


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_in_any_part_is_raised_after_all_have_ended(failing: int) -> None:
    ended = []

    def work(start: int, stop: int) -> None:
        if start == failing:
            raise ValueError(f"part {start}")
        ended.append(start)

    with pytest.raises(ValueError, match=f"part {failing}"):
        run_parts(work, [0, 1, 2, 3])
    assert sorted(ended) == [i for i in range(3) if i != failing]


def test_all_parts_are_done_when_no_thread_takes_work_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the interpreter's end, for background threads that are still at work."""
    ended = ThreadPoolExecutor(1)
    ended.shutdown()
    monkeypatch.setattr(split, "_pool", lambda process: ended)
    done = []
    run_parts(lambda start, stop: done.append((start, stop)), [0, 3, 5, 6])
    assert done == [(0, 3), (3, 5), (5, 6)]
