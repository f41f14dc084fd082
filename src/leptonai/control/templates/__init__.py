"""The public templates, which come with the platform: a JSON file each, and fine-tuning."""

from functools import lru_cache

import msgspec

from leptonai.core import finetuning
from leptonai.spec.templates import LeptonTemplate


@lru_cache(maxsize=1)
def public_templates() -> dict[str, LeptonTemplate]:
    """By id."""
    from importlib.resources import files  # not needed to start

    found = sorted(
        (each for each in files(__name__).iterdir() if each.name.endswith(".json")),
        key=lambda each: each.name,
    )
    made = [msgspec.json.decode(each.read_bytes(), type=LeptonTemplate) for each in found]
    return {each.metadata.id or "": each for each in (*made, finetuning.template())}
