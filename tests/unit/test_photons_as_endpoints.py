"""What a photon's own template says of the endpoint that serves it."""

import pytest

from leptonai.cli.photon import as_its_template
from leptonai.errors import InvalidRequest
from leptonai.spec.artifacts import Artifact, ArtifactSpec
from leptonai.spec.containers import EnvVar
from leptonai.spec.endpoints import EndpointSpec, LeptonDeployment, ResourceRequirement
from leptonai.spec.metadata import Metadata

TEMPLATE = {
    "resource_shape": "cpu.large",
    "env": {"START": "5", "MODEL": "PLEASE_ENTER_YOUR_ENV"},
    "secret": ["TOKEN"],
}


def a_photon(**template):
    spec = ArtifactSpec(
        digest="", size_bytes=1, format="photon", attributes={"deployment_template": template}
    )
    return Artifact(metadata=Metadata(name="counter", version=2), spec=spec)


def asked(*envs, **size):
    return LeptonDeployment(
        metadata=Metadata(name="web"),
        spec=EndpointSpec(
            envs=list(envs) or None, resource_requirement=ResourceRequirement(**size)
        ),
    )


def test_it_fills_in_what_nobody_asked_for():
    given = EnvVar(name="MODEL", value="m")
    spec = as_its_template(asked(given), a_photon(**TEMPLATE)).spec
    assert {env.name for env in spec.envs} == {"START", "TOKEN", "MODEL"}
    assert next(env for env in spec.envs if env.name == "START").value == "5"
    assert spec.resource_requirement == ResourceRequirement(resource_shape="cpu.large")


def test_what_was_asked_for_goes_before_it():
    given = EnvVar(name="MODEL", value="m"), EnvVar(name="START", value="9")
    spec = as_its_template(asked(*given, cpu=2), a_photon(**TEMPLATE)).spec
    assert next(env for env in spec.envs if env.name == "START").value == "9"
    assert spec.resource_requirement == ResourceRequirement(cpu=2)


def test_a_variable_that_it_needs_has_to_be_given():
    with pytest.raises(InvalidRequest, match=r"the photon counter@2 needs MODEL") as refused:
        as_its_template(asked(), a_photon(**TEMPLATE))
    assert refused.value.hint == "leptonai endpoint create -n web --photon counter@2 -e MODEL=…"


def test_one_without_a_template_changes_nothing():
    assert as_its_template(asked(), a_photon()) == asked()
