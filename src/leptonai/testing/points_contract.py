"""The promise of `leptonai.ports.points` as a test suite.

Hold a store to it as to `leptonai.testing.store_contract`, by telling how to open one.
"""

import asyncio
import math
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leptonai.blobs.points import Batch, Series
from leptonai.core import points as rules
from leptonai.core.points import Sum
from leptonai.errors import NotFound, TooLarge
from leptonai.ports.points import PointStore, Wanted
from leptonai.ports.store import Store

WS, RUN = "default", "0" * 32
ALL = Wanted(most=1 << 40)
Point = tuple[int, float]


def writer(number: int) -> str:
    return f"{number:016x}"


def a_series(key: str, points: Iterable[Point]) -> Series:
    """Each point's time is a thousand and its step, in milliseconds."""
    steps, values = zip(*points, strict=True)
    return Series(
        key,
        array("q", steps).tobytes(),
        array("d", values).tobytes(),
        array("q", (1_000 + step for step in steps)).tobytes(),
    )


def a_batch(
    sequence: int,
    *,
    by: int = 1,
    stream: int = 0,
    resume: int | None = None,
    **points: Iterable[Point],
) -> Batch:
    series = tuple(a_series(key, each) for key, each in points.items())
    return Batch(writer(by), sequence, stream, series, resume)


async def curve(points: PointStore, key: str, wanted: Wanted = ALL) -> list[Point]:
    found, _ = await points.read(WS, RUN, key, wanted)
    assert found.times.tolist() == [1_000 + step for step in found.steps.tolist()]
    return list(zip(found.steps.tolist(), found.values.tolist(), strict=True))


async def summary(points: PointStore) -> dict[str, Sum]:
    return (await points.known(WS, [RUN]))[RUN].summary


class Model:
    """What a reader should see, the slow and plain way: every point that arrived, with the attempt
    of who sent it."""

    def __init__(self) -> None:
        self.arrived: list[tuple[str, int, int, int, float]] = []
        self.cuts: list[tuple[int, int, int]] = []
        self.writers: dict[str, tuple[int, int]] = {}
        self.attempt = 0

    def take(self, batch: Batch) -> None:
        sequence, attempt = self.writers.get(batch.writer, (0, self.attempt))
        if batch.sequence <= sequence:
            return
        if batch.resume is not None:
            self.attempt += 1
            attempt = self.attempt
            self.cuts.append((attempt, batch.stream, batch.resume))
        self.writers[batch.writer] = batch.sequence, attempt
        for series in batch.series:
            steps, values = array("q", series.steps), array("d", series.values)
            for step, value in zip(steps, values, strict=True):
                self.arrived.append((series.key, batch.stream, attempt, step, value))

    def counted(self, key: str) -> list[tuple[int, int, float]]:
        """(attempt, step, value) of what no resume superseded."""
        return [
            (attempt, step, value)
            for name, stream, attempt, step, value in self.arrived
            if name == key
            and not any(a > attempt and s == stream and step > cut for a, s, cut in self.cuts)
        ]

    def curve(self, key: str) -> list[Point]:
        newest: dict[int, tuple[int, float]] = {}
        for attempt, step, value in self.counted(key):
            if attempt >= newest.get(step, (-1, 0.0))[0]:
                newest[step] = attempt, value
        return [(step, newest[step][1]) for step in sorted(newest)]


steps_and_values = st.lists(
    st.tuples(
        st.integers(0, 12), st.sampled_from([0.5, -3.0, 1e300, math.inf, -math.inf, math.nan])
    ),
    min_size=1,
    max_size=5,
)


@st.composite
def histories(draw: st.DrawFn) -> list[Batch]:
    """Processes that write and resume, in any interleaving; some batches arrive twice, some writers
    are killed and what they sent arrives late."""
    sent: dict[int, int] = {}
    history: list[Batch] = []
    for _ in range(draw(st.integers(1, 14))):
        if history and draw(st.integers(0, 4)) == 0:
            history.append(draw(st.sampled_from(history)))
            continue
        by = draw(st.integers(1, 4))
        sent[by] = sent.get(by, 0) + 1
        keys = draw(st.sets(st.sampled_from(["loss", "lr"]), max_size=2))
        resume = draw(st.one_of(st.none(), st.integers(0, 12)))
        points = {key: draw(steps_and_values) for key in sorted(keys)}
        history.append(a_batch(sent[by], by=by, stream=by % 2, resume=resume, **points))
    return history


