"""``python spread_fit.py STRATEGY FILE``: a small GPT learns, on as many ranks as there are."""

import sys

import numpy as np
import torch

from leptonai.training.models import GPT

TOKENS = (np.arange(64)[:, None] + np.arange(8)) % 7 + 1


def main(strategy: str, path: str) -> None:
    torch.manual_seed(0)
    model = GPT(10, width=16, layers=1, heads=2, context=16)
    model.fit(
        TOKENS,
        2,
        16,
        validation_data=TOKENS,
        learning_rate=1e-2,
        weight_decay=0.1,
        clip_norm=0.5,
        strategy=strategy,
        quiet=True,
    )
    model.save(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
