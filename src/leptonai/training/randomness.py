"""The state of all that draws: torch's generators on this rank, numpy's and Python's."""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def seed_all(seed: int, rank: int, device: torch.device) -> None:
    """Ranks draw differently from each other, and each the same every time."""
    mine = seed * 1_000_003 + rank
    if device.type == "cpu":  # without a note for each accelerator that is not used
        torch.default_generator.manual_seed(mine % 2**63)
    else:
        torch.manual_seed(mine % 2**63)
    np.random.seed(mine % 2**32)
    random.seed(mine)


def capture(device: torch.device) -> dict[str, Tensor]:
    """Tensors of the same shapes on every rank, which `restore` takes."""
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    assert not isinstance(keys, str), "asked for as a tuple"
    version, words, gauss_next = random.getstate()
    assert version == 3, "Python's generator has another form"
    states = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(keys.astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_rest": torch.tensor(
            [gauss_next is not None, gauss_next or 0.0], dtype=torch.float64
        ),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    position, has_gauss, gauss = states["numpy_rest"].tolist()
    keys = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))
    there, gauss_next = states["python_rest"].tolist()
    words = tuple(states["python"].tolist())
    random.setstate((3, words, gauss_next if there else None))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """The same numbers each time, also where that is slower, for as long as this lasts."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
