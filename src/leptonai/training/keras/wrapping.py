"""The argument `client` of `fit`, `evaluate` and `predict`, and how to take it back.

Keras takes seconds to import, so nobody does so for its sake: where it is imported already it is
taught now, else when somebody imports it.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # as base classes they would cost every command 5 ms
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec

Method = Literal["fit", "evaluate", "predict"]
METHODS: tuple[Method, ...] = ("fit", "evaluate", "predict")
_OURS = "__lepton_wraps__"  # on a method: what it was before


def wrap() -> None:
    """Let `keras.Model` take a `client`, from now on or from when Keras is imported. Once is
    enough, and twice does no harm."""
    keras = sys.modules.get("keras")
    if _is_taught(keras):
        return
    if keras is not None and hasattr(keras, "Model"):
        _teach(keras)
    elif not any(isinstance(each, _WhenImported) for each in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported())


def unwrap() -> None:
    """Keras as it was. The next `LeptonClient` teaches it again."""
    sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, _WhenImported)]
    keras = sys.modules.get("keras")
    if keras is None or not _is_taught(keras):
        return
    for name in METHODS:
        delattr(keras.Model, name)  # what it inherits shows again


def _is_taught(keras: ModuleType | None) -> bool:
    model = getattr(keras, "Model", None)
    return hasattr(vars(model).get("fit"), _OURS) if model is not None else False


def _teach(keras: ModuleType) -> None:
    if not hasattr(keras, "ops"):
        return  # Keras 2: its methods lie elsewhere, and it cannot write what we ship
    for name in METHODS:
        setattr(keras.Model, name, _with_client(name, getattr(keras.Model, name)))


def _with_client(name: Method, before: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(before)
    def method(model: Any, *args: Any, client: Any = None, **kwargs: Any) -> Any:
        if client is None:
            return before(model, *args, **kwargs)
        from leptonai.training.keras import remote

        return remote.call(name, before, model, client, args, kwargs)

    setattr(method, _OURS, before)
    return method


class _WhenImported:
    """Has others find Keras, and teaches it once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> "ModuleSpec | None":
        if name != "keras":
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Teaching(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Teaching:
    def __init__(self, loader: "Loader") -> None:
        self._loader = loader

    def create_module(self, spec: "ModuleSpec") -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # as if we had never been here
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, _WhenImported)]
        _teach(module)
