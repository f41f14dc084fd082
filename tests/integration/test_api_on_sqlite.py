"""Stories of the API once more, on the store that people use."""

import pytest
import test_api_endpoints
import test_api_jobs
import test_api_resources
import test_api_runs
from api_world import with_api

STORIES = [
    test.story
    for module in (test_api_jobs, test_api_endpoints, test_api_resources, test_api_runs)
    for test in vars(module).values()
    if hasattr(test, "story")
]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_on_sqlite(story, tmp_path):
    with_api(story, "sqlite:///{}/state.db")(tmp_path)
