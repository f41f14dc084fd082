"""Photographs of dogs and cats: a folder for each class, as most people keep their own images."""

from pathlib import Path
from typing import ClassVar, NamedTuple

from leptonai.data.dataset import Dataset
from leptonai.data.decoding import JPEG_MAGIC
from leptonai.data.folder import LocalFolder
from leptonai.data.progress import Steps
from leptonai.data.sets.places import Published, unpacked
from leptonai.errors import InvalidRequest

HELD_OUT = 0.2
MAX_WRAPPERS = 4  # folders around the classes' own
IMAGE_MAGICS = (JPEG_MAGIC, b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")


class TrainAndTest(NamedTuple):
    train: Dataset
    test: Dataset


class DogsAndCats:
    """25,000 photographs of many sizes, or any folder of images in a folder for each class.

    Source: Elson, Douceur, Howell and Saul 2007, "Asirra: A CAPTCHA that Exploits
        Interest-Aligned Manual Image Categorization".
    """

    published: ClassVar[Published] = Published(
        "https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/"
        "kagglecatsanddogs_5340.zip",
        "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9",
    )

    @classmethod
    def split(
        cls,
        source: str | Path | None = None,
        *,
        sha256: str | None = None,
        seed: int = 0,
        held_out: float = HELD_OUT,
        progress: Steps | None = None,
    ) -> TrainAndTest:
        """Its own parts, if it has folders of these names; else hold out the same share of every
        class to test with, by the files' names alone.

        Files that do not begin like an image are left out: the published archive has some that are
        empty.

        Args:
            source: a directory, an archive, or an address of one; by default the publisher's,
                which is checked against what was published.
            sha256: of the archive at the given address; not checked unless given.

            progress: is told, now and then, what is being done (fetching, unpacking), how many
                bytes of it are, and of how many.

        Raises:
            NotFound, Unavailable: it is not there, or cannot be fetched.
            InvalidRequest: the archive is damaged, or not every class has images.
        """
        root = _folder_of_classes(
            unpacked("dogs-and-cats", source, cls.published, sha256=sha256, progress=progress)
        )
        folder = LocalFolder(
            root, kind="image classification", keep=lambda path: _is_image(root / path)
        )
        images = Dataset(folder, name=root.name)
        classes = {*images.classes}
        folders = {each.name for each in root.iterdir() if each.is_dir()}
        if len(classes) < 2 or (not folder.splits and folders != classes):
            bare = ", ".join(sorted(folders - classes))
            raise InvalidRequest(
                f"{root} has no images of {bare}" if bare else f"{root} has one class alone",
                hint="put the images of each class in a folder of its own",
            )
        if folder.splits:
            parts = images.split()
        else:
            shares = {"train": 1 - held_out, "test": held_out}
            parts = images.split(seed=seed, stratify=True, **shares)
        if missing := {"train", "test"} - {*parts}:
            raise InvalidRequest(f"{root} has parts, but no {missing.pop()}", hint="add it")
        return TrainAndTest(parts["train"], parts["test"])


def _folder_of_classes(root: Path) -> Path:
    """Archives often wrap them in a folder or two."""
    for _ in range(MAX_WRAPPERS):
        folders = [each for each in root.iterdir() if each.is_dir() and each.name[0] not in "._"]
        if len(folders) != 1:
            break
        root = folders[0]
    return root


def _is_image(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4).startswith(IMAGE_MAGICS)
