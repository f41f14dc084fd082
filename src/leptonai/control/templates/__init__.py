"""The public templates, which come with the platform: one JSON file each."""

from functools import lru_cache
from importlib.resources import files

import msgspec

from leptonai.spec.templates import LeptonTemplate


@lru_cache(maxsize=1)
def public_templates() -> dict[str, LeptonTemplate]:
    """By id."""
    found = sorted(
        (each for each in files(__name__).iterdir() if each.name.endswith(".json")),
        key=lambda each: each.name,
    )
    made = [msgspec.json.decode(each.read_bytes(), type=LeptonTemplate) for each in found]
    return {template.metadata.id or "": template for template in made}
