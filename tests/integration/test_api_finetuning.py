"""Fine-tunings over HTTP: ordinary jobs, with a trainer that says what they run."""

import json

import msgspec
from api_world import a_job, with_api

from leptonai.core.finetuning import template
from leptonai.core.records import Dataset, Model
from leptonai.core.templates import rendered
from leptonai.ports.store import Put
from leptonai.spec.artifacts import ArtifactSpec

CONFIG = {"model_uri": "tiny", "train_dataset_uri": "sums@2", "epochs": 3}

DIGEST = "sha256:" + "0" * 64


async def register(api, kind, name, format="files", *, number=1, **facts):
    spec = ArtifactSpec(digest=DIGEST, size_bytes=1, format=format, attributes=facts)
    id = f"{name}@{number}"
    made = kind(workspace="ws", id=id, name=name, created_at_ms=1, spec=spec, number=number)
    await api.store.commit(Put(made))


async def add_sources(api):
    await register(api, Model, "tiny", "transformers", architectures=["LlamaForCausalLM"])
    await register(api, Dataset, "sums", number=2)


def a_tuning(config=CONFIG, **spec):
    trainer = {"train_config": config}
    return {"metadata": {"id": "tune"}, "spec": {"trainer": trainer} | spec}


@with_api
async def test_a_fine_tuning_is_a_job_that_its_trainer_runs(api):
    await add_sources(api)
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
    await add_sources(api)
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
async def test_what_would_find_nothing_to_learn_from_is_refused(api):
    await add_sources(api)
    await register(api, Model, "t5", "transformers", architectures=["T5ForSequenceClassification"])
    await register(api, Model, "digits", "torch-cnn")
    for changed, status, words in (
        ({"model_uri": "tinny"}, 404, "there is no model 'tinny'"),
        ({"model_uri": "tiny@2"}, 404, "there is no model 'tiny@2'"),
        ({"model_uri": "t5"}, 400, "t5@1 is no causal language model"),
        ({"model_uri": "digits"}, 400, "but torch-cnn"),
        ({"train_dataset_uri": "sums@1"}, 404, "there is no dataset 'sums@1'"),
        ({"validation_dataset_uri": "more.jsonl"}, 404, "there is no dataset 'more.jsonl'"),
    ):
        for path in ("/finetune/jobs", "/jobs", "/jobs?dry_run=true"):
            answer = await api.call("POST", path, json=a_tuning(config=CONFIG | changed))
            assert (answer.status_code, words in answer.text) == (status, True), answer.text
    places = {"model_uri": "hf://someone/tiny", "train_dataset_uri": "/mnt/data/sums.jsonl"}
    for spec in (
        a_tuning(config=CONFIG | places),  # nobody knows here what there is
        a_tuning(
            config=CONFIG | {"train_dataset_uri": "it.jsonl"}, workdir=await api.add_blob(b"")
        ),
    ):
        answer = await api.call("POST", "/finetune/jobs", json=spec)
        assert answer.status_code == 200, answer.text


@with_api
async def test_trainers_and_models_are_listed_and_the_template_makes_one(api):
    await add_sources(api)
    trainers = (await api.call("GET", "/finetune/trainers?default_only=true")).json()
    assert trainers == [{"trainer_id": "lepton-sft", "is_default": True}]
    for name, format, facts in (
        ("judge", "transformers", {"architectures": ["BertForSequenceClassification"]}),
        ("other", "transformers", {}),
        ("digits", "torch-cnn", {}),
        ("gpt2", "transformers", {"architectures": ["GPT2LMHeadModel"]}),
    ):
        await register(api, Model, name, format, **facts)
    found = (await api.call("GET", "/finetune/supported-models")).json()
    assert [(each["model_id"], each["lora"]["is_supported"]) for each in found] == [
        ("gpt2", True),
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
