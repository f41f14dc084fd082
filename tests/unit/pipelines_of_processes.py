"""Pipelines that other processes import: here without torch, which takes seconds."""

import os

import numpy as np


def plus_pid(batch):
    return batch | {"pid": np.full(len(batch["id"]), os.getpid())}


def end_of_the_process(batch):
    os._exit(1)
