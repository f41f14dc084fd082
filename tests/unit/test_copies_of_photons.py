"""What a copy of a process has of its own, and what it must not have inherited."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from leptonai.serving.copying import Reading, renew


def draws() -> list[float]:
    return [random.random(), float(np.random.rand())]


def seeded() -> None:
    random.seed(7)
    np.random.seed(7)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """No later test shall draw other numbers, or have other threads, for this."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    kept = random.getstate(), np.random.get_state()
    yield
    random.setstate(kept[0])
    np.random.set_state(kept[1])


def test_two_copies_draw_different_numbers():
    seeded()
    inherited = draws()
    seen = {tuple(inherited)}
    for _ in range(3):
        seeded()
        renew()
        seen.add(tuple(draws()))
    assert len({each for drawn in seen for each in drawn}) == 8


def test_torch_draws_different_numbers_too_and_has_the_threads_that_it_may(monkeypatch):
    torch = pytest.importorskip("torch")
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    try:
        torch.manual_seed(7)
        inherited = float(torch.rand(1))
        torch.manual_seed(7)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        renew()
        assert float(torch.rand(1)) != inherited
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)


@pytest.mark.parametrize(
    ("read", "found"),
    [
        (lambda: os.environ.get("HUSH"), {"HUSH"}),
        (lambda: os.getenv("HUSH"), {"HUSH"}),
        (lambda: "HUSH" in os.environ, {"HUSH"}),
        (lambda: dict(os.environ), {"HUSH"}),
        (lambda: list(os.environ.items()), {"HUSH"}),
        (lambda: os.environ.get("PORT", "80"), {"PORT"}),
        (lambda: os.environ.get("HOME"), set()),
    ],
)
def test_who_reads_what_is_withheld_is_noticed(monkeypatch, tmp_path, read, found):
    monkeypatch.delenv("HUSH", raising=False)
    here = Path(__file__).parent
    before = type(os.environ)
    with Reading(here, secrets=frozenset({"HUSH"}), others=frozenset({"PORT"})) as reading:
        read()
    assert reading.found == found
    assert type(os.environ) is before


def test_libraries_may_look_at_all_variables_when_they_are_imported(monkeypatch, tmp_path):
    (tmp_path / "a_library.py").write_text("import os\nseen = dict(os.environ)\n")
    monkeypatch.syspath_prepend(tmp_path)
    here = Path(__file__).parent
    with Reading(here, secrets=frozenset({"HUSH"}), others=frozenset()) as reading:
        import a_library
    assert a_library.seen
    assert reading.found == set()
