"""Where a fine-tuning's model and its examples come from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leptonai.errors import InvalidRequest, NotFound

HUB = "hf://"
FILE = "file://"
LINES = frozenset({".jsonl", ".ndjson"})


def model_at(uri: str, scratch: Path) -> str:
    """A directory; or the name of a model that `transformers` fetches. A registered one is fetched
    into `scratch`.

    Raises:
        NotFound: there is none.
    """
    if uri.startswith(HUB):
        return uri.removeprefix(HUB)
    place = Path(uri.removeprefix(FILE))
    if uri.startswith(FILE) or place.is_absolute() or place.is_dir():
        if not place.is_dir():
            raise NotFound(f"there is no directory {place}", hint="name a registered model")
        return str(place)
    from leptonai.client import LeptonClient

    with LeptonClient(retry_for_s=600) as client:
        client.models.download(uri, scratch)
    return str(scratch)


def rows_of(uri: str) -> Iterator[dict[str, Any]]:
    """Of a registered dataset, or of a file of rows.

    Raises:
        NotFound: there is none.
        InvalidRequest: a row cannot be read; says which.
    """
    from leptonai.data.dataset import Dataset

    dataset = Dataset.from_local(uri.removeprefix(FILE))
    if len(dataset) == 0:
        return
    if Path(dataset.path_of(0)).suffix not in LINES:
        yield from dataset.frame().collect().iter_rows(named=True)
        return
    for number in range(len(dataset)):
        try:
            row = json.loads(bytes(dataset[number].data))
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"row {number + 1} of {uri} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise InvalidRequest(f"row {number + 1} of {uri} is no object")
        yield row
