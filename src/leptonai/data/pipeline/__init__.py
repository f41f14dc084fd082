"""Pipelines: what is done to data before a model sees it, in training and in serving alike."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leptonai.data.pipeline.pipeline import Pipeline
    from leptonai.data.pipeline.step import Learnt, Step

__all__ = ["Learnt", "Pipeline", "Step"]

_HOME_OF = {
    "Learnt": "leptonai.data.pipeline.step",
    "Pipeline": "leptonai.data.pipeline.pipeline",
    "Step": "leptonai.data.pipeline.step",
}


def __getattr__(name: str) -> Any:
    """A step by its class's name, too; what it needs is imported then."""
    from leptonai.data.pipeline.registry import HOME_OF

    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    for home in HOME_OF.values():
        module, _, of_class = home.partition(":")
        if of_class == name:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """With the steps, for whoever looks for one."""
    from leptonai.data.pipeline.registry import HOME_OF

    steps = (home.partition(":")[2] for home in HOME_OF.values())
    return sorted([*globals(), *__all__, *steps])
