"""`Pipeline`: steps in their order, and what they learnt from the training data."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from leptonai.data.chance import Chance
from leptonai.data.manifest import Field
from leptonai.data.pipeline.registry import checked, class_of, name_of, step_of, told_of
from leptonai.data.pipeline.saving import (
    FORMAT,
    FittedOn,
    Saved,
    decoded,
    encoded,
    read_file,
    write_atomically,
)
from leptonai.data.pipeline.step import Batch, Form, Learnt, Step
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from leptonai.data.pipeline.tables.tabular import Tabular

MAX_STEPS = 100
MEMBERS = "fitted_on.members"  # the array: a bit for each of all samples, whether it taught


@dataclass(frozen=True)
class Fitted:
    learnt: tuple[Learnt, ...]
    on: FittedOn
    members: "NDArray[Any] | None" = None  # bits, packed; None where all samples taught
    takes: tuple[Field, ...] = ()
    gives: tuple[str, ...] = ()
    classes: tuple[Any, ...] | None = None
    made_by: Mapping[str, str] = field(default_factory=dict)


class Pipeline:
    """Fitted once, on training data; then the very same thing in training and in serving.

    What it takes follows from its first step. A pipeline of a table takes a row as a dict, a list
    of such, a polars frame, or a Dataset of a table; others take arrays or lists, as their steps
    do.
    """

    def __init__(
        self, steps: Iterable[Step | Mapping[str, Any]], *, target: str | None = None
    ) -> None:
        """
        Args:
            steps: or what they are in JSON: ``{"type": "scale", "method": "robust"}``.
            target: the column of a table that is to be predicted. Steps leave it alone.

        Raises:
            InvalidRequest: there are no steps, or one does not take what the one before it gives.
        """
        self.steps = tuple(
            checked(each) if isinstance(each, Step) else step_of(each) for each in steps
        )
        self.target = target
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise InvalidRequest(
                f"a pipeline has 1 to {MAX_STEPS} steps, not {len(self.steps)}",
                hint='Pipeline([Impute(), Scale(), ToMatrix()], target="price")',
            )
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            if before.gives != after.takes:
                raise InvalidRequest(
                    f"{type(after).__name__} takes {after.takes}, and {type(before).__name__} "
                    f"before it gives {before.gives}",
                    hint="put steps in between, or change their order",
                )
        if target is not None and self.takes != "table":
            raise InvalidRequest(
                f"the target is a column of a table, and {type(self.steps[0]).__name__} takes "
                f"{self.takes}",
                hint="leave out target: the labels of a dataset stay with its samples",
            )
        self._fitted: Fitted | None = None
        self._tabular: Tabular | None = None

    @property
    def takes(self) -> Form:
        return self.steps[0].takes

    @property
    def gives(self) -> Form:
        return self.steps[-1].gives

    @property
    def fitted(self) -> Fitted:
        """Raises:
        InvalidRequest: it has not been fitted.
        """
        if self._fitted is None:
            raise InvalidRequest(
                "this pipeline has not learnt anything yet", hint="pipeline.fit(training_data)"
            )
        return self._fitted

    @property
    def is_fitted(self) -> bool:
        return self._fitted is not None

    @property
    def classes(self) -> tuple[Any, ...] | None:
        """Of a table whose target is a category: what the numbers in y mean."""
        return self.fitted.classes

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of what comes out, of a table."""
        return self.fitted.gives

    @property
    def digest(self) -> str:
        """Of all that it is and learnt: equal digests transform alike."""
        return f"sha256:{hashlib.sha256(self.to_bytes()).hexdigest()}"

    # --- learning --------------------------------------------------------------------------------

    def fit(
        self,
        dataset: Any,
        *,
        memory_limit_bytes: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> "Pipeline":
        """Learn from the training data, step by step; each sees it as the steps before it leave it.

        Args:
            dataset: a Dataset, or what `transform` takes. Of one that has parts of its own, the
                part `train` alone.
            memory_limit_bytes: of a table more than fits goes to temporary files meanwhile.
            image_size: height and width that encoded images are fitted to first.

        Returns:
            Itself.

        Raises:
            InvalidRequest: it is not training data (a part that is to examine), or a step cannot
                learn from it; says which row and column.
        """
        from leptonai.data.pipeline.training import training_part

        part = training_part(dataset)
        if self.takes == "table":
            from leptonai.data.pipeline.tables.tabular import fit_table

            self._fitted = fit_table(self, part, memory_limit_bytes)
        else:
            self._fitted = self._fit_batches(part, image_size)
        self._tabular = None
        return self

    def fit_on_all(self, dataset: Any) -> "Pipeline":
        """On all samples, also on those of parts that are to examine. For steps that learn nothing
        but names."""
        from leptonai.data.pipeline.tables.tabular import fit_table

        self._fitted = fit_table(self, dataset, None)
        self._tabular = None
        return self

    def fit_transform(self, dataset: Any, **options: Any) -> Batch:
        """Of its own training data. Where an encoding looks at the target, each row gets what
        the others teach: so it differs from `transform` of the same values seen anew."""
        from leptonai.data.pipeline.training import training_part

        part = training_part(dataset)
        self.fit(part, **options)
        if self.takes == "table":
            return self.tabular.transform(part, is_training=True)
        return self.transform(part)

    def has_learnt(self, fitted: Fitted) -> None:
        """For who fits it while it reads the data for something else, too."""
        self._fitted = fitted
        self._tabular = None

    def _fit_batches(self, part: Any, image_size: tuple[int, int] | None) -> Fitted:
        from leptonai.data.pipeline.training import batches_of, fitted_on

        learnt: list[Learnt] = []

        def training() -> Iterator[Batch]:
            for batch in batches_of(part, self.takes, image_size):
                for step, known in zip(self.steps, learnt, strict=False):
                    batch = step.transform(batch, known)
                yield batch

        for step in self.steps:
            found = step.fit(training)
            learnt.append(found)
        on, members = fitted_on(part)
        return Fitted(tuple(learnt), on, members, made_by=versions())

    # --- transforming ----------------------------------------------------------------------------

    def transform(self, batch: Any, chance: Chance | None = None) -> Any:
        """
        Args:
            batch: of a table: a row, rows, a polars frame, or a Dataset; columns that it does not
                know are left out, and the target may be missing. Of others: what the first step
                takes, or a tuple of it and labels, which stay.
            chance: to augment samples with, in training.

        Returns:
            What the last step gives. Of ToMatrix: x, or (x, y) where the target was given; for one
            row, one row. A table stays in the kind of table it came as; of a Dataset, a polars
            frame in memory.

        Raises:
            InvalidRequest: it is not as the training data was; says the row and the column.
        """
        if self.takes == "table":
            return self.tabular.transform(batch)
        if isinstance(batch, tuple):
            first, *rest = batch
            return (self.transform(first, chance), *rest)
        if chance is not None and len(chance) != len(batch):
            raise InvalidRequest(
                f"a chance for {len(chance)} samples, and a batch of {len(batch)}",
                hint="Chance(numbers_of_the_samples, seed=…, epoch=…)",
            )
        for step, learnt in joined(self.steps, self.fitted.learnt):
            batch = step.transform(batch, learnt, chance)
        return batch

    @property
    def tabular(self) -> "Tabular":
        """Of a fitted pipeline of a table: what works on stretches of it."""
        if self._tabular is None:
            from leptonai.data.pipeline.tables.tabular import Tabular

            self._tabular = Tabular(self.steps, self.target, self.fitted)
        return self._tabular

    def check_unseen(self, dataset: Any) -> None:
        """That none of these samples taught it: for data that is to examine.

        Raises:
            InvalidRequest: some did; says how many.
        """
        from leptonai.data.pipeline.training import seen_samples

        seen = seen_samples(self.fitted, dataset)
        if seen:
            raise InvalidRequest(
                f"the pipeline was fitted on {seen} of these {len(dataset)} samples: "
                "results on them would be too good",
                hint="fit it on the training part alone: train, test = dataset.split(…).values()",
            )

    def taught_by(self, records: str, reference: str) -> "Pipeline":
        """The same, where the records that it was fitted on have another digest and name now: a
        folder's once they were committed, say."""
        same = Pipeline(self.steps, target=self.target)
        same._fitted = replace(
            self.fitted,
            on=msgspec.structs.replace(self.fitted.on, records=records, reference=reference),
        )
        return same

    # --- keeping ---------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Into one file, whole or not at all."""
        write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> "Pipeline":
        """Raises:
        NotFound: there is no such file.
        InvalidRequest: it is no pipeline, a damaged one, or one of a newer version.
        """
        return cls.from_bytes(read_file(Path(path)), name=str(path))

    def to_bytes(self) -> bytes:
        """The file. Equal fits give equal bytes."""
        fitted = self.fitted
        for step in self.steps:
            if class_of(name_of(step)) is not type(step):
                raise InvalidRequest(
                    f"{type(step).__name__} is not a step that others can load",
                    hint="only steps that come with Lepton are saved",
                )
        arrays = {
            f"{at}.{name}": array
            for at, learnt in enumerate(fitted.learnt)
            for name, array in learnt.arrays.items()
        }
        if fitted.members is not None:
            arrays[MEMBERS] = fitted.members
        saved = Saved(
            format=FORMAT,
            made_by=dict(fitted.made_by),
            steps=[told_of(step) for step in self.steps],
            learnt=[dict(learnt.facts) for learnt in fitted.learnt],
            target=self.target,
            takes=list(fitted.takes),
            gives=list(fitted.gives),
            classes=None if fitted.classes is None else list(fitted.classes),
            fitted_on=fitted.on,
        )
        return encoded(saved, arrays)

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "the file") -> "Pipeline":
        saved, arrays = decoded(data, name)
        if len(saved.steps) != len(saved.learnt):
            raise InvalidRequest(f"{name} is a damaged pipeline: steps are missing")
        pipeline = cls(saved.steps, target=saved.target)
        of_step: list[dict[str, NDArray[Any]]] = [{} for _ in saved.steps]
        members = arrays.pop(MEMBERS, None)
        for key, array in arrays.items():
            at, _, of = key.partition(".")
            if not at.isdecimal() or int(at) >= len(of_step) or not of:
                raise InvalidRequest(f"{name} is a damaged pipeline: nothing has the array {key!a}")
            of_step[int(at)][of] = array
        pipeline._fitted = Fitted(
            tuple(Learnt(facts, each) for facts, each in zip(saved.learnt, of_step, strict=True)),
            saved.fitted_on,
            members,
            tuple(saved.takes),
            tuple(saved.gives),
            None if saved.classes is None else tuple(saved.classes),
            saved.made_by,
        )
        if pipeline.takes == "table":
            try:
                pipeline.tabular  # noqa: B018 (made now, to see that it can be)
            except (KeyError, TypeError, ValueError, AttributeError) as wrong:
                raise InvalidRequest(
                    f"{name} is a damaged pipeline: what a step learnt is incomplete ({wrong!r})",
                    hint="save the pipeline again",
                ) from None
        return pipeline

    # --- being sent to other processes -----------------------------------------------------------

    def __reduce__(self) -> tuple[Any, ...]:
        if self.is_fitted:
            return Pipeline.from_bytes, (self.to_bytes(),)
        return Pipeline, (self.steps,), {"target": self.target}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(self.steps, target=state["target"])  # type: ignore[misc]

    def __repr__(self) -> str:
        steps = " → ".join(type(step).__name__ for step in self.steps)
        return f"<Pipeline {steps}, {'fitted' if self.is_fitted else 'not fitted'}>"


