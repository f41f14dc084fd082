import asyncio

import pytest

from leptonai.core.records import EndReason
from leptonai.errors import Unavailable
from leptonai.ports.engine import Attempt, Ended, Running, Seen, Unreachable
from leptonai.testing.fake_engine import FakeEngine, Run, Trouble, a_machine
from leptonai.testing.virtual_time import START_MS, Deadlock, VirtualClock, run


def an_engine(**options) -> FakeEngine:
    return FakeEngine([a_machine("n1"), a_machine("n2")], clock=VirtualClock(), **options)


def an_attempt(*command: str, id: str = "a.0", **fields) -> Attempt:
    return Attempt(id=id, node="n1", command=command, **fields)


async def state(engine: FakeEngine, id: str = "a.0"):
    seen = await engine.observe("n1")
    assert isinstance(seen, Seen)
    return seen.attempts.get(id)


def test_programs_take_virtual_time():
    async def main():
        engine = an_engine()
        await engine.start(an_attempt("fail", "3600", "7"), epoch=1)
        assert await state(engine) == Running(START_MS)
        await asyncio.sleep(3_601)
        end = (await state(engine)).how
        assert (end.exit_code, end.finished_at_ms) == (7, START_MS + 3_600_000)
        assert engine.history == [Run("a.0", "n1", START_MS, START_MS + 3_600_000)]

    run(main())


def test_a_lost_answer_still_had_its_effect_and_a_lost_ask_had_none():
    async def main():
        engine = an_engine()
        engine.trouble = lambda ask, node, attempt: Trouble(
            lost_answer=attempt == "a.0", lost_ask=attempt == "b.0"
        )
        for id in ("a.0", "b.0"):
            with pytest.raises(Unavailable):
                await engine.start(an_attempt("serve", "1", id=id), epoch=1)
        assert [run.attempt for run in engine.history] == ["a.0"]

    run(main())


def test_a_start_that_arrives_after_the_stop_runs_nothing():
    async def main():
        engine = an_engine(
            trouble=lambda ask, node, attempt: Trouble(ask_delay_s=10.0 if ask == "start" else 0.0)
        )
        start = asyncio.create_task(engine.start(an_attempt("serve", "1"), epoch=1))
        await asyncio.sleep(1)
        await engine.stop("n1", "a.0", grace_ms=0, epoch=1)
        await start
        assert (await state(engine)).how.reason is EndReason.STOPPED
        assert engine.history == []

    run(main())


def test_what_ran_on_a_node_that_died_is_unknown_until_it_comes_back_and_lost_then():
    async def main():
        engine = an_engine()
        await engine.start(an_attempt("serve", "1"), epoch=1)
        engine.kill_node("n1")
        assert isinstance(await engine.observe("n1"), Unreachable)
        with pytest.raises(Unavailable):
            await engine.start(an_attempt("serve", "1", id="b.0"), epoch=1)
        engine.revive_node("n1")
        assert (await state(engine)).how.reason is EndReason.LOST

    run(main())


def test_what_runs_on_a_node_that_is_cut_off_goes_on_until_it_is_fenced():
    async def main():
        engine = an_engine()
        await engine.start(an_attempt("serve", "1"), epoch=1)
        engine.cut_off("n1")
        engine.set_fenceable("n1", False)
        assert await engine.fence("n1", epoch=1) is False
        assert engine.history[0].ended_at_ms is None
        engine.set_fenceable("n1", True)
        assert await engine.fence("n1", epoch=1) is True
        assert engine.history[0].ended_at_ms == START_MS
        engine.reconnect("n1")
        assert isinstance(await state(engine), Ended)

    run(main())


def test_a_taken_port_and_an_unstartable_program_say_why():
    async def main():
        engine = an_engine()
        await engine.start(an_attempt("serve", "1", ports=(80,)), epoch=1)
        await engine.start(an_attempt("serve", "1", id="b.0", ports=(80,)), epoch=1)
        await engine.start(an_attempt("unstartable", "no disk", id="c.0"), epoch=1)
        messages = [(await state(engine, id)).how.message for id in ("b.0", "c.0")]
        assert messages == ["port 80 is taken on n1", "no disk"]

    run(main())


def test_readiness_follows_the_script():
    async def main():
        engine = an_engine()
        await engine.start(an_attempt("serve", "5"), epoch=1)
        await engine.start(an_attempt("never-ready", id="b.0"), epoch=1)
        await asyncio.sleep(4)
        assert not engine.is_ready("n1", "a.0")
        await asyncio.sleep(1)
        assert engine.is_ready("n1", "a.0")
        assert not engine.is_ready("n1", "b.0")

    run(main())


def test_waiting_for_ever_in_virtual_time_is_an_error():
    async def main():
        await asyncio.Event().wait()

    with pytest.raises(Deadlock, match="nothing can ever happen again"):
        run(main())
