"""``python -m leptonai.training.models.worker``: in a job, learns as `model.fit` was told to.

It goes by the directory that it is started in (see `shipping`), and keeps the trained model and its
history with the job's run.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from leptonai import run
from leptonai.errors import LeptonError
from leptonai.training.exits import exit_code_of, tell
from leptonai.training.models.saving import PIPELINE_FILE, load_model
from leptonai.training.models.sending import HISTORY_FILE, RESULT
from leptonai.training.models.shipping import MODEL_DIRECTORY, Order, open_data
from leptonai.training.world import enter_world, leave_world


def learn(directory: Path) -> None:
    order = Order.read(directory)
    model = load_model(directory / MODEL_DIRECTORY)
    options: dict[str, Any] = {**order.options}
    if (directory / PIPELINE_FILE).exists():
        from leptonai.data.pipeline import Pipeline

        options["pipeline"] = Pipeline.load(directory / PIPELINE_FILE)
    if order.validation is not None:
        options["validation_data"] = open_data(directory, "validation", order.validation)
    history = model.fit(
        open_data(directory, "train", order.data),
        order.epochs,
        order.batch_size,
        learning_rate=order.learning_rate,
        seed=order.seed,
        **options,
    )
    with tempfile.TemporaryDirectory(prefix="lepton-fit-") as scratch:
        model.save(Path(scratch) / MODEL_DIRECTORY)
        if enter_world(options.get("device")).is_first:
            (Path(scratch) / HISTORY_FILE).write_bytes(msgspec.json.encode(history))
            (run.current() or run.start()).log_artifact(scratch, RESULT)
    leave_world()


def main() -> None:
    try:
        learn(Path())
    except LeptonError as error:
        tell(error)
        sys.exit(exit_code_of(error))


if __name__ == "__main__":
    main()
