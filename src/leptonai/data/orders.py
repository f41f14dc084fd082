"""`JobOrder`: what the workers of a job are told to do, as JSON in the directory they go by."""

from pathlib import Path
from typing import ClassVar, Self

import msgspec

from leptonai.errors import InvalidRequest

MAX_ORDER_BYTES = 64 << 20


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    FILE: ClassVar[str]
    STARTED_BY: ClassVar[str]  # what a person does to have such a job

    def write(self, directory: Path) -> None:
        (directory / self.FILE).write_bytes(msgspec.json.format(msgspec.json.encode(self)))

    @classmethod
    def read(cls, directory: Path) -> Self:
        """Raises:
        InvalidRequest: there is none, or it is none.
        """
        try:
            with (directory / cls.FILE).open("rb") as file:
                return msgspec.json.decode(file.read(MAX_ORDER_BYTES), type=cls)
        except (OSError, msgspec.DecodeError) as wrong:
            raise InvalidRequest(
                f"{directory} does not say what to do: {wrong}",
                hint=f"this program is started by: {cls.STARTED_BY}",
            ) from None
