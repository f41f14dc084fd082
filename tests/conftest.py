"""For all tests."""

import pytest

# So that a failure in there shows the values too, as one in a test does.
pytest.register_assert_rewrite(
    "leptonai.testing.engine_contract",
    "leptonai.testing.points_contract",
    "leptonai.testing.store_contract",
)
