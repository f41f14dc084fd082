"""Decision trees that a file describes: whether they lead to leaves of their own alone.

scikit-learn follows a tree's numbers without looking, so those of a stranger's file are looked at
once: each child comes after its parent (so every walk ends), and each feature is one of the input.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leptonai.errors import InvalidRequest

# Their trees are asked without a check of their own.
_TOGETHER = ("sklearn.ensemble._forest", "sklearn.ensemble._gb", "sklearn.ensemble._iforest")
_NO_LIMIT = 1 << 31


def check_trees(model: Any) -> None:
    """
    Raises:
        InvalidRequest: a tree leads out of itself, or in circles.
    """
    for left, right, features, limit in _trees(model):
        inner = left >= 0
        places = np.arange(len(left))[inner]
        children = np.stack([left[inner], right[inner]])
        good = (
            (children > places).all()
            and (children < len(left)).all()
            and (features[inner] >= 0).all()
            and (features[inner] < limit).all()
        )
        if not good:
            raise InvalidRequest(
                "a decision tree of the model leads out of itself", hint="save the model again"
            )


Numbers = NDArray[Any]
Tree = tuple[Numbers, Numbers, Numbers, int]  # children, -1 at leaves; features, and their bound


def _trees(model: Any) -> Iterator[Tree]:
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(model, _NO_LIMIT)]
    while waiting:
        each, limit = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        kind = f"{type(each).__module__}.{type(each).__name__}"
        if kind == "sklearn.tree._tree.Tree":
            most = min(limit, int(each.n_features))
            yield each.children_left, each.children_right, each.feature, most
            continue
        if kind == "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor":
            yield _histogram_tree(each, limit)
            continue
        if isinstance(each, Mapping):
            waiting += [(value, limit) for value in each.values()]
        elif isinstance(each, list | tuple):
            waiting += [(value, limit) for value in each]
        elif isinstance(each, np.ndarray):
            waiting += [(value, limit) for value in each.flat] if each.dtype.hasobject else []
        elif type(each).__module__.startswith("sklearn."):
            held = vars(each) if hasattr(each, "__dict__") else {}
            waiting += [(value, _limit(each, limit)) for value in held.values()]


def _limit(holder: Any, outer: int) -> int:
    """Features of what the holder is given, and so its trees."""
    own = getattr(holder, "n_features_in_", None)
    if not isinstance(own, int | np.integer):
        return outer
    module = type(holder).__module__
    if module in _TOGETHER:
        first = next(iter(np.ravel(getattr(holder, "estimators_", ()))), None)
        return int(min(own, getattr(first, "n_features_in_", own)))
    return int(min(own, outer) if module.startswith("sklearn.tree.") else own)


def _histogram_tree(tree: Any, limit: int) -> Tree:
    nodes = tree.nodes
    leaves = nodes["is_leaf"] != 0
    if (nodes["is_categorical"] != 0).any():
        raise InvalidRequest(
            "the model's trees ask for categories, by tables that nobody checks",
            hint="encode categories as numbers before it (OneHotEncoder), or save it as ONNX",
        )
    left, right = (np.where(leaves, -1, nodes[name].astype(np.int64)) for name in ("left", "right"))
    return left, right, nodes["feature_idx"].astype(np.int64), limit
