"""Texts kept as codes of one byte make what the texts themselves make."""

import numpy as np
import polars as pl
import pytest

from leptonai import Dataset, Pipeline
from leptonai.data.coded import decoded, is_coded
from leptonai.data.frames import Table
from leptonai.data.pipeline import Clean, DropMissing, Impute, OneHot, Ordinal, TargetEncode
from leptonai.data.pipeline.applying import fit_and_apply
from leptonai.errors import InvalidRequest

ROWS = 3000


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Of the columns of texts some have few, one more than there are codes once most is read."""
    monkeypatch.setattr("leptonai.data.frames.STRETCH_BYTES", 1)  # stretches of 256 rows
    rng = np.random.default_rng(0)
    few = rng.choice(["a", " b", 'say "c", twice', "d\ne", "", "NA", "\u00e9"], ROWS)
    grows = [f"g{n % 5 if n < ROWS // 2 else n}" for n in range(ROWS)]
    columns = {
        "x": rng.normal(size=ROWS).round(3),
        "few": few,
        "copy": few,
        "grows": grows,
        "many": [f"m{n}" for n in range(ROWS)],
        "written": rng.choice(["1", "2.5", ""], ROWS),  # numbers, were there not one text
        "y": rng.choice(["no", "yes"], ROWS),
    }
    columns["written"][ROWS - 1] = "none of these"
    pl.DataFrame(columns).write_csv(tmp_path / "t.csv")
    return Dataset.from_local(tmp_path / "t.csv")


def test_a_columns_texts_have_codes_as_long_as_there_are_enough(source):
    frames = [frame for _, frame in Table(source.records, coded=True).stretches()]
    plain = [frame for _, frame in source.table().stretches()]
    coded = [{name for name, dtype in each.schema.items() if is_coded(dtype)} for each in frames]
    assert coded[0] == {"few", "copy", "grows", "written", "y"}
    assert coded[-1] == coded[0] - {"grows"}
    assert frames[0]["few"].to_physical().dtype == pl.UInt8
    for each, same in zip(frames, plain, strict=True):
        assert decoded(each).equals(same)


@pytest.mark.parametrize(
    "steps",
    [
        [Clean(), Impute(columns=("few", "written")), OneHot(columns=("few", "written"))],
        [Impute(strategy="constant", value="new"), OneHot(columns=("few",), most=2)],
        [Clean(), DropMissing(columns=("few",)), Ordinal(columns=("few", "grows"))],
        [TargetEncode(columns=("grows", "few"))],
        [Clean(duplicate=False), OneHot(columns=("grows",), unseen="refuse", most=1000)],
    ],
    ids=lambda steps: "-".join(type(step).__name__ for step in steps),
)
def test_a_pipeline_learns_and_makes_the_same(source, steps, tmp_path, monkeypatch):
    parts = source.split(train=0.8, test=0.2)
    made = []
    for few in (64, -1):  # texts that a column may have to be coded
        monkeypatch.setattr("leptonai.data.frames.FEW", few)
        pipeline, out = Pipeline(steps, target="y"), tmp_path / str(few)
        try:
            files = fit_and_apply(pipeline, parts, out, memory_limit_bytes=1 << 20)
        except InvalidRequest as error:
            made.append((error.message, error.hint))
        else:
            assert {path.parent.name for path in files} == {"train", "test"}
            tables = {str(path.relative_to(out)): path.read_bytes() for path in files}
            made.append((pipeline.to_bytes(), tables))
    assert made[0] == made[1]
