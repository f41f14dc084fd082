"""``python spread_gan.py FOLDER EPOCHS``: a small GAN learns, on as many ranks as there are."""

import os
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from leptonai.training.models import GAN

IMAGES = np.random.default_rng(0).integers(0, 255, (23, 8, 8, 1)).astype(np.float32)


def main(folder: Path, epochs: int) -> None:
    rank = os.environ.get("RANK", "0")
    torch.manual_seed(int(rank))  # the first rank's weights count
    model = GAN((8, 8, 1), 4, width=8)
    history = model.fit(IMAGES, epochs, 8, seed=3, checkpoint=folder / "checkpoint")
    assert len(history.epochs) == epochs
    save_file(model.state_dict(), folder / f"{epochs}-{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
