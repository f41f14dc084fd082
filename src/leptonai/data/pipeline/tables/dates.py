"""DateFeatures: times become numbers."""

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from leptonai.data.chance import Chance
from leptonai.data.pipeline.step import Learnt
from leptonai.data.pipeline.tables.table import Row, RowStep, TableStep, replaced
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

Feature: TypeAlias = Literal[
    "year", "month", "day", "weekday", "day_of_year", "hour", "minute", "second", "days"
]
DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1)


class DateFeatures(TableStep, frozen=True, kw_only=True, tag="date_features"):
    """Each column gives way to NAME_year, NAME_month, …: as numbers, in UTC. `weekday` is 1 on
    Mondays; `days` are those since 1970, with the time of the day behind the point. What is missing
    stays so.
    """

    fits = ("time",)

    features: tuple[Feature, ...] = ("year", "month", "day", "weekday", "hour")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.features or len({*self.features}) < len(self.features):
            raise InvalidRequest("DateFeatures: features are one or more, each once")

    def transform(
        self, batch: "pl.LazyFrame", learnt: Learnt, chance: Chance | None = None
    ) -> "pl.LazyFrame":
        import polars as pl

        return replaced(
            batch,
            {
                name: [
                    _expression(name, feature).cast(pl.Float64).alias(f"{name}_{feature}")
                    for feature in self.features
                ]
                for name in learnt.facts["columns"]
            },
        )

    def of_row(self, learnt: Learnt) -> RowStep:
        told = [
            (name, [(f"{name}_{feature}", feature) for feature in self.features])
            for name in learnt.facts["columns"]
        ]

        def apply(row: Row) -> None:
            for name, features in told:
                time = row.pop(name)
                for made, feature in features:
                    row[made] = None if time is None else _value(time, feature)

        return apply


def _expression(name: str, feature: Feature) -> "pl.Expr":
    import polars as pl

    column = pl.col(name)
    if feature == "days":
        return column.dt.epoch("us").cast(pl.Float64) * (1.0 / DAY_US)
    if feature == "day_of_year":
        return column.dt.ordinal_day()
    found: Any = getattr(column.dt, feature)()
    return found  # type: ignore[no-any-return]


def _value(time: datetime, feature: Feature) -> float:
    match feature:
        case "weekday":
            return float(time.isoweekday())
        case "day_of_year":
            return float(time.timetuple().tm_yday)
        case "days":
            apart = time - EPOCH
            micros = (apart.days * 86_400 + apart.seconds) * 1_000_000 + apart.microseconds
            return float(micros) * (1.0 / DAY_US)
        case _:
            return float(getattr(time, feature))
