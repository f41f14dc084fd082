"""For all tests."""

import os
import signal

import pytest
from hypothesis import settings

os.environ.setdefault("KERAS_BACKEND", "torch")  # before anything imports Keras

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # each of several processes at once

# Whoever runs the tests in the background of a shell has them ignore it, and some of them send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# So that a failure in there shows the values too, as one in a test does.
pytest.register_assert_rewrite(
    "gateway_world",
    "leptonai.testing.engine_contract",
    "leptonai.testing.points_contract",
    "leptonai.testing.values_contract",
    "leptonai.testing.store_contract",
)

# No test depends on how fast the machine is. CI tries the same examples every time: a change is not
# held up by what it did not do. Whoever runs the tests, and `make test-random`, tries new ones.
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "random")
