"""For all tests."""

import os

import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")  # before anything imports Keras

# So that a failure in there shows the values too, as one in a test does.
pytest.register_assert_rewrite(
    "leptonai.testing.engine_contract", "leptonai.testing.store_contract"
)
