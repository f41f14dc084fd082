"""`python -m leptonai.pod PLAN`: the process of one pod, until SIGTERM."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec

from leptonai.pod.place import Place
from leptonai.pod.server import serve
from leptonai.spec.pods import PodPlan


def main(arguments: list[str]) -> None:
    plan = msgspec.json.decode(arguments[0], type=PodPlan)
    place = Place.of(plan, os.environ, Path.cwd())
    asyncio.run(serve(place, plan))


if __name__ == "__main__":
    main(sys.argv[1:])
