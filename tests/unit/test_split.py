from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.data import split

labelled_samples = st.dictionaries(
    st.integers(0, 10_000), st.sampled_from("abc"), min_size=1, max_size=60
)
seeds = st.integers(0, 1_000)
shares = st.floats(0.01, 0.99)


@given(labelled_samples, seeds, shares)
def test_every_sample_is_on_exactly_one_side(
    label_of: dict[int, str], seed: int, share: float
) -> None:
    parts = split([*label_of], [*label_of.values()], seed=seed, held_out=share)
    assert sorted(parts.train + parts.held_out) == sorted(label_of)


@given(labelled_samples, seeds, shares)
def test_every_class_gives_its_share_and_keeps_one(
    label_of: dict[int, str], seed: int, share: float
) -> None:
    parts = split([*label_of], [*label_of.values()], seed=seed, held_out=share)
    out = Counter(label_of[sample] for sample in parts.held_out)
    for label, count in Counter(label_of.values()).items():
        expected = 0 if count == 1 else min(count - 1, max(1, round(count * share)))
        assert out[label] == expected


@given(labelled_samples, seeds, shares, st.randoms())
def test_the_order_of_the_samples_does_not_matter(
    label_of: dict[int, str], seed: int, share: float, random: object
) -> None:
    mixed = [*label_of.items()]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    again = split([s for s, _ in mixed], [label for _, label in mixed], seed=seed, held_out=share)
    assert again == split([*label_of], [*label_of.values()], seed=seed, held_out=share)


def test_another_seed_holds_out_other_samples() -> None:
    ids = [f"sample-{number}" for number in range(100)]
    one, other = (split(ids, ["same"] * 100, seed=seed, held_out=0.5) for seed in (1, 2))
    assert one != other


@pytest.mark.parametrize(
    ("ids", "labels", "share", "message"),
    [
        ([1, 2], ["a"], 0.5, "there are 2 ids, but 1 labels"),
        ([1, 2, 1], ["a"] * 3, 0.5, "the id 1 is there more than once"),
        ([1, 2], ["a", "a"], 1.0, "held_out is a share between 0 and 1, not 1.0"),
    ],
)
def test_what_cannot_be_split_is_refused(
    ids: list[int], labels: list[str], share: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        split(ids, labels, seed=0, held_out=share)
