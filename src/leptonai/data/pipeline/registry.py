"""Which module defines a step, by its name on disk. Modules are imported when asked for."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, get_args, get_origin

import msgspec

from leptonai.data.pipeline.step import Step
from leptonai.errors import InvalidRequest

_TABLES = "leptonai.data.pipeline.tables"
_IMAGES = "leptonai.data.pipeline.images"
_TEXTS = "leptonai.data.pipeline.texts"

HOME_OF = {
    "clean": f"{_TABLES}.cleaning:Clean",
    "drop_columns": f"{_TABLES}.cleaning:DropColumns",
    "drop_missing": f"{_TABLES}.cleaning:DropMissing",
    "select": f"{_TABLES}.cleaning:Select",
    "impute": f"{_TABLES}.missing:Impute",
    "clip_outliers": f"{_TABLES}.scaling:ClipOutliers",
    "scale": f"{_TABLES}.scaling:Scale",
    "one_hot": f"{_TABLES}.categories:OneHot",
    "ordinal": f"{_TABLES}.categories:Ordinal",
    "hash_encode": f"{_TABLES}.categories:HashEncode",
    "target_encode": f"{_TABLES}.target:TargetEncode",
    "date_features": f"{_TABLES}.dates:DateFeatures",
    "pca": f"{_TABLES}.pca:PCA",
    "to_matrix": f"{_TABLES}.matrix:ToMatrix",
    "resize": f"{_IMAGES}.resize:Resize",
    "flip": f"{_IMAGES}.geometry:Flip",
    "center_crop": f"{_IMAGES}.geometry:CenterCrop",
    "random_crop": f"{_IMAGES}.geometry:RandomCrop",
    "rotate": f"{_IMAGES}.geometry:Rotate",
    "shift": f"{_IMAGES}.geometry:Shift",
    "zoom": f"{_IMAGES}.geometry:Zoom",
    "colour": f"{_IMAGES}.colour:Colour",
    "cut_out": f"{_IMAGES}.colour:CutOut",
    "greyscale": f"{_IMAGES}.colour:Greyscale",
    "normalise_images": f"{_IMAGES}.colour:NormaliseImages",
    "normalise_text": f"{_TEXTS}.cleaning:NormaliseText",
    "tokenise": f"{_TEXTS}.tokenising:Tokenise",
    "hash_texts": f"{_TEXTS}.hashing:HashTexts",
    "standardise_series": "leptonai.data.pipeline.series:StandardiseSeries",
}


def class_of(name: str) -> type[Step]:
    """Raises:
    InvalidRequest: there is no step of that name.
    """
    if name not in HOME_OF:
        raise InvalidRequest(
            f"there is no step {name!a}", hint=f"steps are {', '.join(sorted(HOME_OF))}"
        )
    module, _, of_class = HOME_OF[name].partition(":")
    found: type[Step] = getattr(import_module(module), of_class)
    return found


def name_of(step: Step) -> str:
    return str(step.__struct_config__.tag)


def step_of(told: Mapping[str, Any]) -> Step:
    """A step from its name (`type`) and options, as they stand in JSON.

    Raises:
        InvalidRequest: there is no such step, or an option is not one of its; says which.
    """
    if not isinstance(told, Mapping) or not isinstance(told.get("type"), str):
        raise InvalidRequest(
            f"a step is an object with its type, not {str(told)[:80]}",
            hint='{"type": "scale", "method": "standard"}',
        )
    kind = class_of(told["type"])
    try:
        return msgspec.convert(dict(told), kind)
    except msgspec.ValidationError as wrong:
        raise InvalidRequest(
            f"the step {told['type']}: {wrong}", hint=_hint(kind, wrong)
        ) from wrong


def checked(step: Step) -> Step:
    """Raises:
    InvalidRequest: an option has a value that it cannot have; says which.
    """
    try:  # msgspec checks what it reads, and not what is given to a class
        return msgspec.convert(msgspec.to_builtins(step), type(step))
    except msgspec.ValidationError as wrong:
        raise InvalidRequest(
            f"{type(step).__name__}: {wrong}", hint=_hint(type(step), wrong)
        ) from wrong


def _hint(kind: type[Step], wrong: msgspec.ValidationError) -> str:
    for field in msgspec.structs.fields(kind):
        if get_origin(field.type) is Literal and f"$.{field.name}`" in str(wrong):
            return f"{field.name} is one of {', '.join(map(str, get_args(field.type)))}"
    return f"its options are {', '.join(kind.__struct_fields__) or 'none'}"


def told_of(step: Step) -> dict[str, Any]:
    """As `step_of` reads it. Options that are as by default stay unsaid, so that steps may get more
    of them."""
    told: dict[str, Any] = {"type": name_of(step)}
    # A fraction that was given as 20 is 20.0, as it will be once it was read back.
    step = msgspec.convert(msgspec.to_builtins(step), type(step))
    for field in msgspec.structs.fields(step):
        value = getattr(step, field.name)
        if field.default is msgspec.NODEFAULT or value != field.default:
            told[field.name] = msgspec.to_builtins(value)
    return told
