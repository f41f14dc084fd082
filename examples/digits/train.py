"""Learn to read handwritten digits, on as many workers as the job has.

    leptonai train --num-workers 2 --dataset digits train.py -- --register digits

Or alone, from a directory of images: python train.py --dataset DIRECTORY
"""

import argparse
import os

import torch

import leptonai as l
from leptonai.data.pipeline import Greyscale, NormaliseImages, RandomCrop
from leptonai.training.models import CNN

SIDE = 8  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=os.environ.get("LEPTON_DATASET"), help="name or path")
    parser.add_argument("--register", metavar="NAME", help="of the model in the workspace")
    parser.add_argument("--output", metavar="DIRECTORY", help="save the model there")
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    if not arguments.dataset:
        parser.error("name the data: --dataset, here or with `leptonai train --dataset`")

    dataset = l.Dataset.from_local(arguments.dataset)
    train, held_out = dataset.split(train=0.8, test=0.2, stratify=True).values()
    steps = [Greyscale(), RandomCrop(SIDE, SIDE, pad=1, fill="black"), NormaliseImages()]
    pipeline = l.Pipeline(steps).fit(train, image_size=(SIDE, SIDE))

    torch.manual_seed(0)
    model = CNN((SIDE, SIDE, 1), len(train.classes), widths=(32, 64))
    model.fit(
        train,
        epochs=arguments.epochs,
        batch_size=48,
        validation_data=held_out,
        pipeline=pipeline,
        learning_rate=2e-3,
        schedule="one cycle",
        register=arguments.register,
    )
    if arguments.output:
        model.save(arguments.output, pipeline=pipeline)


if __name__ == "__main__":
    main()
