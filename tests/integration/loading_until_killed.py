"""Reads epochs of images, and says of each batch in one line what was in it and how to go on.

    python loading_until_killed.py FOLDER OPTIONS [STATE]

A label is a sample's number, so labels tell which samples were read.
"""

import json
import os
import sys
import time

from leptonai.data import DataLoader
from leptonai.data.folder import LocalFolder

sys.modules["torch"] = None  # type: ignore[assignment]  # which takes seconds to import
PAUSE_S = 0.005  # between batches, so that it is still at work when it is killed


def main() -> None:
    folder, options = sys.argv[1], json.loads(sys.argv[2])
    loader = DataLoader(LocalFolder(folder), shuffle=True, seed=4, image_size=(8, 8), **options)
    if sys.argv[3:]:
        loader.load_state_dict(json.loads(sys.argv[3]))
    while loader.epoch < 3:
        for _images, labels in loader:
            line = {"read": labels.tolist(), "state": loader.state_dict(), "pid": os.getpid()}
            os.write(1, json.dumps(line).encode() + b"\n")
            time.sleep(PAUSE_S)


if __name__ == "__main__":
    main()
