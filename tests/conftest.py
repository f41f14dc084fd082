"""For all tests."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("KERAS_BACKEND", "torch")  # before anything imports Keras

# So that a failure in there shows the values too, as one in a test does.
pytest.register_assert_rewrite(
    "gateway_world",
    "leptonai.testing.engine_contract",
    "leptonai.testing.points_contract",
    "leptonai.testing.store_contract",
)

# No test depends on how fast the machine is.
settings.register_profile("lepton", deadline=None)
settings.load_profile("lepton")
