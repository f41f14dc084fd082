"""``python -m leptonai.serving FILE.py[:Class]`` serves a photon."""

import argparse
import sys

from leptonai.errors import LeptonError
from leptonai.serving.loading import load


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leptonai.serving",
        description="Serve a photon until SIGTERM.",
        epilog="example: python -m leptonai.serving counter.py:Counter --port 9000",
    )
    parser.add_argument("photon", metavar="FILE.py[:Class]")
    parser.add_argument("--host", help="$LEPTON_BIND, or 127.0.0.1, unless given")
    parser.add_argument("--port", type=int, help="$PORT, or 8080, unless given")
    arguments = parser.parse_args()
    try:
        photon = load(arguments.photon)
    except LeptonError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")
    photon().launch(arguments.host, arguments.port)


if __name__ == "__main__":
    main()
