"""What commands do with datasets and models alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leptonai.client.synchronous.artifacts import Artifacts
    from leptonai.spec.artifacts import Artifact


def changed_alias(kept: Artifacts, reference: str, alias: str, *, drop: bool) -> Artifact:
    """Give the alias to the version that is meant, or take it from the one that has it; returns
    that version."""
    if not drop:
        return kept.set_alias(reference, alias)
    named = kept.get(f"{reference.partition('@')[0]}@{alias}").reference
    kept.drop_alias(named, alias)
    return kept.get(named)
