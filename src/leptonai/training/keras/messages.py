"""What the job tells whoever waits for it: lines of its log that a person can read, too."""

import json
from typing import Any, NamedTuple

from leptonai.errors import LeptonError

_MARK = '{"lepton": "'
UPDATE = "\r"  # begins a line that the next one takes the place of, as on a terminal


class Message(NamedTuple):
    kind: str  # begin, epoch, result or error
    fields: dict[str, Any]

    def line(self) -> str:
        return json.dumps({"lepton": self.kind, **self.fields})


def read(line: str) -> Message | None:
    """None where it is something that was merely printed."""
    if not line.startswith(_MARK):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return Message(str(fields.pop("lepton")), fields)


def of_error(error: LeptonError) -> Message:
    return Message("error", error.wire())
