"""One fine-tuning, from its configuration to a registered model."""

import os
import re
import tempfile
from pathlib import Path

from leptonai.errors import InvalidRequest
from leptonai.spec.finetuning import TrainConfig
from leptonai.spec.names import MAX_NAME_CHARS, check_name
from leptonai.training.finetuning.examples import Examples, pack
from leptonai.training.finetuning.learner import load, merged, save, tokenise_with
from leptonai.training.finetuning.sources import model_at, rows_of


def finetune(config: TrainConfig, output: Path | None = None) -> str:
    """Learn, and keep the result. Called in every worker, as `Trainer.fit` is.

    Args:
        output: a new directory for the model; without it, it becomes a version of a name.

    Returns:
        where the model is: the directory, or NAME@VERSION; "" on all workers but the first.

    Raises:
        LeptonError: what is asked cannot be done; says what.
    """
    from leptonai.training import Trainer, register

    name = "" if output else _name_of(config)
    with tempfile.TemporaryDirectory(prefix="lepton-base-") as scratch:
        learner, tokenizer = load(model_at(config.model_uri, Path(scratch) / "model"), config)
    tokenise = tokenise_with(tokenizer)

    def examples(uri: str) -> Examples:
        found = pack(rows_of(uri), tokenise, config.column_mapping, config.max_tokens)
        _tell(f"{uri}: {len(found.inputs)} examples of at most {found.inputs.shape[1]} tokens")
        if found.cut:
            _tell(f"{uri}: {found.cut} examples were cut at {config.max_tokens} tokens")
        return found

    train = examples(config.train_dataset_uri)
    checked = examples(config.validation_dataset_uri) if config.validation_dataset_uri else None
    learning = sum(each.numel() for each in learner.parameters() if each.requires_grad)
    of = sum(each.numel() for each in learner.parameters())
    _tell(f"{learning:,} of {of:,} weights learn")
    trainer = Trainer(
        learner,
        (train.inputs, train.targets),
        validation=None if checked is None else (checked.inputs, checked.targets),
        epochs=config.epochs,
        max_steps=config.max_steps or None,
        batch_size=config.batch_size,
        accumulation=config.accumulation,
        learning_rate=config.learning_rate,
        schedule="cosine",
        warmup_steps=config.warmup_steps,
        clip_norm=1.0,
        precision=config.precision,
        seed=config.seed,
    )
    history = trainer.fit()
    if not trainer.world.is_first:
        return ""
    if output is not None:
        save(learner, tokenizer, output)
        return str(output)
    made = register(merged(learner), name, tokenizer=tokenizer, metrics=history.last)
    return made.reference if made else ""


def _name_of(config: TrainConfig) -> str:
    """Before the training: afterwards it would be late to learn that it is none."""
    if config.register_as:
        check_name(config.register_as, "model")
        return config.register_as
    job = os.environ.get("LEPTON_JOB_NAME", "")
    name = re.sub(r"-[a-z0-9]{4}$", "", job)[:MAX_NAME_CHARS]  # without what makes the id unique
    if not name:
        raise InvalidRequest(
            "nothing says what the model is to be called", hint="set register_as, or --output"
        )
    return name


def _tell(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)
