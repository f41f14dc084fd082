"""Followers are served from memory while nothing is missing there, and never otherwise."""

import asyncio

from leptonai.core.records import Record
from leptonai.ports.store import Batch
from leptonai.stores.decisions import Told, key_of
from leptonai.stores.journal import MAX_KEPT, Journal
from leptonai.testing.store_contract import a_job, a_secret


def told(seq: int, record: Record, *, deleted: bool = False) -> Told:
    return Told(seq, key_of(record), record, deleted)


def test_only_the_newest_state_of_a_record_is_told() -> None:
    journal = Journal(10)
    older, newer, secret = a_job("j", seq=11), a_job("j", seq=13), a_secret("s")
    journal.extend(10, 12, [told(11, older), told(12, secret)])
    journal.extend(12, 14, [told(13, newer), told(14, secret, deleted=True)])
    assert journal.since(10) == Batch(14, (newer,), (secret,))
    assert journal.since(13) == Batch(14, (), (secret,))
    assert journal.since(14) == Batch(14, (), ())


def test_what_was_before_is_left_to_the_database() -> None:
    journal = Journal(10)
    journal.extend(10, 11, [told(11, a_job("j"))])
    assert journal.since(9) is None


def test_a_commit_of_another_process_in_between_is_left_to_the_database() -> None:
    journal = Journal(10)
    job = a_job("j", seq=13)
    journal.extend(12, 13, [told(13, job)])  # somebody else has 11 and 12
    assert journal.since(10) is None
    assert journal.since(12) == Batch(13, (job,), ())


def test_after_a_disturbance_the_database_is_asked_until_a_read_that_began_later() -> None:
    journal = Journal(10)
    before = journal.others_wrote
    journal.disturb()
    journal.reached(10, before)
    assert journal.since(10) is None
    journal.reached(12, journal.others_wrote)
    assert journal.since(12) == Batch(12, (), ())
    assert journal.since(10) is None


def test_an_answer_that_arrives_after_a_read_of_later_changes_is_not_told_again() -> None:
    journal = Journal(10)
    journal.reached(12, 0)
    journal.extend(10, 11, [told(11, a_job("j"))])
    assert journal.since(12) == Batch(12, (), ())


def test_it_keeps_a_bounded_number_of_changes() -> None:
    journal = Journal(0)
    count = MAX_KEPT + 10
    journal.extend(0, count, [told(seq, a_secret(f"s{seq}")) for seq in range(1, count + 1)])
    assert journal.since(9) is None
    batch = journal.since(10)
    assert batch is not None
    assert (batch.seq, len(batch.records)) == (count, MAX_KEPT)


def test_waiting_ends_with_the_next_change_and_never_begins_when_one_is_there() -> None:
    async def test() -> None:
        journal = Journal(10)
        waiting = asyncio.ensure_future(journal.wait(10))
        await asyncio.sleep(0)
        assert not waiting.done()
        journal.extend(10, 11, [told(11, a_job("j"))])
        await waiting
        await journal.wait(10)
        journal.disturb()
        await journal.wait(11)

    asyncio.run(test())
