"""A process of `benchmarks.training.start`: says when its first step is done."""

import time

import numpy as np
from torch import nn

from leptonai.training import Trainer

chance = np.random.default_rng(0)
inputs, targets = chance.normal(size=(64, 64)).astype(np.float32), chance.integers(0, 10, 64)
model = nn.Sequential(
    nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
)
Trainer(model, (inputs, targets), batch_size=64, max_steps=1, quiet=True).fit()
print(time.monotonic(), time.process_time())
