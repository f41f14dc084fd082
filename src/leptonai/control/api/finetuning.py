"""Fine-tunings: jobs of a trainer."""

import msgspec

from leptonai.control.api import jobs
from leptonai.control.api.job_modes import MODE
from leptonai.control.api.paging import PAGING
from leptonai.control.api.routing import Call, Parameter, Route
from leptonai.core.access import Action, Resource
from leptonai.core.finetuning import LANGUAGE_MODEL, can_learn
from leptonai.core.records import Job, Model
from leptonai.errors import NotFound
from leptonai.ports.store import Query
from leptonai.security.permissions import may_read, require
from leptonai.spec.finetuning import DEFAULT_TRAINER, Trainer
from leptonai.spec.jobs import LeptonJob
from leptonai.spec.metadata import Wire


class FineTuneList(Wire, frozen=True, omit_defaults=False):
    finetune_jobs: list[LeptonJob]


class Technique(Wire, frozen=True, omit_defaults=False):
    is_supported: bool | None = None  # None: nobody knows before it is loaded


class SupportedModel(Wire, frozen=True, omit_defaults=False):
    model_id: str
    sft: Technique
    lora: Technique


class TrainerInfo(Wire, frozen=True, omit_defaults=False):
    trainer_id: str
    is_default: bool


async def submit(call: Call) -> LeptonJob:
    asked: LeptonJob = await call.json()
    spec = msgspec.structs.replace(asked.spec, trainer=asked.spec.trainer or Trainer())
    return await jobs.submitted(call, msgspec.structs.replace(asked, spec=spec))


async def list_(call: Call) -> FineTuneList:
    found = await jobs.found(call, only=_is_one, mentions=b'"trainer":{')
    return FineTuneList(finetune_jobs=found)


async def get(call: Call) -> LeptonJob:
    return _checked(await jobs.get(call))


async def patch(call: Call) -> LeptonJob:
    await get(call)
    return await jobs.patch(call)


async def delete(call: Call) -> LeptonJob:
    await get(call)
    return await jobs.delete(call)


async def list_trainers(call: Call) -> list[TrainerInfo]:
    require(call.principal, Action.READ, Resource(kind="workspace", workspace=call.workspace))
    return [TrainerInfo(trainer_id=DEFAULT_TRAINER, is_default=True)]


async def list_models(call: Call) -> list[SupportedModel]:
    """Those that are registered here; a directory, or one of a hub, can be named as well."""
    found = await call.world.store.find(Model, Query(workspace=call.workspace))
    newest = {
        each.name: each
        for each in sorted(found, key=lambda each: each.number)
        if each.spec.format == LANGUAGE_MODEL
        and not each.deleted
        and may_read(call.principal, each)
    }
    return [
        SupportedModel(model_id=name, sft=_technique(each), lora=_technique(each))
        for name, each in sorted(newest.items())
    ]


def _technique(model: Model) -> Technique:
    return Technique(is_supported=can_learn(model.spec))


def _is_one(job: Job) -> bool:
    return job.spec.trainer is not None


def _checked(job: LeptonJob) -> LeptonJob:
    if job.spec.trainer is None:
        raise NotFound(
            f"the job {job.metadata.id} is no fine-tuning", hint="Ask for it under /jobs."
        )
    return job


_ONE = "/finetune/jobs/{id}"
ROUTES = (
    Route(
        method="GET",
        path="/finetune/jobs",
        handler=list_,
        summary="List fine-tunings, newest first",
        answer=FineTuneList,
        query=(*PAGING, *jobs.FILTERS),
    ),
    Route(
        method="POST",
        path="/finetune/jobs",
        handler=submit,
        summary="Have a model learn from examples",
        body=LeptonJob,
        answer=LeptonJob,
    ),
    Route(
        method="GET",
        path=_ONE,
        handler=get,
        summary="One fine-tuning",
        answer=LeptonJob,
        query=(MODE,),
    ),
    Route(
        method="PATCH",
        path=_ONE,
        handler=patch,
        summary="Stop or start a fine-tuning",
        body=LeptonJob,
        patch=True,
        answer=LeptonJob,
    ),
    Route(
        method="DELETE",
        path=_ONE,
        handler=delete,
        summary="Delete a fine-tuning; the model that it made stays",
        answer=LeptonJob,
        query=(MODE,),
    ),
    Route(
        method="GET",
        path="/finetune/trainers",
        handler=list_trainers,
        summary="What can fine-tune",
        answer=list[TrainerInfo],
        query=(Parameter("default_only", bool, "Only the one that is used unless said."),),
    ),
    Route(
        method="GET",
        path="/finetune/supported-models",
        handler=list_models,
        summary="The registered models that can be fine-tuned",
        answer=list[SupportedModel],
    ),
)
