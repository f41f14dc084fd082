import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leptonai.errors import InvalidRequest, TooLarge
from leptonai.spec import codec
from leptonai.spec.containers import Container, EnvVar
from leptonai.spec.jobs import JobSpec, LeptonJob
from leptonai.spec.metadata import Metadata


def refusal(raw: bytes, kind=LeptonJob):
    with pytest.raises(InvalidRequest) as caught:
        codec.decode(kind, raw)
    return caught.value.message, caught.value.hint


def test_a_well_formed_document_becomes_its_value():
    raw = b'{"metadata":{"id":"a"},"spec":{"container":{"command":["x"]},"envs":[{"name":"A"}]}}'
    assert codec.decode(LeptonJob, raw) == LeptonJob(
        metadata=Metadata(id="a"),
        spec=JobSpec(container=Container(command=["x"]), envs=[EnvVar(name="A")]),
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            b'{"metadata":{},"spec":{"completions":"3"}}',
            "spec.completions: expected int, got str",
        ),
        (b'{"metadata":{},"spec":{"completions":0}}', "spec.completions: expected int >= 1"),
        (b'{"spec":{}}', "metadata: is required"),
        (b'{"metadata":{},"spec":{"envs":[{"name":"a"},{}]}}', "spec.envs[1].name: is required"),
        (b"[]", "the body: expected object, got array"),
        (b"", "the body is empty"),
        (
            b'{"metadata":\n  {"id": x}}',
            "the body is not JSON: invalid character at line 2, column 10",
        ),
        (b'{"metadata":{', "the body is not JSON: it ends too early at line 1, column 14"),
        (
            b'{"metadata":{},"spec":{"cpu":NaN}}',
            "the body is not JSON: NaN and Infinity are no JSON numbers at line 1, column 30",
        ),
        (
            b'{"metadata":{},"spec":{"ttl_seconds_after_finished":9007199254740992}}',
            "spec.ttl_seconds_after_finished: the number is out of range",
        ),
        (b'{"metadata":{"id":"a\\u0000"}}', "metadata.id: the text holds a NUL character"),
    ],
)
def test_the_place_of_a_fault_is_named(raw, message):
    assert refusal(raw)[0] == message


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            b'{"metadata":{"nmae":"a"}}',
            ("metadata.nmae: there is no such field", "Did you mean 'name'?"),
        ),
        (
            b'{"metadata":{},"spec":{"envs":[{"name":"a","valeu":"b"}]}}',
            ("spec.envs[0].valeu: there is no such field", "Did you mean 'value'?"),
        ),
        (
            b'{"metadata":{},"spec":{"time_schedule":{"zzz":1}}}',
            ("spec.time_schedule.zzz: there is no such field", "Known here: start_at."),
        ),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(raw, said):
    assert refusal(raw) == said


@pytest.mark.parametrize(
    ("kind", "value", "hint"),
    [
        (LeptonJob, {"metadata": {"visibility": "x"}}, "Use one of public, private."),
        (
            Container,
            {"ports": [{"container_port": 1}, {"container_port": 2, "protocol": "x"}]},
            "Use one of TCP, UDP, SCTP.",
        ),
        (Container, {"image": 1}, "The server's /openapi.json describes every field."),
    ],
)
def test_the_words_that_may_stand_there_are_named(kind, value, hint):
    with pytest.raises(InvalidRequest) as refused:
        codec.convert(kind, value)
    assert refused.value.hint == hint


def test_free_maps_take_any_key():
    raw = b'{"metadata":{"labels":{"anything":"goes"}}}'
    assert codec.decode(LeptonJob, raw).metadata.labels == {"anything": "goes"}


@pytest.mark.parametrize("raw", [b"[" * 100_000, b"[" * 70 + b"]" * 70, b'{"a":' * 100_000])
def test_deep_nesting_is_refused(raw):
    with pytest.raises(InvalidRequest):
        codec.parse(raw)


def test_a_body_beyond_the_bound_is_too_large():
    with pytest.raises(TooLarge):
        codec.parse(b"1" * 11, max_bytes=10)


def test_a_text_beyond_the_bound_is_refused():
    raw = b'{"metadata":{"id":"' + b"a" * (codec.MAX_STRING_CHARS + 1) + b'"}}'
    assert refusal(raw)[0] == f"metadata.id: a text of {codec.MAX_STRING_CHARS + 1} characters"


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw):
    try:
        codec.decode(LeptonJob, raw)
    except InvalidRequest as error:
        assert error.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(json_values)
def test_any_json_is_read_as_a_job_or_refused(value):
    try:
        codec.decode(LeptonJob, msgspec.json.encode(value))
    except InvalidRequest as error:
        assert error.message


# The cases of RFC 7386, appendix A.
@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_follows_the_rfc(target, patch, result):
    assert codec.merge_patch(target, patch) == result


@given(json_values, json_values)
def test_merging_the_same_patch_twice_changes_nothing_more(target, patch):
    once = codec.merge_patch(target, patch)
    assert codec.merge_patch(once, patch) == once
