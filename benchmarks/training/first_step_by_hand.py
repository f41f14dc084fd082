"""As `first_step.py`, with torch alone."""

import time

import numpy as np
import torch
from torch import nn

chance = np.random.default_rng(0)
inputs, targets = chance.normal(size=(64, 64)).astype(np.float32), chance.integers(0, 10, 64)
model = nn.Sequential(
    nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
at = torch.randperm(64)
scores = model(torch.from_numpy(inputs)[at])
loss = nn.functional.cross_entropy(scores, torch.from_numpy(targets)[at])
loss.backward()
optimizer.step()
optimizer.zero_grad()
print(time.monotonic(), time.process_time())
