"""``python -m leptonai.data.transforming.worker``: one worker of a job that transforms a dataset.

It goes by the directory that it is started in (see `shipping`). What a worker has made is kept with
the job's run, portion by portion, so that whoever is started again makes only what is missing. The
first worker fits the pipeline, where that has not learnt, and commits the version, once all
portions are there.
"""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from leptonai.client import LeptonClient
from leptonai.data.dataset import Dataset
from leptonai.data.pipeline.applying import PIPELINE_FILE, Divided, parts_of, some_of, teaching_part
from leptonai.data.pipeline.pipeline import Pipeline
from leptonai.data.transforming.making import keep
from leptonai.data.transforming.portions import name_of, of_worker, portions
from leptonai.data.transforming.sending import MADE, REFUSED
from leptonai.data.transforming.shipping import Order, open_pipeline, open_source
from leptonai.errors import InvalidRequest, LeptonError, NotFound
from leptonai.spec.jobs import FINAL_EXIT_CODE
from leptonai.spec.metadata import Metadata
from leptonai.spec.runs import Run, RunSpec

LEARNT = "pipeline"  # the artifact that holds it, fitted
LOOK_S = 0.2  # between two looks for what other workers make
RETRY_S = 600.0  # that the platform may be away


class Kept:
    """Folders that the workers of one job leave for each other, by name; with the job's run."""

    def __init__(self, client: LeptonClient, job: str) -> None:
        self._client = client
        self._run = client.runs.start(Run(metadata=Metadata(), spec=RunSpec(job=job)))
        self._id = self._run.metadata.id or ""

    def has(self, name: str) -> bool:
        return name in self._run.spec.artifacts or name in self._look()

    def put(self, name: str, folder: Path) -> None:
        self._client.runs.push_artifact(self._id, name, folder)

    def get(self, name: str, folder: Path) -> None:
        """Its files, into a folder that may hold others. Waits until it is there: whose work is not
        done is started again, and if that fails the job ends."""
        while not self.has(name):
            time.sleep(LOOK_S)
        digest = self._run.spec.artifacts[name].digest
        with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
            self._client.trees.pull(digest, beside)
            for path in [*Path(beside).rglob("*")]:
                if path.is_file():
                    target = folder / path.relative_to(beside)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)

    def refuse(self, why: str) -> None:
        """Nobody needs to try again: the same would come of it."""
        self._client.runs.update(self._id, spec=RunSpec(params={REFUSED: why}))

    @property
    def refused(self) -> str:
        return str(self._run.spec.params.get(REFUSED, ""))

    def note(self, **datasets: str) -> None:
        """What it was made from, and what was made."""
        self._run = self._client.runs.update(self._id, spec=RunSpec(datasets=datasets))

    @property
    def made(self) -> str:
        return self._run.spec.datasets.get(MADE, "")

    def clear(self) -> None:
        """The version holds it all."""
        self._client.runs.drop_artifacts(self._id, *self._look())

    def _look(self) -> Sequence[str]:
        self._run = self._client.runs.get(self._id)
        return [*self._run.spec.artifacts]


def work(directory: Path, client: LeptonClient, kept: Kept, rank: int, workers: int) -> None:
    order = Order.read(directory)
    if kept.made:
        say(f"{kept.made} is there already")
        return
    source = open_source(order, client)
    parts = parts_of(source, order.shares, order.seed)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        pipeline = _learnt(order, directory, Path(scratch), parts, kept, is_first=rank == 0)
        divided = Divided(pipeline, parts)
        every = portions(divided.chunks)
        for portion in of_worker(every, rank, workers):
            name = name_of(portion)
            if not kept.has(name):
                with tempfile.TemporaryDirectory(dir=scratch) as into:
                    divided.apply(
                        portion, Path(into),
                        workers=order.threads, memory_limit_bytes=order.memory_limit_bytes,
                    )  # fmt: skip
                    kept.put(name, Path(into))
                say(f"kept {name} of {divided.chunks}")
        if rank == 0:
            _commit(order, source, pipeline, every, kept, Path(scratch), client)
            kept.clear()


def _learnt(
    order: Order,
    directory: Path,
    scratch: Path,
    parts: dict[str, Dataset],
    kept: Kept,
    *,
    is_first: bool,
) -> Pipeline:
    """As it was sent; or as the first worker fits it, once."""
    pipeline = open_pipeline(order, directory)
    if pipeline.is_fitted:
        return pipeline
    folder = scratch / LEARNT
    folder.mkdir()
    if is_first and not kept.has(LEARNT):
        say("fitting on the training part")
        pipeline.fit(teaching_part(parts)[1], memory_limit_bytes=order.memory_limit_bytes)
        pipeline.save(folder / PIPELINE_FILE)
        kept.put(LEARNT, folder)
        return pipeline
    kept.get(LEARNT, folder)
    return Pipeline.load(folder / PIPELINE_FILE)


def _commit(
    order: Order,
    source: Dataset,
    pipeline: Pipeline,
    every: Sequence[range],
    kept: Kept,
    scratch: Path,
    client: LeptonClient,
) -> None:
    """All portions as one version. To do it again makes no other one."""
    folder = scratch / "whole"
    folder.mkdir()
    for portion in every:
        kept.get(name_of(portion), folder)
    some_of([*folder.rglob("*.parquet")])
    pipeline.save(folder / PIPELINE_FILE)
    made = keep(order.name, folder, source, pipeline, client)
    kept.note(**{"source": source.reference, MADE: made.reference})
    say(f"committed {made.reference}")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    rank, workers = (int(os.environ.get(name, at)) for name, at in (("RANK", 0), ("WORLD_SIZE", 1)))
    try:
        with LeptonClient(retry_for_s=RETRY_S) as client:
            kept = Kept(client, os.environ.get("LEPTON_JOB_NAME", ""))
            if kept.refused:
                raise InvalidRequest(kept.refused, hint="correct it, then transform it anew")
            try:
                work(Path().absolute(), client, kept, rank, workers)
            except (InvalidRequest, NotFound) as error:
                kept.refuse(error.message)
                raise
    except LeptonError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"error: {error.message}{hint}", file=sys.stderr)
        sys.exit(FINAL_EXIT_CODE if isinstance(error, InvalidRequest | NotFound) else 1)


if __name__ == "__main__":
    main()
