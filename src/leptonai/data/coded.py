"""Columns of texts of which there are few, as codes of one byte: a row takes one where a text takes
16, and what is done to a text is done once for all rows that have it.

They are polars' Categorical, of categories that are ours: of others nobody knows how many there
are.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard, TypeVar

if TYPE_CHECKING:
    import polars as pl

MAX_TEXTS = 255  # that have codes; polars refuses one more
LOOKED_AT, FEW = 1000, 64  # rows of a table: a column with so few texts there has few, it seems
OURS = "leptonai"  # the namespace of our categories

Frame = TypeVar("Frame", "pl.DataFrame", "pl.LazyFrame")


def new_codes() -> "pl.Categorical":
    """For one column. They live as long as something has them."""
    import polars as pl

    return pl.Categorical(pl.Categories.random(namespace=OURS, physical=pl.UInt8))


def is_coded(dtype: "pl.DataType") -> "TypeGuard[pl.Categorical]":
    import polars as pl

    return isinstance(dtype, pl.Categorical) and dtype.categories.namespace() == OURS


def are_full(codes: "pl.Categorical") -> bool:
    return len(codes.categories.to_series()) >= MAX_TEXTS


def changed_codes(codes: "pl.Categorical", change: str) -> "pl.Categorical":
    """For what a change makes of a column's texts: no more than there were, but perhaps others.
    The same whenever it is asked for."""
    import polars as pl

    known = codes.categories
    return pl.Categorical(
        pl.Categories(f"{known.name()}-{change}", namespace=OURS, physical=pl.UInt8)
    )


def recoded(
    column: "pl.Series", change: "Callable[[pl.Series], pl.Series]", codes: "pl.Categorical"
) -> "pl.Series":
    """`change` made of the texts, each once; null where it says so."""
    import polars as pl

    assert isinstance(column.dtype, pl.Categorical)
    known = column.dtype.categories.to_series()
    code_of = change(known).cast(codes).to_physical()
    return code_of.gather(column.to_physical()).cat.to(codes).alias(column.name)


def decoded(frame: Frame) -> Frame:
    """With texts in place of codes."""
    import polars as pl

    schema = frame.collect_schema()
    coded = [name for name, dtype in schema.items() if is_coded(dtype)]
    return frame.with_columns(pl.col(coded).cast(pl.String)) if coded else frame
