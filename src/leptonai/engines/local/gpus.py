"""How busy this machine's GPUs are, as NVML tells."""

from contextlib import suppress
from typing import Any


class GpuMeter:
    """Loads NVML when it is first asked, and keeps it. Without it there is nothing to tell."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._devices: dict[int, Any] | None = None  # by index

    def use(self) -> dict[int, float]:
        """The share of about the last second in which something ran on each, by index. Takes some
        tens of microseconds a GPU."""
        if self._devices is None:
            self._devices = self._open()
        found: dict[int, float] = {}
        for index, device in self._devices.items():
            with suppress(Exception):  # not every GPU tells, and one may fall off its bus
                rates = self._nvml.nvmlDeviceGetUtilizationRates(device)
                found[index] = min(1.0, max(0.0, rates.gpu / 100))
        return found

    def _open(self) -> dict[int, Any]:
        with suppress(Exception):  # no driver, no library, no binding: no GPUs
            import pynvml

            pynvml.nvmlInit()
            self._nvml = pynvml
            count = pynvml.nvmlDeviceGetCount()
            return {index: pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)}
        return {}