class PointsContract:
    """Every store passes every test."""

    async def open(self, where: Path) -> Store:
        raise NotImplementedError

    def story(self, where: Path, test: Any) -> None:
        """Run a test with the points of a store, in which the run is opened."""

        async def with_store() -> None:
            store = await self.open(where)
            try:
                await store.points.forget(WS, RUN)
                await store.points.open(WS, RUN)
                await test(store.points)
            finally:
                await store.close()

        asyncio.run(with_store())

    def test_points_are_read_back_by_key_and_step(self, tmp_path: Path) -> None:
        async def test(points: PointStore) -> None:
            assert await points.append(
                WS, RUN, a_batch(1, loss=[(0, 2.0), (1, 1.0)], acc=[(1, 0.5)]), 7
            )
            assert await points.append(WS, RUN, a_batch(2, loss=[(2, 0.5)]), 9)
            assert await curve(points, "loss") == [(0, 2.0), (1, 1.0), (2, 0.5)]
            assert await curve(points, "acc") == [(1, 0.5)]
            assert await curve(points, "nothing") == []
            assert await summary(points) == {
                "loss": Sum(0.5, 2, 1_002, 0, 0.5, 2.0),
                "acc": Sum(0.5, 1, 1_001, 0, 0.5, 0.5),
            }
            known = (await points.known(WS, [RUN, "f" * 32]))[RUN]
            assert (known.count, known.heard_at_ms) == (4, 9)
            assert [*await points.known("other", [RUN])] == []

        self.story(tmp_path, test)

    def test_a_batch_that_is_sent_twice_is_stored_once(self, tmp_path: Path) -> None:
        async def test(points: PointStore) -> None:
            first = a_batch(1, loss=[(0, 2.0)])
            assert await points.append(WS, RUN, first, 1)
            assert await points.append(WS, RUN, a_batch(2, loss=[(0, 1.0)]), 2)
            assert not await points.append(WS, RUN, first, 3)
            assert await points.append(WS, RUN, a_batch(1, by=2, loss=[(5, 5.0)]), 4)
            assert await curve(points, "loss") == [(0, 1.0), (5, 5.0)]

        self.story(tmp_path, test)

    def test_a_value_may_be_infinite_or_not_a_number(self, tmp_path: Path) -> None:
        async def test(points: PointStore) -> None:
            values = [math.nan, math.inf, -math.inf, 1.0]
            await points.append(WS, RUN, a_batch(1, loss=[*enumerate(values)]), 1)
            assert repr(await curve(points, "loss")) == repr([*enumerate(values)])
            assert (await summary(points))["loss"] == Sum(1.0, 3, 1_003, 0, -math.inf, math.inf)
            await points.append(WS, RUN, a_batch(2, bad=[(0, math.nan)]), 1)
            assert math.isnan((await summary(points))["bad"].min)

        self.story(tmp_path, test)

    def test_what_was_recorded_past_the_checkpoint_is_superseded(self, tmp_path: Path) -> None:
        async def test(points: PointStore) -> None:
            await points.append(WS, RUN, a_batch(1, loss=[(s, 10.0 + s) for s in range(6)]), 1)
            await points.append(WS, RUN, a_batch(1, by=2, stream=1, loss1=[(9, 1.0)]), 1)
            await points.append(WS, RUN, a_batch(1, by=3, resume=2), 2)
            assert await curve(points, "loss") == [(0, 10.0), (1, 11.0), (2, 12.0)]
            assert await curve(points, "loss1") == [(9, 1.0)]  # of another rank
            await points.append(WS, RUN, a_batch(2, by=3, loss=[(3, 0.3)]), 3)
            # What the killed process had sent arrives late, and is still old.
            await points.append(WS, RUN, a_batch(2, loss=[(1, 0.1), (3, 99.0), (4, 99.0)]), 4)
            assert await curve(points, "loss") == [(0, 10.0), (1, 0.1), (2, 12.0), (3, 0.3)]
            found = (await summary(points))["loss"]
            assert (found.last, found.step, found.min, found.max) == (0.3, 3, 0.1, 12.0)

        self.story(tmp_path, test)

    def test_the_newest_attempt_counts_where_two_recorded_a_step(self, tmp_path: Path) -> None:
        async def test(points: PointStore) -> None:
            await points.append(WS, RUN, a_batch(1, loss=[(0, 1.0), (1, 2.0)]), 1)
            await points.append(WS, RUN, a_batch(1, by=2, resume=5, loss=[(1, 3.0)]), 2)
            await points.append(WS, RUN, a_batch(2, loss=[(1, 4.0)]), 3)
            assert await curve(points, "loss") == [(0, 1.0), (1, 3.0)]

        self.story(tmp_path, test)

    @pytest.mark.parametrize("fold_at", [1, 2, 3, 4])
    def test_where_two_ranks_write_one_key_the_later_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold_at: int
    ) -> None:
        monkeypatch.setattr(rules, "FOLD_BATCHES", fold_at)

        async def test(points: PointStore) -> None:
            for at in range(4):
                batch = a_batch(1 + at // 2, by=at % 2, stream=at % 2, loss=[(1, float(at))])
                await points.append(WS, RUN, batch, 1)
                assert await curve(points, "loss") == [(1, float(at))]
                assert (await summary(points))["loss"].last == float(at)

        self.story(tmp_path, test)

    def test_many_batches_are_one_curve(self, tmp_path: Path) -> None:
        async def test(points: PointStore) -> None:
            count = rules.FOLD_BATCHES * 3 + 7
            for at in range(count):
                batch = a_batch(at + 1, loss=[(2 * at + 1, 0.1 * at), (2 * at, 7.0)])
                await points.append(WS, RUN, batch, at)
            expected = [(s, 0.1 * (s // 2) if s % 2 else 7.0) for s in range(2 * count)]
            assert await curve(points, "loss") == expected
            some = Wanted(from_step=100, to_step=110, most=1_000)
            assert await curve(points, "loss", some) == expected[100:111]
            few, there = await points.read(WS, RUN, "loss", Wanted(most=10))
            assert (len(few) <= 10, there) == (True, 2 * count)
            assert max(few.values) == max(value for _, value in expected)
            large = [(s, float(s)) for s in range(3 * rules.CHUNK_POINTS)]
            await points.append(WS, RUN, a_batch(count + 1, loss=large), 1)
            await points.append(WS, RUN, a_batch(count + 2, loss=large), 1)
            await points.append(WS, RUN, a_batch(count + 3, loss=large), 1)
            assert await curve(points, "loss") == large

        self.story(tmp_path, test)

    def test_a_run_that_was_removed_takes_no_points(self, tmp_path: Path) -> None:
        async def test(points: PointStore) -> None:
            await points.append(WS, RUN, a_batch(1, loss=[(0, 1.0)]), 1)
            await points.forget(WS, RUN)
            with pytest.raises(NotFound):
                await points.append(WS, RUN, a_batch(2, loss=[(1, 1.0)]), 1)
            with pytest.raises(NotFound):
                await points.read(WS, RUN, "loss", ALL)
            await points.open(WS, RUN)
            await points.open(WS, RUN)
            assert await curve(points, "loss") == []

        self.story(tmp_path, test)

    def test_keys_and_points_are_bounded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rules, "MAX_RUN_KEYS", 1)
        monkeypatch.setattr(rules, "MAX_RUN_POINTS", 3)

        async def test(points: PointStore) -> None:
            await points.append(WS, RUN, a_batch(1, loss=[(0, 1.0), (1, 1.0)]), 1)
            for refused in (a_batch(2, lr=[(0, 1.0)]), a_batch(2, loss=[(2, 1.0), (3, 1.0)])):
                with pytest.raises(TooLarge):
                    await points.append(WS, RUN, refused, 1)
            assert await points.append(WS, RUN, a_batch(2, loss=[(2, 1.0)]), 1)
            assert await curve(points, "loss") == [(0, 1.0), (1, 1.0), (2, 1.0)]

        self.story(tmp_path, test)

    @pytest.mark.parametrize("fold_at", [1, 3, 1_000])
    def test_any_interleaving_shows_what_the_plain_model_shows(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fold_at: int
    ) -> None:
        monkeypatch.setattr(rules, "FOLD_BATCHES", fold_at)

        @given(histories())
        @settings(
            max_examples=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def holds(history: list[Batch]) -> None:
            async def test(points: PointStore) -> None:
                model = Model()
                for batch in history:
                    model.take(batch)
                    await points.append(WS, RUN, batch, 1)
                    # Killed here or not: what is read is what was stored.
                    for key in ("loss", "lr"):
                        assert repr(await curve(points, key)) == repr(model.curve(key))
                    found = await summary(points)
                    assert {*found} == {key for key in ("loss", "lr") if model.counted(key)}
                    for key, each in found.items():
                        counted = [v for _, _, v in model.counted(key) if v == v]
                        assert repr((each.step, each.last)) == repr(model.curve(key)[-1])
                        assert not counted or (each.min, each.max) == (min(counted), max(counted))

            self.story(tmp_path, test)

        holds()
