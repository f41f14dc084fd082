"""What a request changes: read, decide, commit; and again where somebody else was faster."""

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from leptonai.control.api.context import World
from leptonai.control.owners import removal
from leptonai.control.requests import check_labels, check_tree, checked_endpoint, checked_job
from leptonai.core.access import Action, Principal, Resource
from leptonai.core.lifecycle import endpoint as endpoint_lifecycle
from leptonai.core.lifecycle import job as job_lifecycle
from leptonai.core.records import (
    Dataset,
    Endpoint,
    Event,
    Job,
    Model,
    OwnerKind,
    Quota,
    Record,
    Secret,
    Severity,
    TokenHash,
)
from leptonai.core.resources import MILLIS
from leptonai.errors import (
    AlreadyExists,
    Conflict,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unavailable,
    VersionConflict,
)
from leptonai.ports.store import Change, Delete, Emit, Put, Query
from leptonai.security.permissions import may_read, require, resource_of
from leptonai.security.tokens import token_hash
from leptonai.spec import codec
from leptonai.spec.artifacts import Artifact
from leptonai.spec.endpoints import ApiToken, EndpointSpec, LeptonDeployment
from leptonai.spec.jobs import JobSpec, JobState, LeptonJob
from leptonai.spec.metadata import Metadata, Visibility
from leptonai.spec.names import check_label, check_name, check_secret_name
from leptonai.spec.quotas import QuotaSpec
from leptonai.spec.workspace import SecretItem

MAX_TRIES = 16  # of a change that others keep overtaking
ID_TRIES = 16  # of a random id that is taken
ID_SUFFIX_CHARS = 4
ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
MAX_IDEMPOTENCY_KEY_CHARS = 255
MAX_SECRETS_A_CALL = 100
MAX_SECRET_CHARS = 128 << 10
MAX_ATTRIBUTES_BYTES = 256 << 10

T = TypeVar("T")


# --- jobs ----------------------------------------------------------------------------------------


async def submit_job(
    world: World, principal: Principal, workspace: str, asked: LeptonJob, idempotency_key: str = ""
) -> Job:
    """Accept a job: it and its waiting workers are on disk when this returns.

    The same idempotency key of the same principal gives the same job, however often it is sent.
    """
    require(principal, Action.CREATE, Resource(kind="job", workspace=workspace))
    name = asked.metadata.name or asked.metadata.id or ""
    check_name(name, "job")
    labels = asked.metadata.labels or {}
    check_labels(labels)
    if len(idempotency_key) > MAX_IDEMPOTENCY_KEY_CHARS:
        raise InvalidRequest(
            "the Idempotency-Key is too long",
            hint=f"Use at most {MAX_IDEMPOTENCY_KEY_CHARS} characters.",
        )
    unique_key = f"{principal.name}/{idempotency_key}" if idempotency_key else ""
    if unique_key:
        earlier = await _job_with_key(world, workspace, unique_key, name)
        if earlier is not None:
            return earlier
    spec = await checked_job(world, principal, workspace, asked.spec)
    for _ in range(ID_TRIES):
        now_ms = world.clock.now_ms()
        drawn = secrets.token_bytes(ID_SUFFIX_CHARS)
        suffix = "".join(ID_ALPHABET[byte % len(ID_ALPHABET)] for byte in drawn)
        job = job_lifecycle.new_job(
            workspace=workspace,
            id=f"{name}-{suffix}",
            name=name,
            spec=spec,
            owner=principal.name,
            labels=labels,
            visibility=asked.metadata.visibility or "",
            now_ms=now_ms,
            idempotency_key=unique_key,
        )
        step = job_lifecycle.advance(job, (), now_ms)
        try:
            written = await world.commit(
                Put(step.job),
                *(Put(replica) for replica in step.replicas),
                *_told(step.events, now_ms),
            )
        except AlreadyExists:
            if unique_key:
                earlier = await _job_with_key(world, workspace, unique_key, name)
                if earlier is not None:
                    return earlier
            continue
        assert isinstance(written[0], Job)
        return written[0]
    raise Unavailable(
        f"no free id was found for a job named {name!r}", hint="Send it again, or rename it."
    )