def joined(steps: Sequence[Step], learnt: Sequence[Learnt]) -> list[tuple[Step, Learnt]]:
    """With steps made one that follow each other and are better done at once."""
    doing: list[tuple[Step, Learnt]] = []
    for step, known in zip(steps, learnt, strict=True):
        joint = doing[-1][0].absorb(step) if doing else None
        if joint is None:
            doing.append((step, known))
        else:
            doing[-1] = joint, Learnt()
    return doing


def versions() -> dict[str, str]:
    import leptonai

    return {"leptonai": leptonai.__version__}


def spec_of(pipeline: Pipeline) -> dict[str, Any]:
    """What `Pipeline` is made of, as JSON."""
    told: dict[str, Any] = {"steps": [told_of(step) for step in pipeline.steps]}
    return told if pipeline.target is None else {**told, "target": pipeline.target}


def from_spec(told: Any) -> Pipeline:
    """Raises:
    InvalidRequest: it is not a pipeline's spec; says what is wrong.
    """
    if isinstance(told, Sequence) and not isinstance(told, str):
        told = {"steps": told}
    if not isinstance(told, Mapping) or not isinstance(told.get("steps"), list):
        raise InvalidRequest(
            "a pipeline's spec is an object with its steps",
            hint='{"steps": [{"type": "impute"}, {"type": "to_matrix"}], "target": "price"}',
        )
    if unknown := {*told} - {"steps", "target"}:
        raise InvalidRequest(
            f"a pipeline's spec has no {min(unknown)!a}", hint="it has steps and target"
        )
    target = told.get("target")
    if target is not None and not isinstance(target, str):
        raise InvalidRequest("a pipeline's target is the name of a column")
    return Pipeline(told["steps"], target=target)
