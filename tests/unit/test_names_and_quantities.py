"""What people type: names and amounts."""

import pytest

from leptonai.errors import InvalidRequest
from leptonai.spec.names import check_env_name, check_label, check_name, check_secret_name
from leptonai.spec.quantities import (
    cpu_cores,
    duration_s,
    memory_mib,
    moment_s,
    past_s,
    priority_class,
    show_mib,
)


@pytest.mark.parametrize("name", ["a", "hello", "ddp-2", "a" * 36])
def test_names_of_lower_case_letters_digits_and_dashes_are_fine(name):
    assert check_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "1a",
        "-a",
        "A",
        "a_b",
        "a-",
        "a" * 37,
        "made-by-lepton",
        "a b",
        "ä",
        "a\n",
        "a/b",
        "\udc80",
    ],
)
def test_other_names_are_refused_with_a_hint(name):
    with pytest.raises(InvalidRequest) as caught:
        check_name(name)
    assert caught.value.hint
    (caught.value.message + caught.value.hint).encode()  # printable, whatever was typed


def test_a_refused_name_comes_with_one_that_is_near():
    with pytest.raises(InvalidRequest) as caught:
        check_name("My Model_2", "job")
    assert caught.value.wire() == {
        "code": "InvalidRequest",
        "message": "the job's name 'My Model_2' is not allowed",
        "hint": "for example my-model-2",
    }


def test_variables_that_the_platform_sets_are_refused():
    assert check_env_name("HF_HOME") is None
    with pytest.raises(InvalidRequest, match="set by the platform"):
        check_env_name("LEPTON_JOB_NAME")
    with pytest.raises(InvalidRequest, match="not allowed"):
        check_env_name("1A")
    with pytest.raises(InvalidRequest, match="not allowed"):
        check_secret_name("a b")


def test_labels_are_what_a_selector_can_name():
    assert check_label("team/ml", "vision") is None
    with pytest.raises(InvalidRequest, match="label key"):
        check_label("k" * 64, "")
    with pytest.raises(InvalidRequest, match="value of the label"):
        check_label("k", "a,b")


@pytest.mark.parametrize(
    ("text", "mib"),
    [("2GiB", 2048), ("2gi", 2048), ("512Mi", 512), ("1.5 GiB", 1536), ("1GB", 954), ("1k", 1)],
)
def test_memory_is_rounded_up_to_mib(text, mib):
    assert memory_mib(text) == mib


@pytest.mark.parametrize("text", ["2", "", "GiB", "-1GiB", "2XB", "1e3GiB", "0GiB", "inf", "٢GiB"])
def test_other_amounts_of_memory_are_refused(text):
    with pytest.raises(InvalidRequest) as caught:
        memory_mib(text)
    assert caught.value.hint.startswith("write a number and a unit")


def test_cpu_is_in_cores():
    assert [cpu_cores(text) for text in ("2", "2.5", "500m", "0.001")] == [2.0, 2.5, 0.5, 0.001]
    for text in ("", "two", "-1", "0", "0.0001", "nan", "1e3"):
        with pytest.raises(InvalidRequest):
            cpu_cores(text)


def test_durations_are_in_seconds():
    assert [duration_s(text) for text in ("90", "90s", "1h30m", "3d")] == [90, 90, 5400, 259200]
    for text in ("", "h", "1w", "-1s", "1.5h"):
        with pytest.raises(InvalidRequest):
            duration_s(text)


def test_priorities_have_three_words_nine_numbers_and_nine_classes():
    assert [priority_class(text) for text in ("low", "Mid", "high", "1", "9", "mid-6000")] == [
        "low-2000",
        "mid-5000",
        "high-8000",
        "low-1000",
        "high-9000",
        "mid-6000",
    ]
    for text in ("0", "10", "urgent", "low-9000", ""):
        with pytest.raises(InvalidRequest):
            priority_class(text)


def test_memory_is_shown_in_its_natural_unit():
    assert [show_mib(mib) for mib in (512, 1024, 1536, 10240)] == [
        "512MiB",
        "1GiB",
        "1.5GiB",
        "10GiB",
    ]


def test_times_are_from_now_or_of_the_calendar():
    assert moment_s("+90m", 1_000.7) == 6_400
    assert moment_s("1970-01-01T01:00+00:00", 0) == 3_600
    for text in ("", "+", "tomorrow", "2030-13-01", "+1w"):
        with pytest.raises(InvalidRequest):
            moment_s(text, 0)


def test_a_time_of_the_past_is_told_as_how_long_ago_or_as_a_time():
    assert past_s("90m", 10_000.5) == 4_600.5
    assert past_s("1970-01-01T01:00:00.5+00:00", 0) == 3_600.5
    for text in ("", "yesterday", "-5m", "+5m"):
        with pytest.raises(InvalidRequest):
            past_s(text, 0)
