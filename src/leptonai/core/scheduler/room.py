"""How much more fits: what the nodes have left while a plan is being made."""

from zlib import crc32

from leptonai.core.resources import Free, Needs
from leptonai.core.scheduler.values import ANY_PORT, Assignment, Gang, Holding, NodeView, Worker

UNBOUNDED = 1 << 30  # workers that need nothing fit without end


def copies(free: Free, needs: Needs) -> int:
    """How many workers of one size fit there together."""
    if min(free.cpu_millis, free.memory_bytes, free.disk_bytes) < 0:
        return 0  # the node shrank under its replicas
    many = UNBOUNDED
    if needs.cpu_millis:
        many = free.cpu_millis // needs.cpu_millis
    if needs.memory_bytes:
        many = min(many, free.memory_bytes // needs.memory_bytes)
    if needs.disk_bytes:
        many = min(many, free.disk_bytes // needs.disk_bytes)
    if needs.gpus and many:
        many = min(many, _copies_on_gpus(free, needs, many))
    return many


def _copies_on_gpus(free: Free, needs: Needs, limit: int) -> int:
    if needs.gpu_type and needs.gpu_type != free.gpu_type:
        return 0
    shares = sum(left // needs.gpu_millis for left in free.gpu_millis if left > 0)
    if needs.gpus == 1 or 2 * needs.gpu_millis > 1000:  # at most one share of each worker a device
        return shares // needs.gpus
    only_gpus = Needs(gpus=needs.gpus, gpu_millis=needs.gpu_millis)
    many = 0
    while many < limit and (gpus := free.choose_gpus(needs)) is not None:
        free = free.take(only_gpus, gpus)
        many += 1
    return many


class Room:
    """A node while a plan is made: what is free of it, and which of its ports are given."""

    __slots__ = ("_lowest_port", "free", "free_ports", "kept_for", "open", "taken_ports", "view")

    def __init__(self, view: NodeView) -> None:
        self.view = view
        self.free = Free.all_of(view.capacity)
        self.open = self.free  # what is free, less what is kept for an overdue gang
        self.kept_for: tuple[Gang, Needs] | None = None  # the first, and how much for all
        self.taken_ports: set[int] = set()
        self.free_ports = view.ports_to - view.ports_from
        self._lowest_port = view.ports_from

    def hold(self, holding: Holding) -> None:
        self.free = self.open = self.free.take(holding.needs, holding.gpus)
        for port in holding.ports:
            self._take_port(port)

    def keep(self, gang: Gang, amount: Needs) -> None:
        """Let later gangs use only what is left beside this amount, resource by resource."""
        first, kept = self.kept_for or (gang, Needs())
        kept = Needs(
            cpu_millis=max(kept.cpu_millis, amount.cpu_millis),
            memory_bytes=max(kept.memory_bytes, amount.memory_bytes),
            disk_bytes=max(kept.disk_bytes, amount.disk_bytes),
            gpus=max(kept.gpus, amount.gpus),
        )
        self.kept_for = (first, kept)
        self._reopen()

    def unkept(self) -> "Room":
        """The same node with nothing kept of it: to ask what would be without."""
        other = Room(self.view)
        other.free = other.open = self.free
        other.free_ports = self.free_ports
        return other

    def copies(self, needs: Needs, ports: int) -> int:
        """How many such workers may be placed here now. One port stays for the rendezvous."""
        many = copies(self.open, needs)
        if many and ports:
            return min(many, max(0, self.free_ports - 1) // ports)
        return many if self.free_ports > 0 else 0

    def place(self, worker: Worker, now_ms: int) -> Assignment:
        """Give a worker that fits its GPUs and its ports."""
        gpus = self.open.choose_gpus(worker.needs)
        assert gpus is not None, (self.view.id, worker)
        self.free = self.free.take(worker.needs, gpus)
        self._reopen()
        ports = []
        for wish in worker.ports:
            if wish == ANY_PORT:
                ports.append(self.changing_port(worker.replica, now_ms))
                continue
            port = self._lowest_free_port() if wish in self.taken_ports else wish
            self._take_port(port)
            ports.append(port)
        return Assignment(worker.replica, self.view.id, gpus, tuple(ports))

    def changing_port(self, of: str, now_ms: int) -> int:
        """A free port that is another one at every try: the last may have been taken by a stranger,
        or by a process that lingers."""
        span = self.view.ports_to - self.view.ports_from
        port = self.view.ports_from + crc32(f"{of}@{now_ms}".encode()) % span
        while port in self.taken_ports:
            port = port + 1 if port + 1 < self.view.ports_to else self.view.ports_from
        self._take_port(port)
        return port

    def _lowest_free_port(self) -> int:
        while self._lowest_port in self.taken_ports:
            self._lowest_port += 1
        return self._lowest_port

    def _take_port(self, port: int) -> None:
        if port not in self.taken_ports:
            self.taken_ports.add(port)
            if self.view.ports_from <= port < self.view.ports_to:
                self.free_ports -= 1

    def _reopen(self) -> None:
        free = self.free
        if self.kept_for is None:
            self.open = free
            return
        _, kept = self.kept_for
        self.open = Free(
            cpu_millis=_beside(free.cpu_millis, kept.cpu_millis),
            memory_bytes=_beside(free.memory_bytes, kept.memory_bytes),
            disk_bytes=_beside(free.disk_bytes, kept.disk_bytes),
            gpu_millis=() if kept.gpus else free.gpu_millis,
            gpu_type=free.gpu_type,
        )


def _beside(free: int, kept: int) -> int:
    return max(min(free, 0), free - kept)