async def patch_job(
    world: World, principal: Principal, workspace: str, id: str, patch: dict[str, Any]
) -> Job:
    """Stop it, start it again, or change its labels and visibility: nothing else can change."""

    async def change() -> Job:
        job = await find_job(world, principal, workspace, id)
        require(principal, Action.UPDATE, resource_of("job", job))
        metadata = _patched_metadata(job, patch)
        spec = _patched_spec(job, patch)
        changed = replace(
            job,
            spec=spec,
            labels=metadata.labels or {},
            visibility=metadata.visibility or "",
        )
        wants_start = (patch.get("spec") or {}).get("stopped") is False or (
            job.spec.stopped is True and spec.stopped is not True
        )
        if wants_start and job.finished and job.state is not JobState.STOPPED:
            raise Conflict(
                f"job {id} has ended as {job.state.value}, and only stopped jobs start again",
                hint="Submit it anew.",
            )
        if changed == job:
            return job
        return await _put(world, replace(changed, modified_at_ms=world.clock.now_ms()))

    return await _insisting(change)


async def delete_job(world: World, principal: Principal, workspace: str, id: str) -> Job:
    """Forget it at once; whatever still runs of it is stopped."""

    async def change() -> Job:
        job = await find_job(world, principal, workspace, id)
        require(principal, Action.DELETE, resource_of("job", job))
        await _remove(world, job, OwnerKind.JOB, f"deleted by {principal.name}")
        return job

    return await _insisting(change)


async def find_job(world: World, principal: Principal, workspace: str, id: str) -> Job:
    job = await world.store.get(Job, workspace, id)
    if job is None or not may_read(principal, "job", job):
        raise NotFound(
            f"there is no job {id[:100]!r}",
            hint="`leptonai job list` shows the jobs; an id ends in four characters of its own.",
        )
    return job


async def _job_with_key(world: World, workspace: str, unique_key: str, name: str) -> Job | None:
    found = await world.store.find(Job, Query(workspace=workspace, unique_key=unique_key, limit=1))
    if found and found[0].name != name:
        raise Conflict(
            f"the Idempotency-Key was used for the job {found[0].id}",
            hint="Use a new key for another job.",
        )
    return found[0] if found else None


def _patched_spec(job: Job, patch: dict[str, Any]) -> JobSpec:
    before = msgspec.to_builtins(job.spec)
    spec = codec.convert(JobSpec, codec.merge_patch(before, patch.get("spec") or {}))
    if replace(spec, stopped=job.spec.stopped) != job.spec:
        raise InvalidRequest(
            "spec: of a job that was submitted, only `stopped` can be changed",
            hint="Submit a new job with the changed spec.",
        )
    return spec


async def note_checkpoint(world: World, principal: Principal, workspace: str, id: str) -> Job:
    """It can go on from what it has just saved: so much less is lost if it has to give way."""

    async def change() -> Job:
        job = await find_job(world, principal, workspace, id)
        require(
            principal,
            Action.UPDATE,
            Resource(kind="checkpoint", workspace=workspace, id=job.id, owner=job.owner),
        )
        if job.state not in (JobState.STARTING, JobState.RUNNING, JobState.STOPPING):
            raise Conflict(
                f"job {id} is {job.state.value}, and does not run", hint="Only what runs saves."
            )
        return await _put(world, replace(job, saved_at_ms=world.clock.now_ms()))

    return await _insisting(change)


# --- endpoints -----------------------------------------------------------------------------------


