import asyncio

from benchmarks.job_lists import measure


def test_the_benchmark_of_job_lists_finds_what_it_asks_for():
    figures = asyncio.run(measure(jobs=200, times=1))
    assert {name: figure["found"] for name, figure in figures.items()} == {
        "page_500": 200,
        "page_500_last": 0,
        "page_past_the_end": 0,
        "by_name": 1,
        "by_state": 100,
        "by_user": 4,
        "by_label": 10,
        "by_labels": 20,
        "by_node_group": 20,
        "by_all_of_it": 0,
        "archive": 0,
    }
