"""`Dataset`: what a person holds, whether it was committed or lies in a directory."""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from leptonai.data.folder import LocalFolder
from leptonai.data.kinds import Kind, is_held_out, parse_kind
from leptonai.data.manifest import Field
from leptonai.data.records import Bytes
from leptonai.data.split import divide
from leptonai.data.version import Version
from leptonai.errors import InvalidRequest

if TYPE_CHECKING:
    import polars as pl

    from leptonai.client import LeptonClient
    from leptonai.data.frames import Table
    from leptonai.data.pipeline import Pipeline
    from leptonai.data.progress import Progress, Steps
    from leptonai.data.quality.report import Report


class Sample(NamedTuple):
    data: Bytes  # as it is in the file: an encoded image, a row of a table, a text
    label: int | None  # its place in `classes`


class Dataset:
    """Samples by number, with their labels. A dataset never changes: what is derived is another.

    It keeps the promise of `leptonai.data.records.Records`.
    """

    def __init__(
        self,
        records: Version | LocalFolder,
        *,
        name: str = "",
        version: int | None = None,
        chosen: NDArray[np.int64] | None = None,
        part: str = "",
    ) -> None:
        """Of all samples of the records, or of those `chosen`. People use the methods below."""
        self.records = records
        self.name = name
        self.version = version
        self.part = part  # "train", "test", …: of data that was divided
        self._chosen = chosen

    # --- where they come from --------------------------------------------------------------------

    @classmethod
    def from_local(
        cls, source: str | Path, *, type: str | None = None, client: "LeptonClient | None" = None
    ) -> "Dataset":
        """A directory or a file of this machine as it is, uncommitted; or a registered name, if
        there is no such file.

        Raises:
            NotFound: neither is there.
            InvalidRequest: the data is not as its type has to be; says the file and the row.
        """
        if Path(source).exists():
            return cls(LocalFolder(source, kind=_kind(type)), name=Path(source).absolute().name)
        from leptonai.data.workspace import looks_like_a_reference

        if isinstance(source, str) and looks_like_a_reference(source):
            return cls.get(source, client=client)
        if "://" in str(source):
            raise InvalidRequest(
                f"{source} is not on this machine",
                hint=f"commit it first: leptonai dataset create --name NAME --source {source}",
            )
        return cls(LocalFolder(source))  # says that it does not exist

    @classmethod
    def create(
        cls,
        name: str,
        source: str | Path,
        *,
        type: str | None = None,
        lineage: dict[str, str] | None = None,
        fail_on: Mapping[str, float] | Collection[str] = (),
        client: "LeptonClient | None" = None,
        progress: "Steps | None" = None,
    ) -> "Dataset":
        """Commit a source as the next version of a name; the newest one, if it is the same.

        Args:
            source: a directory or file; or s3://, gs://, az://, https://.
            type: what the data is; found out if not given.
            lineage: what it was made from, besides source and parent: role → reference.
            fail_on: gates that must hold, as `check` has them; schema and drift against the newest
                version so far. What they measured is kept with the version.
            progress: is told, now and then, what is being done (fetching, unpacking, storing,
                reading, checking, sending), how many bytes of it are done, and of how many; 0 where
                nobody knows.

        Raises:
            GatesFailed: a gate does not hold; no version was made.
        """
        from leptonai.data.workspace import create

        return create(
            name,
            source,
            kind=_kind(type),
            lineage=lineage,
            fail_on=fail_on,
            client=client,
            progress=progress,
        )

    @classmethod
    def get(cls, reference: str, *, client: "LeptonClient | None" = None) -> "Dataset":
        """`NAME` is its newest version; or `NAME@3`, `NAME@best`. Its objects are fetched when they
        are first read."""
        from leptonai.data.workspace import get

        return get(reference, client=client)

    # --- what they are ---------------------------------------------------------------------------

    @property
    def reference(self) -> str:
        """NAME@VERSION of a registered one; else its name alone."""
        return self.name if self.version is None else f"{self.name}@{self.version}"

    @property
    def type(self) -> str:
        return self.records.type

    @property
    def schema(self) -> tuple[Field, ...]:
        """Of a table its columns; else the parts of a sample."""
        return self.records.schema

    @property
    def digest(self) -> str:
        """Names these samples in this order."""
        if self._chosen is None:
            return self.records.digest
        identity = hashlib.sha256(self.records.digest.encode() + self._chosen.tobytes())
        return f"sha256:{identity.hexdigest()}"

    @property
    def classes(self) -> tuple[str, ...]:
        return self.records.classes

    @property
    def labels(self) -> "NDArray[np.int64] | None":
        labels = self.records.labels
        return labels if labels is None or self._chosen is None else labels[self._chosen]

    def __len__(self) -> int:
        return len(self.records) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> "Dataset": ...
    def __getitem__(self, at: int | slice) -> "Sample | Dataset":
        if isinstance(at, slice):
            return self.only(np.arange(len(self))[at])
        number = self._number(at)
        labels = self.records.labels
        data = self.records.read([number])[0]
        return Sample(data, None if labels is None else int(labels[number]))

    def read(self, at: Sequence[int]) -> list[Bytes]:
        """The bytes of these samples, in the order asked; see `Records.read`."""
        if self._chosen is None:
            return self.records.read(at)
        wanted = np.asarray(at, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}")
        return self.records.read(self._chosen[wanted].tolist())

    def path_of(self, at: int) -> str:
        """The file that a sample is, or is a row of."""
        return self.records.path_of(self._number(at))

    def frame(self) -> "pl.LazyFrame":
        """A table's rows, with the columns and types of `schema`. Read stretch by stretch when it
        is collected, and only the columns that are asked for.

        Raises:
            InvalidRequest: it is no table; or, while it is read, a value is not of its column's
                type.
        """
        from leptonai.data.frames import lazy_frame

        return lazy_frame(self.table())

    def table(self) -> "Table":
        """What reads a table's rows, stretch by stretch."""
        from leptonai.data.frames import Table

        return Table(self.records, self._chosen)

    @property
    def chosen(self) -> "NDArray[np.int64] | None":
        """The samples' numbers among the records; None for all."""
        return self._chosen

    def whole(self) -> "Dataset":
        """All samples of the records that this is a part of."""
        return Dataset(self.records, name=self.name, version=self.version)

    # --- parts of them ---------------------------------------------------------------------------

    def only(self, at: Sequence[int] | NDArray[np.int64]) -> "Dataset":
        """These samples, in this order."""
        wanted = np.asarray(at, np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}")
        chosen = wanted if self._chosen is None else self._chosen[wanted]
        return Dataset(
            self.records, name=self.name, version=self.version, chosen=chosen, part=self.part
        )

    def split(
        self, *, seed: int = 0, stratify: bool = False, **shares: float
    ) -> "dict[str, Dataset]":
        """Divide the samples: `train, test = dataset.split(train=0.8, test=0.2).values()`.

        Without shares, into the parts that the data itself has, by its folders or its tables. Where
        a sample goes depends on its content and the seed: equal samples go to the same part,
        whatever their names and order.

        Args:
            stratify: divide every class by these shares.

        Raises:
            InvalidRequest: the shares do not add up to 1; or there are none, and the data has no
                parts; or there are no labels to stratify by.
        """
        if not shares:
            return self._own_splits()
        labels = self.labels if stratify else None
        if stratify and labels is None:
            raise InvalidRequest("there are no labels to stratify by", hint="leave out stratify")
        parts = divide(self._keys(), shares, seed=seed, labels=labels)
        return {name: self._part(name, at) for name, at in parts.items()}

    # --- what a pipeline makes of them ------------------------------------------------------------

    def transform(
        self,
        pipeline: "Pipeline",
        name: str,
        *,
        split: Mapping[str, float] | None = None,
        seed: int = 0,
        num_workers: int | None = None,
        job_workers: int | None = None,
        resources: Mapping[str, Any] | None = None,
        memory_limit_bytes: int | None = None,
        client: "LeptonClient | None" = None,
        tell: Callable[[str], object] | None = None,
    ) -> "Dataset":
        """Transform a table, and commit the result as the next version of a name: Parquet in a
        folder for each part, with the fitted pipeline beside them and in the lineage. The version
        is the same, to its digest, however many threads and workers make it.

        Args:
            pipeline: of a table. One that has not learnt is fitted on the part `train`, or the only
                one; here it then has learnt, in a job its copy has.
            split: the parts' shares; by default the parts that the data has.
            seed: of the split.
            num_workers: chunks at once, of each process. If not given one in a job's, and here two
                where memory allows it.
            job_workers: processes of a job of the workspace, which then does it all: this waits for
                it, and to interrupt this stops it. What a worker has made is not made again when it
                is killed. By default it is done here.
            resources: of each worker: cpu, memory (MiB), accelerator_num, ….
            memory_limit_bytes: that a process may hold of the data.
            tell: is told what is being done, line by line.

        Raises:
            InvalidRequest: a row is not as the training data was, or a job cannot find the data.
            JobFailed: the job has failed; ends with what it said last.
        """
        from leptonai.data.transforming.making import transform
        from leptonai.data.transforming.sending import transform_in_job

        common: dict[str, Any] = {
            "shares": split or {},
            "seed": seed,
            "memory_limit_bytes": memory_limit_bytes,
            "tell": tell or (lambda line: None),
        }
        if job_workers is None:
            return transform(self, pipeline, name, workers=num_workers, client=client, **common)
        return transform_in_job(
            self,
            pipeline,
            name,
            job_workers=job_workers,
            threads=num_workers or 1,
            resources=resources or {},
            client=client,
            **common,
        )

    # --- what is wrong with them -----------------------------------------------------------------

    def check(
        self,
        *,
        against: "Dataset | str | None" = None,
        schema: Mapping[str, str] | None = None,
        fail_on: Mapping[str, float] | Collection[str] = (),
        client: "LeptonClient | None" = None,
        progress: "Progress | None" = None,
    ) -> "Report":
        """Measure what commonly is wrong with data: `report.failed` is what failed, and
        `report.findings` says where.

        Args:
            against: an earlier version, that schema and drift are measured against.
            schema: the columns expected, and their types; in place of those of `against`.
            fail_on: gates that fail past their threshold, where others warn: `["missing"]`, or
                `{"missing": 0.1}`. `leptonai.data.quality.gates.GATES` are those there are.
            progress: is told, now and then, how many bytes are done, and of how many.

        Raises:
            InvalidRequest: there is no such gate, or there are no samples.
        """
        from leptonai.data.quality.check import check

        earlier = Dataset.get(against, client=client) if isinstance(against, str) else against
        return check(self, against=earlier, schema=schema, fail_on=fail_on, progress=progress)

    def _own_splits(self) -> "dict[str, Dataset]":
        names, columns = self.records.splits, self.records.columns
        if not names or "split" not in columns:
            raise InvalidRequest(
                "the data has no parts of its own", hint="name shares: split(train=0.8, test=0.2)"
            )
        of_sample = columns["split"]
        if self._chosen is not None:
            of_sample = of_sample[self._chosen]
        return {
            name: self._part(name, np.flatnonzero(of_sample == number))
            for number, name in enumerate(names)
            if name
        }

    def _part(self, name: str, at: NDArray[np.int64]) -> "Dataset":
        """What is divided from a part that is to examine is to examine, too."""
        part = self.only(at)
        part.part = self.part if is_held_out(self.part) else name
        return part

    def _keys(self) -> "NDArray[np.uint64]":
        keys = self.records.keys()
        return keys if self._chosen is None else keys[self._chosen]

    def _number(self, at: int) -> int:
        """Of a sample among the records'; -1 is the last one."""
        if not -len(self) <= at < len(self):
            raise IndexError(f"samples are numbered from 0 to {len(self) - 1}")
        at %= len(self)
        return at if self._chosen is None else int(self._chosen[at])

    def __repr__(self) -> str:
        return f"<Dataset {self.reference}: {self.type}, {len(self)} samples>"


def _kind(type: str | None) -> Kind | None:
    return None if type is None else parse_kind(type)
