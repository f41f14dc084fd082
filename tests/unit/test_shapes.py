import pytest

from leptonai.core.records import Node
from leptonai.core.resources import MIB, Capacity, Needs
from leptonai.core.shapes import Requested, gpu_type_of, resources_of, shapes
from leptonai.errors import InvalidRequest


def asked(**fields):
    names = ("shape", "cpu", "memory_mib", "disk_gb", "gpu_type", "gpus")
    return resources_of(**{name: fields.get(name) for name in names})


def test_nothing_asked_is_a_small_share_without_limits():
    assert asked() == Requested(needs=Needs(cpu_millis=250, memory_bytes=256 * MIB))


def test_a_cpu_shape_limits_memory_and_leaves_idle_cores_usable():
    assert asked(shape="cpu.small") == Requested(
        needs=Needs(cpu_millis=1000, memory_bytes=4096 * MIB), limit_memory_bytes=4096 * MIB
    )


def test_explicit_amounts_override_the_shape_and_are_limits():
    assert asked(shape="cpu.large", cpu=0.5, memory_mib=100) == Requested(
        needs=Needs(cpu_millis=500, memory_bytes=100 * MIB),
        limit_cpu_millis=500,
        limit_memory_bytes=100 * MIB,
    )


def test_a_gpu_shape_names_devices_and_limits_nothing():
    assert asked(shape="gpu.2xa10") == Requested(
        needs=Needs(cpu_millis=4000, memory_bytes=16 * 1024 * MIB, gpus=2, gpu_type="a10")
    )


def test_an_accelerator_type_alone_is_one_of_it():
    assert asked(gpu_type="NVIDIA H200").needs.gpus == 1


def test_half_a_gpu_is_500_thousandths_of_one():
    needs = asked(gpus=0.5).needs
    assert (needs.gpus, needs.gpu_millis) == (1, 500)


@pytest.mark.parametrize(
    "fields",
    [
        {"shape": "cpu.huge"},
        {"shape": "gpu."},
        {"gpus": 1.5},
        {"cpu": 1e12},
        {"memory_mib": 1 << 50},
        {"cpu": float("nan")},
    ],
)
def test_what_cannot_be_meant_is_refused(fields):
    with pytest.raises(InvalidRequest):
        asked(**fields)


def test_the_refusal_of_an_unknown_shape_lists_the_known_ones():
    with pytest.raises(InvalidRequest) as refusal:
        asked(shape="cpu.huge")
    assert "cpu.small, cpu.medium, cpu.large" in refusal.value.hint


def test_the_offered_gpu_shapes_are_those_of_the_nodes():
    node = Node(
        workspace="",
        id="n",
        name="n",
        created_at_ms=0,
        group="local",
        capacity=Capacity(gpus=4, gpu_type="NVIDIA H200"),
    )
    assert [shape.name for shape in shapes([node])] == [
        "cpu.small",
        "cpu.medium",
        "cpu.large",
        "gpu.h200",
        "gpu.2xh200",
        "gpu.4xh200",
    ]


@pytest.mark.parametrize(
    ("shape", "meant"),
    [
        ("gpu.h200", "NVIDIA H200"),
        ("gpu.8xa100-80gb", "NVIDIA A100-SXM4-80GB"),
        ("gpu.b300", None),
        ("cpu.small", None),
        (None, None),
    ],
)
def test_a_gpu_shape_means_the_type_whose_name_has_its_words(shape, meant):
    assert gpu_type_of(shape, ["NVIDIA H200", "NVIDIA A100-SXM4-80GB"]) == meant
