"""What a command needs beside what every installation has."""

from leptonai.errors import InvalidRequest


def need_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as missing:
        hint = "pip install 'openlepton[optimize]'"
        raise InvalidRequest("simulating needs numpy, which is not there", hint=hint) from missing