async def create_endpoint(
    world: World, principal: Principal, workspace: str, asked: LeptonDeployment
) -> Endpoint:
    require(principal, Action.CREATE, Resource(kind="endpoint", workspace=workspace))
    name = asked.metadata.name or asked.metadata.id or ""
    check_name(name, "endpoint")
    labels = asked.metadata.labels or {}
    check_labels(labels)
    spec, model_digest = await checked_endpoint(world, principal, workspace, asked.spec)
    spec, token_hashes = _without_literal_tokens(spec, ())

    now_ms = world.clock.now_ms()
    endpoint = endpoint_lifecycle.new_endpoint(
        workspace=workspace,
        name=name,
        spec=spec,
        owner=principal.name,
        labels=labels,
        visibility=asked.metadata.visibility or "",
        now_ms=now_ms,
        token_hashes=token_hashes,
        model_digest=model_digest,
    )
    step = endpoint_lifecycle.advance(endpoint, (), now_ms)
    event = _event(endpoint, OwnerKind.ENDPOINT, "Created", f"created by {principal.name}")
    try:
        written = await world.commit(
            Put(step.endpoint),
            *(Put(replica) for replica in step.replicas),
            *_told((event, *step.events), now_ms),
        )
    except AlreadyExists as error:
        raise AlreadyExists(
            f"there is an endpoint {name!r} already",
            hint="Update or remove it, or choose another name.",
            existing_id=error.existing_id,
        ) from None
    assert isinstance(written[0], Endpoint)
    return written[0]


async def patch_endpoint(
    world: World,
    principal: Principal,
    workspace: str,
    name: str,
    patch: dict[str, Any],
    *,
    dry_run: bool = False,
) -> Endpoint:
    """Merge the patch into what was asked; with `dry_run`, only say what would become of it."""

    async def change() -> Endpoint:
        before = await find_endpoint(world, principal, workspace, name)
        require(principal, Action.UPDATE, resource_of("endpoint", before))
        metadata = _patched_metadata(before, patch)
        merged = codec.merge_patch(msgspec.to_builtins(before.spec), patch.get("spec") or {})
        asked = codec.convert(EndpointSpec, merged)
        known = {token.masked for token in before.token_hashes}
        spec, model_digest = before.spec, before.model_digest
        if asked != before.spec:
            spec, model_digest = await checked_endpoint(world, principal, workspace, asked)
            if asked.model == before.spec.model:
                model_digest = before.model_digest  # it meant this one when it was written
        spec, token_hashes = _without_literal_tokens(spec, before.token_hashes, known)
        now_ms = world.clock.now_ms()
        changed = replace(
            endpoint_lifecycle.updated(
                before,
                spec,
                token_hashes=token_hashes,
                model_digest=model_digest,
                now_ms=before.modified_at_ms,
            ),
            labels=metadata.labels or {},
            visibility=metadata.visibility or "",
        )
        if changed == before:
            raise InvalidRequest(
                "no valid field to update", hint="The endpoint is already as you ask."
            )
        changed = replace(changed, modified_at_ms=now_ms)
        if dry_run:
            return replace(changed, version=before.version + 1)
        event = _event(before, OwnerKind.ENDPOINT, "Updated", f"updated by {principal.name}")
        written = await world.commit(Put(changed), *_told((event,), now_ms))
        assert isinstance(written[0], Endpoint)
        return written[0]

    return await _insisting(change)


async def restart_endpoint(
    world: World, principal: Principal, workspace: str, name: str
) -> Endpoint:
    async def change() -> Endpoint:
        endpoint = await find_endpoint(world, principal, workspace, name)
        require(principal, Action.UPDATE, resource_of("endpoint", endpoint))
        now_ms = world.clock.now_ms()
        event = _event(endpoint, OwnerKind.ENDPOINT, "Restarting", f"restarted by {principal.name}")
        written = await world.commit(
            Put(endpoint_lifecycle.restarted(endpoint, now_ms)), *_told((event,), now_ms)
        )
        assert isinstance(written[0], Endpoint)
        return written[0]

    return await _insisting(change)


