"""Amounts of machine, as exact whole numbers of the smallest unit.

"16GiB" and "2.5 cores" exist only at the edge, where they are parsed.
"""

import msgspec

MILLIS = 1_000  # of a core, or of a GPU
MIB = 1 << 20


class Needs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one replica needs of its node.

    `gpus` devices, of each `gpu_millis` thousandths: two whole GPUs are (2, 1000), half of one is
    (1, 500).
    """

    cpu_millis: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    gpu_millis: int = MILLIS
    gpu_type: str = ""  # "" takes any, "A100|H100" either

    def takes_gpu(self, gpu_type: str) -> bool:
        return not self.gpu_type or gpu_type in self.gpu_type.split("|")

    def __post_init__(self) -> None:
        assert min(self.cpu_millis, self.memory_bytes, self.disk_bytes, self.gpus) >= 0, self
        assert 0 < self.gpu_millis <= MILLIS, self


class Capacity(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node has in all; its GPUs are of one type."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: int = 0
    gpu_type: str = ""


class Free(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has left. `gpu_millis[i]` is what is left of device i."""

    cpu_millis: int
    memory_bytes: int
    disk_bytes: int
    gpu_millis: tuple[int, ...] = ()
    gpu_type: str = ""

    @classmethod
    def all_of(cls, capacity: Capacity) -> "Free":
        return cls(
            cpu_millis=capacity.cpu_millis,
            memory_bytes=capacity.memory_bytes,
            disk_bytes=capacity.disk_bytes,
            gpu_millis=(MILLIS,) * capacity.gpus,
            gpu_type=capacity.gpu_type,
        )

    def choose_gpus(self, needs: Needs) -> tuple[int, ...] | None:
        """The devices to give, or None where they do not suffice.

        A share goes to the fullest device that still has room for it (so that whole devices stay
        whole), and whole devices in their order.
        """
        if needs.gpus == 0:
            return ()
        if not needs.takes_gpu(self.gpu_type):
            return None
        fitting = [i for i, left in enumerate(self.gpu_millis) if left >= needs.gpu_millis]
        if len(fitting) < needs.gpus:
            return None
        fitting.sort(key=lambda i: (self.gpu_millis[i], i))
        return tuple(sorted(fitting[: needs.gpus]))

    def fits(self, needs: Needs) -> bool:
        return (
            needs.cpu_millis <= self.cpu_millis
            and needs.memory_bytes <= self.memory_bytes
            and needs.disk_bytes <= self.disk_bytes
            and self.choose_gpus(needs) is not None
        )

    def take(self, needs: Needs, gpus: tuple[int, ...]) -> "Free":
        """What is left after `needs` took these devices. Below zero where a node shrank under its
        replicas: then nothing more fits until some have left."""
        return self._changed(needs, gpus, -1)

    def give(self, needs: Needs, gpus: tuple[int, ...]) -> "Free":
        """What is left after these devices were given back."""
        return self._changed(needs, gpus, 1)

    def at_most(self, other: "Free") -> "Free":
        """Of everything no more than the other has left."""
        return Free(
            cpu_millis=min(self.cpu_millis, other.cpu_millis),
            memory_bytes=min(self.memory_bytes, other.memory_bytes),
            disk_bytes=min(self.disk_bytes, other.disk_bytes),
            gpu_millis=tuple(map(min, self.gpu_millis, other.gpu_millis)),
            gpu_type=self.gpu_type,
        )

    def _changed(self, needs: Needs, gpus: tuple[int, ...], sign: int) -> "Free":
        left = list(self.gpu_millis)
        for index in gpus:
            if index < len(left):
                left[index] += sign * needs.gpu_millis
        return Free(
            cpu_millis=self.cpu_millis + sign * needs.cpu_millis,
            memory_bytes=self.memory_bytes + sign * needs.memory_bytes,
            disk_bytes=self.disk_bytes + sign * needs.disk_bytes,
            gpu_millis=tuple(left),
            gpu_type=self.gpu_type,
        )
