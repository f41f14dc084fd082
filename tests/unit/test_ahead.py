"""The next item is made while one is worked on."""

import threading

import pytest

from leptonai.data.ahead import ahead

PATIENCE_S = 60.0


def test_items_come_in_their_order_also_those_that_are_none():
    assert list(ahead(iter([3, None, 0, 1]))) == [3, None, 0, 1]
    assert list(ahead(iter([]))) == []


def test_one_is_made_while_the_one_before_it_is_worked_on_and_no_more():
    making = [threading.Event() for _ in range(4)]

    def made():
        for number, event in enumerate(making):
            event.set()
            yield number

    for number in ahead(made()):
        if number + 1 < len(making):
            assert making[number + 1].wait(PATIENCE_S)
        assert not any(event.is_set() for event in making[number + 2 :])


def test_what_goes_wrong_is_raised_in_its_turn():
    def made():
        yield 1
        raise ValueError("the second")

    items = ahead(made())
    assert next(items) == 1
    with pytest.raises(ValueError, match="the second"):
        next(items)


def test_who_stops_early_leaves_nothing_at_work():
    makers = set()

    def made():
        while True:
            makers.add(threading.current_thread())
            yield None

    for _ in ahead(made()):
        break
    assert len(makers) == 1
    assert not any(each.is_alive() for each in makers)