async def delete_endpoint(
    world: World, principal: Principal, workspace: str, name: str
) -> Endpoint:
    """Forget it at once, which frees its name; whatever still runs of it is stopped."""

    async def change() -> Endpoint:
        endpoint = await find_endpoint(world, principal, workspace, name)
        require(principal, Action.DELETE, resource_of("endpoint", endpoint))
        await _remove(world, endpoint, OwnerKind.ENDPOINT, f"deleted by {principal.name}")
        return endpoint

    return await _insisting(change)


async def find_endpoint(world: World, principal: Principal, workspace: str, name: str) -> Endpoint:
    found = await world.store.find(Endpoint, Query(workspace=workspace, unique_key=name, limit=1))
    if not found or not may_read(principal, "endpoint", found[0]):
        raise NotFound(
            f"there is no endpoint {name[:100]!r}",
            hint="`leptonai endpoint list` shows the endpoints.",
        )
    return found[0]


def _without_literal_tokens(
    spec: EndpointSpec, kept: Sequence[TokenHash], masked: frozenset[str] | set[str] = frozenset()
) -> tuple[EndpointSpec, tuple[TokenHash, ...]]:
    """The spec with masked tokens, and the hashes that stand for them.

    A token that is sent back as it was shown keeps its hash.
    """
    left = list(kept)
    hashes: list[TokenHash] = []
    shown: list[ApiToken] = []
    for token in spec.api_tokens or ():
        if token.value is None:
            shown.append(token)
            continue
        if token.value in masked or "***" in token.value:
            known = next((each for each in left if each.masked == token.value), None)
            if known is None:
                raise InvalidRequest(
                    "spec.api_tokens: a masked token that this endpoint does not have",
                    hint="Send the token itself, or leave api_tokens out to keep them all.",
                )
            left.remove(known)
        else:
            known = token_hash(token.value)
        hashes.append(known)
        shown.append(ApiToken(value=known.masked))
    if spec.api_tokens is None:
        return spec, ()
    return replace(spec, api_tokens=shown), tuple(hashes)


# --- quotas --------------------------------------------------------------------------------------


async def set_quota(
    world: World,
    principal: Principal,
    workspace: str,
    name: str,
    spec: QuotaSpec,
    *,
    of_project: bool,
) -> Quota:
    require(principal, Action.UPDATE, Resource(kind="quota", workspace=workspace))
    check_label("project" if of_project else "user", name)

    async def change() -> Quota:
        now_ms = world.clock.now_ms()
        fresh = Quota(
            workspace=workspace,
            id=secrets.token_hex(8),
            name=name,
            created_at_ms=now_ms,
            owner=principal.name,
            of_project=of_project,
        )
        before = await _same_quota(world, fresh) or fresh
        after = replace(
            before,
            modified_at_ms=now_ms,
            gpus=spec.gpus,
            cpu_millis=None if spec.cpu is None else round(spec.cpu * MILLIS),
            borrow=spec.borrow,
            weight=spec.weight,
        )
        try:
            return await _put(world, after)
        except AlreadyExists as error:  # somebody else made it meanwhile
            raise VersionConflict(error.message, hint=error.hint) from None

    return await _insisting(change)


async def delete_quota(
    world: World, principal: Principal, workspace: str, name: str, *, of_project: bool
) -> None:
    require(principal, Action.DELETE, Resource(kind="quota", workspace=workspace))

    async def change() -> None:
        meant = Quota(workspace=workspace, id="", name=name, created_at_ms=0, of_project=of_project)
        found = await _same_quota(world, meant)
        if found is None:
            whose = "project" if of_project else "user"
            raise NotFound(
                f"{whose} {name[:100]!r} has no quota", hint="`leptonai quota list` shows them."
            )
        await world.commit(Delete(found))

    await _insisting(change)


async def _same_quota(world: World, quota: Quota) -> Quota | None:
    """The one there is of the same user or project."""
    same = Query(workspace=quota.workspace, unique_key=quota.unique_key, limit=1)
    found = await world.store.find(Quota, same)
    return found[0] if found else None


