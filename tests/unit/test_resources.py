"""What fits on a node, and what is left when it was taken."""

from hypothesis import given
from hypothesis import strategies as st

from leptonai.core.resources import MILLIS, Capacity, Free, Needs

amounts = st.integers(0, 1 << 40)
shares = st.integers(1, MILLIS)


@st.composite
def any_needs(draw: st.DrawFn) -> Needs:
    return Needs(
        cpu_millis=draw(amounts),
        memory_bytes=draw(amounts),
        disk_bytes=draw(amounts),
        gpus=draw(st.integers(0, 5)),
        gpu_millis=draw(st.sampled_from([1, 250, 500, MILLIS]) | shares),
        gpu_type=draw(st.sampled_from(["", "H100", "A10"])),
    )


@st.composite
def any_free(draw: st.DrawFn) -> Free:
    return Free(
        cpu_millis=draw(amounts),
        memory_bytes=draw(amounts),
        disk_bytes=draw(amounts),
        gpu_millis=tuple(draw(st.lists(st.integers(0, MILLIS), max_size=8))),
        gpu_type=draw(st.sampled_from(["H100", "A10"])),
    )


def gpus(*left: int, kind: str = "H100") -> Free:
    return Free(cpu_millis=0, memory_bytes=0, disk_bytes=0, gpu_millis=left, gpu_type=kind)


def test_all_of_a_node_is_free_at_first():
    capacity = Capacity(cpu_millis=8000, memory_bytes=64, disk_bytes=9, gpus=2, gpu_type="H100")
    assert Free.all_of(capacity) == Free(
        cpu_millis=8000,
        memory_bytes=64,
        disk_bytes=9,
        gpu_millis=(MILLIS, MILLIS),
        gpu_type="H100",
    )


def test_taking_leaves_the_rest():
    free = Free(cpu_millis=8000, memory_bytes=64, disk_bytes=9, gpu_millis=(1000, 600))
    needs = Needs(cpu_millis=500, memory_bytes=24, disk_bytes=9, gpus=1, gpu_millis=500)
    assert free.take(needs, (1,)) == Free(
        cpu_millis=7500, memory_bytes=40, disk_bytes=0, gpu_millis=(1000, 100)
    )


def test_a_share_goes_to_the_fullest_device_that_has_room_for_it():
    assert gpus(1000, 400, 600).choose_gpus(Needs(gpus=1, gpu_millis=500)) == (2,)


def test_whole_devices_are_given_in_their_order():
    assert gpus(1000, 400, 1000, 1000).choose_gpus(Needs(gpus=2)) == (0, 2)


def test_no_device_is_given_where_too_few_have_room():
    assert gpus(1000, 400).choose_gpus(Needs(gpus=2)) is None


def test_a_wish_for_a_type_of_gpu_is_met_by_that_type_alone():
    wish = Needs(gpus=1, gpu_type="A10")
    assert gpus(1000, kind="H100").choose_gpus(wish) is None
    assert gpus(1000, kind="A10").choose_gpus(wish) == (0,)


def test_what_needs_no_gpu_does_not_care_for_their_type():
    assert gpus(0, kind="H100").choose_gpus(Needs(gpu_type="A10")) == ()


@given(any_free(), any_needs())
def test_what_fits_leaves_nothing_below_zero(free, needs):
    if not free.fits(needs):
        return
    chosen = free.choose_gpus(needs)
    left = free.take(needs, chosen)
    assert min(left.cpu_millis, left.memory_bytes, left.disk_bytes, *left.gpu_millis, 0) == 0
    assert len(set(chosen)) == needs.gpus


@given(any_free(), any_needs())
def test_what_does_not_fit_would_take_more_than_there_is(free, needs):
    roomy = [left for left in free.gpu_millis if left >= needs.gpu_millis]
    has_gpus = needs.gpus == 0 or (
        len(roomy) >= needs.gpus and needs.gpu_type in ("", free.gpu_type)
    )
    has_rest = (
        needs.cpu_millis <= free.cpu_millis
        and needs.memory_bytes <= free.memory_bytes
        and needs.disk_bytes <= free.disk_bytes
    )
    assert free.fits(needs) == (has_gpus and has_rest)


@given(any_free(), any_needs(), any_needs())
def test_the_order_of_taking_does_not_change_what_is_left(free, one, other):
    first, second = free.choose_gpus(one) or (), free.choose_gpus(other) or ()
    assert free.take(one, first).take(other, second) == free.take(other, second).take(one, first)


@given(any_free(), any_needs())
def test_taking_a_device_that_the_node_has_lost_takes_none_of_the_others(free, needs):
    gone = len(free.gpu_millis)
    assert free.take(needs, (gone,)).gpu_millis == free.gpu_millis


@given(any_needs())
def test_a_node_of_exactly_the_needs_holds_them_once(needs):
    node = Free.all_of(
        Capacity(
            cpu_millis=needs.cpu_millis,
            memory_bytes=needs.memory_bytes,
            disk_bytes=needs.disk_bytes,
            gpus=needs.gpus,
            gpu_type=needs.gpu_type,
        )
    )
    assert node.fits(needs)
    left = node.take(needs, node.choose_gpus(needs))
    anything = needs.cpu_millis or needs.memory_bytes or needs.disk_bytes
    assert not (anything and left.fits(needs))
