"""Pipelines that other processes import: here without torch, which takes seconds."""

import os

import numpy as np


class Noisy:
    """Adds what chance gives to each sample; nothing without chance."""

    def transform(self, batch, chance=None):
        noise = np.zeros(len(batch["id"])) if chance is None else chance.uniform(1, 2)[:, 0]
        return batch | {"noise": noise}


def plus_pid(batch):
    return batch | {"pid": np.full(len(batch["id"]), os.getpid())}


def end_of_the_process(batch):
    os._exit(1)


def fail_at_13(batch):
    if 13 in batch["id"].tolist():
        raise KeyError("no such thing")
    return batch


class Unsendable(Exception):
    """Whose arguments are not those that it hands on, so that pickle cannot make it again."""

    def __init__(self, found, wanted):
        super().__init__(f"{found} is not {wanted}")


def fail_unsendably(batch):
    raise Unsendable(1, 2)