# --- secrets -------------------------------------------------------------------------------------


async def create_secrets(
    world: World, principal: Principal, workspace: str, items: Sequence[SecretItem]
) -> tuple[Secret, ...]:
    """All of them or none."""
    require(principal, Action.CREATE, Resource(kind="secret", workspace=workspace))
    if len(items) > MAX_SECRETS_A_CALL:
        raise TooLarge(
            f"{len(items)} secrets at once",
            hint=f"Send at most {MAX_SECRETS_A_CALL} a call.",
        )
    names = [item.name for item in items]
    for item in items:
        check_secret_name(item.name)
        if item.value is None:
            raise InvalidRequest(f"the secret {item.name} has no value", hint='Give a "value".')
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidRequest(f"the secret {twice[0]} is given twice", hint="Leave one out.")
    now_ms = world.clock.now_ms()
    fresh = [
        Secret(
            workspace=workspace,
            id=secrets.token_hex(8),
            name=item.name,
            created_at_ms=now_ms,
            modified_at_ms=now_ms,
            owner=principal.name,
            visibility=item.visibility or Visibility.PRIVATE,
            ciphertext=world.sealer.seal(workspace, item.name, item.value or ""),
        )
        for item in items
    ]
    try:
        written = await world.commit(*(Put(secret) for secret in fresh))
    except AlreadyExists as error:
        taken = await world.store.get(Secret, workspace, error.existing_id)
        raise AlreadyExists(
            f"there is a secret {taken.name if taken else 'of that name'} already",
            hint="Remove it first: values are never overwritten.",
            existing_id=error.existing_id,
        ) from None
    return tuple(each for each in written if isinstance(each, Secret))


async def delete_secret(world: World, principal: Principal, workspace: str, name: str) -> None:
    async def change() -> None:
        found = await world.store.find(Secret, Query(workspace=workspace, unique_key=name))
        secret = found[0] if found else None
        if secret is None or not may_read(principal, "secret", secret):
            raise NotFound(
                f"there is no secret {name[:100]!r}", hint="`leptonai secret list` shows them."
            )
        require(principal, Action.DELETE, resource_of("secret", secret))
        await world.commit(Delete(secret))

    await _insisting(change)


# --- datasets and models -------------------------------------------------------------------------

ArtifactRecord = Dataset | Model
ArtifactKind = type[Dataset] | type[Model]


async def register_artifact(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, asked: Artifact
) -> ArtifactRecord:
    """The next version of a name; the newest one itself if it is the same to the last byte."""
    word = word_of(kind)
    require(principal, Action.CREATE, Resource(kind=word, workspace=workspace))
    name = asked.metadata.name or asked.metadata.id or ""
    check_name(name, word)
    labels = asked.metadata.labels or {}
    check_labels(labels)
    await check_tree(world, asked.spec.digest, "spec.digest")
    if asked.spec.size_bytes < 0:
        raise InvalidRequest("spec.size_bytes: is negative", hint="Give the size in bytes.")
    if len(msgspec.json.encode(asked.spec)) > MAX_ATTRIBUTES_BYTES:
        raise TooLarge(
            "spec: is too large", hint="Keep large facts in a file of the artifact itself."
        )

    async def change() -> ArtifactRecord:
        versions = await _versions(world, workspace, kind, name)
        newest = versions[-1] if versions else None
        if newest is not None and not newest.deleted and newest.spec == asked.spec:
            return newest
        number = newest.number + 1 if newest is not None else 1
        now_ms = world.clock.now_ms()
        fresh = kind(
            workspace=workspace,
            id=f"{name}@{number}",
            name=name,
            created_at_ms=now_ms,
            modified_at_ms=now_ms,
            owner=principal.name,
            labels=labels,
            visibility=asked.metadata.visibility or "",
            spec=asked.spec,
            number=number,
        )
        try:
            return await _put(world, fresh)
        except AlreadyExists as error:  # somebody else took the number meanwhile
            raise VersionConflict(error.message, hint=error.hint) from None

    return await _insisting(change)


