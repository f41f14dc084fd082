"""Fine-tunings over HTTP: ordinary jobs, with a trainer that says what they run."""

import json

import msgspec
from api_world import a_job, with_api

from leptonai.core.finetuning import template
from leptonai.core.records import Model
from leptonai.core.templates import rendered
from leptonai.ports.store import Put
from leptonai.spec.artifacts import ArtifactSpec

CONFIG = {"model_uri": "tiny", "train_dataset_uri": "sums@2", "epochs": 3}

DIGEST = "sha256:" + "0" * 64


def a_tuning(config=CONFIG, **spec):
    trainer = {"train_config": config}
    return {"metadata": {"id": "tune"}, "spec": {"trainer": trainer} | spec}


@with_api
async def test_a_fine_tuning_is_a_job_that_its_trainer_runs(api):
    made = await api.call("POST", "/finetune/jobs", who="ana", json=a_tuning())
    assert made.status_code == 200, made.text
    job = made.json()
    program = job["spec"]["container"]["command"]
    assert program[:3] == ["python", "-m", "leptonai.training.finetuning"]
    assert json.loads(program[3]) == CONFIG
    assert job["spec"]["trainer"] == {"id": "lepton-sft", "train_config": CONFIG}
    assert job["spec"]["include_workspace_token"] is True
    id = job["metadata"]["id"]
    await api.call("POST", "/jobs", who="ana", json=a_job())
    listed = (await api.call("GET", "/finetune/jobs", who="ben")).json()["finetune_jobs"]
    assert [each["metadata"]["id"] for each in listed] == [id]
    assert (await api.call("GET", "/finetune/jobs?page=2")).json() == {"finetune_jobs": []}
    assert (await api.call("GET", "/finetune/jobs?q=nothing")).json() == {"finetune_jobs": []}
    assert len((await api.call("GET", "/jobs")).json()["jobs"]) == 2
    assert (await api.call("GET", f"/finetune/jobs/{id}")).json()["metadata"]["id"] == id
    stopped = await api.call("PATCH", f"/finetune/jobs/{id}", json={"spec": {"stopped": True}})
    assert stopped.status_code == 200
    assert (await api.call("DELETE", f"/finetune/jobs/{id}", who="ben")).status_code == 403
    assert (await api.call("DELETE", f"/finetune/jobs/{id}", who="ana")).status_code == 200


@with_api
async def test_a_spec_that_was_read_can_be_sent_again(api):
    told = a_tuning(config=json.dumps(CONFIG))  # some send it as text
    first = (await api.call("POST", "/finetune/jobs", json=told)).json()
    again = {"metadata": {"id": "again"}, "spec": first["spec"]}
    for path in ("/finetune/jobs", "/jobs"):
        assert (await api.call("POST", path, json=again)).json()["spec"] == first["spec"]


@with_api
async def test_what_cannot_be_trained_is_refused(api):
    for spec, words in (
        (a_tuning(config=None), "train_config: expected object"),
        (a_tuning(config=[1]), "train_config: expected object"),
        (a_tuning(config={}), "model_uri"),
        (a_tuning(config=CONFIG | {"epochs": 0}), "epochs"),
        (a_tuning(config=CONFIG | {"epoch": 1}), "epoch"),
        (a_tuning(config="{"), "JSON"),
        ({"metadata": {"id": "tune"}, "spec": {"trainer": {"id": "nemo"}}}, "no trainer 'nemo'"),
    ):
        answer = await api.call("POST", "/finetune/jobs", json=spec)
        assert answer.status_code == 400, answer.text
        assert words in answer.json()["message"]
    job = (await api.call("POST", "/jobs", json=a_job())).json()["metadata"]["id"]
    for method in ("GET", "DELETE"):
        assert (await api.call(method, f"/finetune/jobs/{job}")).status_code == 404
    assert (await api.call("GET", f"/jobs/{job}")).status_code == 200


@with_api
async def test_trainers_and_models_are_listed_and_the_template_makes_one(api):
    trainers = (await api.call("GET", "/finetune/trainers?default_only=true")).json()
    assert trainers == [{"trainer_id": "lepton-sft", "is_default": True}]
    for name, format, facts in (
        ("tiny", "transformers", {"architectures": ["LlamaForCausalLM"]}),
        ("judge", "transformers", {"architectures": ["BertForSequenceClassification"]}),
        ("other", "transformers", {}),
        ("digits", "torch-cnn", {}),
    ):
        spec = ArtifactSpec(
            digest="sha256:" + "0" * 64, size_bytes=1, format=format, attributes=facts
        )
        model = Model(
            workspace="ws", id=f"{name}@1", name=name, created_at_ms=1, spec=spec, number=1
        )
        await api.store.commit(Put(model))
    found = (await api.call("GET", "/finetune/supported-models")).json()
    assert [(each["model_id"], each["lora"]["is_supported"]) for each in found] == [
        ("judge", False),
        ("other", None),
        ("tiny", True),
    ]
    schema = (await api.call("GET", "/templates/public/lepton-sft")).json()["spec"]["json_schema"]
    assert schema["required"] == ["model_uri", "train_dataset_uri"]
    made = await api.call("POST", "/templates/public/lepton-sft/render", json=CONFIG)
    assert made.status_code == 200, made.text
    tuning = {"metadata": {"id": "tune"}, "spec": made.json()["spec"]}
    job = (await api.call("POST", "/jobs", json=tuning)).json()
    assert json.loads(job["spec"]["container"]["command"][3]).items() >= CONFIG.items()


def test_the_template_has_a_place_for_everything_that_can_be_configured() -> None:
    spec = template().spec
    given = {"model_uri": "m", "train_dataset_uri": "d", "column_mapping": {"prompt": "q"}}
    config = msgspec.to_builtins(rendered(spec, given))["trainer"]["train_config"]
    assert {name: value for name, value in config.items() if name in given} == given
