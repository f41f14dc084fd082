"""What becomes of a template."""

import contextlib
import shlex
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leptonai.control.templates import public_templates
from leptonai.core.templates import check_template, rendered
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import EndpointSpec
from leptonai.spec.jobs import JobSpec
from leptonai.spec.templates import TemplateSpec


def a_template(content: dict[str, Any], kind: str = "job", **parameters: Any) -> TemplateSpec:
    schema = {"properties": parameters, "required": [n for n, s in parameters.items() if not s]}
    return msgspec.convert(
        {"content": content, "json_schema": schema, "workload_type": kind}, TemplateSpec
    )


def command(text: str) -> dict[str, Any]:
    return {"container": {"command": ["/bin/bash", "-c", text]}}


def test_a_place_alone_becomes_the_value_and_in_a_text_its_words() -> None:
    spec = a_template(
        command("run {{ steps }} {{debug}}") | {"completions": "{{steps}}"},
        steps={"type": "integer"},
        debug={"type": "boolean", "default": False},
    )
    made = rendered(spec, {"steps": 3})
    assert isinstance(made, JobSpec)
    assert made.completions == 3
    assert made.container.command == ["/bin/bash", "-c", "run 3 false"]


@given(st.text(max_size=50).filter(lambda text: "\0" not in text))
def test_a_quoted_value_is_one_word_of_the_shell_whatever_it_holds(value: str) -> None:
    made = rendered(a_template(command("echo {{words|quote}}"), words={}), {"words": value})
    assert made.container.command is not None
    assert shlex.split(made.container.command[2]) == ["echo", value]


@given(st.text(max_size=30).filter(lambda text: "\0" not in text))
def test_a_value_is_filled_in_once_and_never_read_as_a_template(value: str) -> None:
    spec = a_template({"envs": [{"name": "A", "value": "<{{a}}>"}]}, a={}, b={"default": "no"})
    (env,) = rendered(spec, {"a": value + "{{b}}"}).envs or []
    assert env.value == f"<{value}{{{{b}}}}>"


def test_braces_of_other_languages_stay() -> None:
    made = rendered(a_template(command("docker ps --format '{{.Names}}' {{ other }}")), {})
    assert made.container.command == [
        "/bin/bash", "-c", "docker ps --format '{{.Names}}' {{ other }}"
    ]  # fmt: skip


def test_a_pod_is_an_endpoint_that_says_so() -> None:
    made = rendered(a_template(command("sleep"), kind="pod"), {})
    assert isinstance(made, EndpointSpec)
    assert made.is_pod is True


@pytest.mark.parametrize(
    ("parameters", "given_", "words"),
    [
        ({"run": {}}, {}, "run: is required"),
        ({}, {"rn": "x"}, "no such parameter"),
        ({"n": {"type": "integer"}}, {"n": "3"}, "n: expected integer"),
        ({"n": {"type": "integer"}}, {"n": True}, "n: expected integer"),
        ({"n": {"type": "integer", "minimum": 1}}, {"n": 0}, "out of bounds"),
        ({"n": {"enum": ["a", "b"]}}, {"n": "c"}, "no 'c'"),
        ({"n": {"maxLength": 3}}, {"n": "abcd"}, "too long"),
    ],
)
def test_a_wrong_parameter_is_refused(
    parameters: dict[str, Any], given_: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        rendered(a_template(command("x"), **parameters), given_)


@pytest.mark.parametrize(
    ("content", "parameters", "words"),
    [
        (command("{{x}}"), {}, "names a parameter 'x'"),
        ({"container": 3}, {}, "container: expected object"),
        ({}, {"a b": {}}, "is no parameter"),
        ({}, {"a": {"type": "list"}}, "type: 'list' is not possible"),
        ({}, {"a": {"pattern": "(a+)+"}}, "'pattern' is not read"),
        ({}, {"a": {"type": "integer", "default": "x"}}, "a: expected integer"),
        ({"completions": "{{a}}"}, {"a": {}}, "completions: expected int"),
        ({}, {"a": {"minimum": "1"}}, "minimum: '1' is not possible"),
        ({}, {"a": {"maxLength": True}}, "maxLength"),
        ({}, {"a": {"enum": 3}}, "enum"),
        ({}, {"a": {"description": 3}}, "description"),
        ({}, {"a": 3}, "is no parameter"),
    ],
)
def test_a_template_that_nobody_could_render_is_refused(
    content: dict[str, Any], parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        check_template(a_template(content, **parameters))


@pytest.mark.parametrize("id", sorted(public_templates()))
def test_every_public_template_can_be_rendered(id: str) -> None:
    template = public_templates()[id]
    check_template(template.spec)
    required = (template.spec.json_schema or {}).get("required") or ()
    made = rendered(template.spec, dict.fromkeys(required, "train.py --epochs 3"))
    assert "{{" not in msgspec.json.encode(made).decode()
    if isinstance(made, JobSpec):
        assert made.container.command or made.trainer
    else:
        assert made.container.command or made.is_pod


def test_the_public_templates() -> None:
    kinds = {id: template.spec.workload_type for id, template in public_templates().items()}
    assert kinds == {
        "digits": "job",
        "jupyterlab": "pod",
        "lepton-sft": "job",
        "mpi": "job",
        "sglang": "deployment",
        "torchrun": "job",
        "vllm": "deployment",
    }


@pytest.mark.parametrize("required", [3, "run", [3], ["nothing"], [["run"]]])
def test_what_is_required_names_parameters(required: Any) -> None:
    spec = msgspec.convert(
        {"content": {"a": 1}, "json_schema": {"properties": {}, "required": required}}, TemplateSpec
    )
    with pytest.raises(InvalidRequest, match="required"):
        check_template(spec)


def test_a_template_cannot_become_huge() -> None:
    spec = a_template(command("{{a}}" * 100_000), a={})
    with pytest.raises(InvalidRequest, match="too large"):
        rendered(spec, {"a": "x" * 60_000})


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-2, 2)
    | st.text("a{}|q", max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=10,
)
schemas = st.fixed_dictionaries(
    {},
    optional={
        "properties": st.dictionaries(
            st.sampled_from(["a", "b", "a b"]),
            st.dictionaries(
                st.sampled_from(["type", "default", "enum", "minimum", "maximum", "maxLength"]),
                json_values | st.sampled_from(["integer", "number", "string", "boolean", "object"]),
            )
            | json_values,
        )
        | json_values,
        "required": st.lists(st.sampled_from(["a", "b"])) | json_values,
    },
)


@example({"x": 1}, {"properties": {"a": {"type": "object", "minimum": 1}}}, {})
@given(st.dictionaries(st.sampled_from(["container", "x"]), json_values), schemas, json_values)
def test_any_template_is_either_refused_or_can_be_rendered(content, schema, value) -> None:
    spec = TemplateSpec(content=content, json_schema=schema)
    try:
        check_template(spec)
    except InvalidRequest:
        return
    properties = schema.get("properties") or {}
    with contextlib.suppress(InvalidRequest):
        rendered(spec, dict.fromkeys(properties, value))