async def find_artifact(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, reference: str
) -> ArtifactRecord:
    """`NAME` is its newest version, `NAME@VERSION` that one."""
    return (await find_artifacts(world, principal, workspace, kind, reference))[-1]


async def find_artifacts(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, reference: str
) -> list[ArtifactRecord]:
    """All versions that the reference means, oldest first; at least one."""
    word = word_of(kind)
    name, _, version = reference.partition("@")
    found = [
        each
        for each in await _versions(world, workspace, kind, name)
        if not each.deleted
        and (not version or str(each.number) == version)
        and may_read(principal, word, each)
    ]
    if not found:
        raise NotFound(
            f"there is no {word} {reference[:100]!r}",
            hint=f"`leptonai {word} list` shows what there is.",
        )
    return found


async def delete_artifacts(
    world: World, principal: Principal, workspace: str, kind: ArtifactKind, reference: str
) -> None:
    """Forget one version, or all versions of a name. Their numbers are not given again."""

    async def change() -> None:
        found = await find_artifacts(world, principal, workspace, kind, reference)
        for each in found:
            require(principal, Action.DELETE, resource_of(word_of(kind), each))
        now_ms = world.clock.now_ms()
        await world.commit(
            *(Put(replace(each, deleted=True, modified_at_ms=now_ms)) for each in found)
        )

    await _insisting(change)


def word_of(kind: ArtifactKind) -> Any:
    return "dataset" if kind is Dataset else "model"


async def _versions(
    world: World, workspace: str, kind: ArtifactKind, name: str
) -> list[ArtifactRecord]:
    found: list[ArtifactRecord] = list(
        await world.store.find(kind, Query(workspace=workspace, name=name))
    )
    return sorted(found, key=lambda each: each.number)


# --- all of them ---------------------------------------------------------------------------------

R = TypeVar("R", bound=Record)


async def _insisting(change: Callable[[], Awaitable[T]]) -> T:
    """Read, decide and commit again while others change the same record in between."""
    for _ in range(MAX_TRIES):
        try:
            return await change()
        except VersionConflict:
            continue
    raise Unavailable(
        f"others kept changing this at the same time, {MAX_TRIES} times over",
        hint="Send the request again.",
    )


async def _remove(world: World, owner: Job | Endpoint, kind: OwnerKind, because: str) -> None:
    now_ms = world.clock.now_ms()
    await world.commit(
        *(await removal(world.store, owner, now_ms)),
        *_told((_event(owner, kind, "Deleted", because),), now_ms),
    )


async def _put(world: World, record: R) -> R:
    (written,) = await world.commit(Put(record))
    assert type(written) is type(record)
    return written


def _patched_metadata(record: Record, patch: dict[str, Any]) -> Metadata:
    """Labels and visibility merge; what else the metadata says must not differ from what it is."""
    visibility = Visibility(record.visibility) if record.visibility else None
    before = msgspec.to_builtins(Metadata(labels=record.labels, visibility=visibility))
    asked = dict(patch.get("metadata") or {})
    for field, value in asked.items():
        fixed = {"id": record.id, "name": record.name, "owner": record.owner}
        if field in fixed and value != fixed[field]:
            raise InvalidRequest(
                f"metadata.{field}: cannot be changed", hint="Create a new one instead."
            )
    metadata = codec.convert(Metadata, codec.merge_patch(before, asked))
    check_labels(metadata.labels or {})
    return metadata


def _event(record: Record, kind: OwnerKind, reason: str, message: str) -> Event:
    return Event(
        workspace=record.workspace,
        kind=kind,
        id=record.id,
        name=record.name,
        reason=reason,
        message=message,
        severity=Severity.NORMAL,
    )


def _told(events: Sequence[Event], now_ms: int) -> list[Change]:
    return [Emit(replace(event, at_ms=event.at_ms or now_ms)) for event in events]
