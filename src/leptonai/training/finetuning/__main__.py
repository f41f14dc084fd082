"""``python -m leptonai.training.finetuning CONFIG.json``"""

import argparse
import json
import sys
from pathlib import Path

from leptonai.errors import LeptonError
from leptonai.spec.finetuning import schema
from leptonai.spec.jobs import FINAL_EXIT_CODE


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leptonai.training.finetuning",
        description="A causal language model learns from examples.",
        epilog="""example: python -m leptonai.training.finetuning '{"model_uri": "tiny", """
        """"train_dataset_uri": "questions.jsonl", "register_as": "tiny-tuned"}'""",
    )
    parser.add_argument("config", nargs="?", help="A file of JSON, or the JSON itself.")
    parser.add_argument("--output", type=Path, help="Write the model here, and register nothing.")
    parser.add_argument("--schema", action="store_true", help="Print what can be configured.")
    given = parser.parse_args()
    if given.schema:
        print(json.dumps(schema(), indent=2))
        return
    if not given.config:
        parser.error("say what to do: a file of JSON, or the JSON itself")
    try:
        text = given.config
        if not text.lstrip().startswith("{"):
            text = _read(Path(text))
        from leptonai.training.finetuning.learner import read_config
        from leptonai.training.finetuning.run import finetune

        made = finetune(read_config(text), given.output)
    except LeptonError as error:
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        sys.exit(1 if error.retry else FINAL_EXIT_CODE)
    if made:
        print(made)


def _read(path: Path) -> str:
    from leptonai.errors import NotFound

    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise NotFound(f"{path} cannot be read: {error}", hint="name a file of JSON") from None


if __name__ == "__main__":
    main()
