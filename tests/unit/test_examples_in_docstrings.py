"""What docstrings of the optimisation library show is what happens."""

import doctest
import importlib

import pytest

from leptonai.core.scheduler import draining, optimize, rounds
from leptonai.core.scheduler.optimize import energy

SHOWN = [
    (name, getattr(module, name))
    for module, names in (
        (optimize, optimize.__all__),
        (energy, ("choose",)),
        (rounds, ("next_round",)),
        (draining, ("critical_from", "drain_rank")),
    )
    for name in names
    if not name.isupper()  # a number shows itself
]


@pytest.mark.parametrize(("name", "thing"), SHOWN, ids=[name for name, _ in SHOWN])
def test_every_public_name_shows_an_example_that_runs(name, thing):
    # Alone, as a reader would type it: with the names of its module, and nothing else.
    globs = vars(importlib.import_module(thing.__module__)).copy()
    found = [
        test for test in doctest.DocTestFinder().find(thing, name, globs=globs) if test.examples
    ]
    assert found, f"{name} has no example"
    runner = doctest.DocTestRunner()
    for test in found:
        runner.run(test)
    assert (runner.summarize(verbose=False).failed, runner.tries > 0) == (0, True)
