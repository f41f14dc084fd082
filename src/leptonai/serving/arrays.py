"""Arrays as arguments: nested lists in JSON, or an array as it came."""

from typing import Annotated, Any, get_args, get_origin

from msgspec import Meta

from leptonai.errors import InvalidRequest

# What stands in the place of an array where JSON is checked; `as_array` does the rest.
ARRAY = Annotated[Any, Meta(extra_json_schema={"type": "array", "items": {}})]


def is_array(hint: Any) -> bool:
    """``np.ndarray``, or ``NDArray[np.float32]``."""
    kind = get_origin(hint) or hint
    return getattr(kind, "__module__", "") == "numpy" and kind.__name__ == "ndarray"


def dtype_of(hint: Any) -> str | None:
    """float32 of ``NDArray[np.float32]``; None where the annotation says nothing of it."""
    _, *of = get_args(hint) or (None,)
    (number,) = get_args(of[0]) if of and get_args(of[0]) else (None,)
    name = getattr(number, "__name__", None)
    if name is None:
        return None
    import numpy as np

    try:
        return str(np.dtype(name))
    except TypeError:  # one of the abstract ones
        return None


def as_array(value: Any, dtype: str | None, name: str) -> Any:
    """
    Raises:
        InvalidRequest: it is none, or not of numbers that are kept exactly enough.
    """
    import numpy as np

    try:
        found = np.asarray(value)
    except ValueError:
        raise InvalidRequest(f"{name}: expected an array, got lists of differing shapes") from None
    if found.dtype.kind not in "biuf" and not isinstance(value, np.ndarray):
        raise InvalidRequest(f"{name}: expected an array of numbers, got others")
    if dtype is None or found.dtype == dtype:
        return found
    if found.size and not np.can_cast(found.dtype, dtype, "same_kind"):
        wanted = np.dtype(dtype)
        whole = found.dtype.kind in "biu" and wanted.kind in "iu"
        if not whole or found.min() < np.iinfo(wanted).min or found.max() > np.iinfo(wanted).max:
            raise InvalidRequest(f"{name}: expected numbers of {dtype}, got others")
    with np.errstate(over="ignore"):
        return found.astype(dtype)
