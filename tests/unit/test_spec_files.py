"""What `create -f` reads."""

import json

import pytest

from leptonai.cli.requested import read
from leptonai.errors import InvalidRequest
from leptonai.spec.endpoints import LeptonDeployment
from leptonai.spec.jobs import LeptonJob
from leptonai.spec.rayclusters import LeptonRayCluster

SPECS = {
    LeptonJob: {"completions": 2},
    LeptonDeployment: {"model": "digits"},
    LeptonRayCluster: {"worker_group_specs": [{"group_name": "cpu", "min_replicas": 2}]},
}


@pytest.mark.parametrize("kind", SPECS)
def test_a_file_holds_a_spec_or_the_whole_that_get_prints(kind, tmp_path):
    alone, whole = tmp_path / "spec.json", tmp_path / "whole.json"
    spec = SPECS[kind]
    alone.write_text(json.dumps(spec))
    whole.write_text(json.dumps({"metadata": {"name": "x"}, "spec": spec, "status": None}))
    assert read(kind, alone).spec == read(kind, whole).spec != read(kind, None).spec
    assert read(kind, whole).metadata.name == "x"


@pytest.mark.parametrize("kind", SPECS)
def test_a_field_that_nobody_knows_is_named(kind, tmp_path):
    file = tmp_path / "spec.json"
    file.write_text('{"complettions": 2}')
    with pytest.raises(InvalidRequest, match="complettions"):
        read(kind, file)
