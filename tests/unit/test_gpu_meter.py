"""How busy GPUs are, as a driver tells that is not there."""

import sys
from types import SimpleNamespace

from leptonai.engines.local.gpus import GpuMeter


def test_each_gpu_that_tells_is_measured(monkeypatch):
    def rates(index):
        if index == 1:
            raise RuntimeError("it fell off the bus")
        return SimpleNamespace(gpu=40 + index)

    opened = []
    nvml = SimpleNamespace(
        nvmlInit=lambda: opened.append(True),
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUtilizationRates=rates,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = GpuMeter()
    assert [meter.use(), meter.use()] == [{0: 0.4, 2: 0.42}] * 2
    assert opened == [True]


def test_without_a_driver_there_is_nothing_to_tell(monkeypatch):
    def missing():
        raise OSError("no driver")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(nvmlInit=missing))
    assert GpuMeter().use() == {}
