"""Object detection: images with boxes, as COCO writes them down."""

from typing import Any

import msgspec
import numpy as np

from leptonai.data.kinds import IMAGES, SPLITS, Described, Read
from leptonai.data.manifest import Field
from leptonai.data.walk import Listing
from leptonai.errors import InvalidRequest


class _Image(msgspec.Struct):
    id: int
    file_name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # left, top, width, height in pixels
    id: int | None = None  # without one, its place in the list names it


class _Category(msgspec.Struct):
    id: int
    name: str


class _Coco(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def describe_boxes(listing: Listing, read: Read) -> Described:
    """Every JSON file is read as COCO: together they say which images there are.

    Raises:
        InvalidRequest: one is not COCO, or names what is not there.
    """
    tables = [n for n, path in enumerate(listing.paths) if path.lower().endswith(".json")]
    if not tables:
        raise InvalidRequest(
            "there is no COCO file in it", hint="put the annotations beside the images, as .json"
        )
    parsed = [(listing.paths[n], _parse(listing.paths[n], read(n))) for n in tables]
    classes = tuple(sorted({each.name for _, coco in parsed for each in coco.categories}))
    number_of = {name: number for number, name in enumerate(classes)}
    find = _finder(listing)
    files: list[int] = []
    splits: list[str] = []
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[int] = []
    ends: list[int] = []
    for path, coco in parsed:
        names = {each.id: number_of[each.name] for each in coco.categories}
        of_image: dict[int, list[_Annotation]] = {each.id: [] for each in coco.images}
        for number, annotation in enumerate(coco.annotations):
            where = f"{path}: annotation {number if annotation.id is None else annotation.id}"
            if annotation.image_id not in of_image:
                raise _dangling(where, "image", annotation.image_id)
            if annotation.category_id not in names:
                raise _dangling(where, "category", annotation.category_id)
            if min(annotation.bbox[2:]) < 0:
                raise InvalidRequest(
                    f"{where} has a box of a negative size",
                    hint="a box is [left, top, width, height]",
                )
            of_image[annotation.image_id].append(annotation)
        for image in coco.images:
            files.append(find(path, image.file_name))
            splits.append(_split_of(path))
            for annotation in of_image[image.id]:
                boxes.append(annotation.bbox)
                labels.append(names[annotation.category_id])
            ends.append(len(boxes))
    named = tuple(each for each in ("train", "validation", "test", "") if each in {*splits})
    chosen = np.asarray(files, np.uint32)
    columns: dict[str, Any] = {
        "row_file": chosen,
        "row_at": np.zeros(len(chosen), np.uint64),
        "row_size": listing.sizes[chosen].astype(np.uint64),
        "box_end": np.asarray(ends, np.uint64),
        "box": np.asarray(boxes, np.float32).reshape(-1, 4),
        "box_label": np.asarray(labels, np.int32),
    }
    if named != ("",):
        columns["split"] = np.asarray([named.index(split) for split in splits], np.uint8)
    return Described(
        schema=(Field("image", "image"), Field("boxes", "boxes")),
        classes=classes,
        splits=named if named != ("",) else (),
        columns=columns,
    )


def _parse(path: str, content: bytes | memoryview) -> _Coco:
    try:
        coco = msgspec.json.decode(content, type=_Coco)
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        raise InvalidRequest(
            f"{path} is not COCO: {wrong}", hint="it holds images, annotations and categories"
        ) from wrong
    if not coco.images:
        raise InvalidRequest(f"{path} names no images", hint="fill it or remove it")
    return coco


def _finder(listing: Listing) -> Any:
    """Finds an image by the name that a COCO file uses, which is below some folder or none."""
    number_of = {path: number for number, path in enumerate(listing.paths)}
    by_name: dict[str, list[int]] = {}
    for path, number in number_of.items():
        if path.rpartition(".")[2].lower() in IMAGES:
            by_name.setdefault(path.rpartition("/")[2], []).append(number)

    def find(table: str, name: str) -> int:
        folder = table.rpartition("/")[0]
        for candidate in (name, f"{folder}/{name}", f"images/{name}"):
            if candidate in number_of:
                found = number_of[candidate]
                break
        else:
            alike = by_name.get(name.rpartition("/")[2], [])
            if len(alike) != 1:
                raise InvalidRequest(
                    f"{table}: the image {name!a} is "
                    + ("there more than once" if alike else "not in the data"),
                    hint="name images below the data's root, or below the folder of the COCO file",
                )
            found = alike[0]
        if not listing.sizes[found]:
            raise InvalidRequest(
                f"{listing.paths[found]!a} is empty: 0 bytes", hint="replace it, or leave it out"
            )
        return found

    return find


def _split_of(path: str) -> str:
    """Of `annotations/instances_val2017.json`: validation."""
    words = "".join(char if char.isalpha() else " " for char in path.lower()).split()
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _dangling(where: str, what: str, id: int) -> InvalidRequest:
    return InvalidRequest(
        f"{where} is of the {what} {id}, which is not in it",
        hint="remove the annotation, or add what it is of",
    )
