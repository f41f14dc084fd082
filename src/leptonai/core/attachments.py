"""Buckets that a workload is told of: as profiles of the AWS tools, or of Multi-Storage Client."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leptonai.core.access import Principal, Role
from leptonai.core.volumes import EVERYBODY
from leptonai.errors import Forbidden, InvalidRequest
from leptonai.spec.containers import StorageAttachment
from leptonai.spec.storage import DataSourceSpec, S3Secrets

AWS_PROFILE, MSC_PROFILE = "awsProfile", "mscProfile"
MAX_ATTACHMENTS = 32
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def check_attachments(
    principal: Principal,
    attachments: Sequence[StorageAttachment],
    sources: Mapping[str, DataSourceSpec],
) -> None:
    """Raises:
    InvalidRequest: there is no such bucket, or it cannot be attached so.
    Forbidden: it is not the principal's to use.
    """
    if len(attachments) > MAX_ATTACHMENTS:
        raise InvalidRequest(
            f"spec.storage_attachments: {len(attachments)} of them",
            hint=f"At most {MAX_ATTACHMENTS} are taken.",
        )
    for attachment in attachments:
        name = attachment.data_source_name
        spec = sources.get(name)
        if spec is None:
            known = ", ".join(sorted(sources))
            raise InvalidRequest(
                f"spec.storage_attachments: there is no data source {name[:100]!r}",
                hint=f"There are {known}." if known else "An admin can add one.",
            )
        allowed = spec.permissions.allowed_users if spec.permissions else None
        if not (
            not allowed
            or principal.role is Role.ADMIN
            or EVERYBODY in allowed
            or principal.name in allowed
        ):
            raise Forbidden(
                f"{principal.name} may not use the data source {name}",
                hint="Ask an admin of the workspace.",
            )
        for mode in attachment.attachments:
            _check_mode(name, spec, mode.mode, mode.profile_name)
    for kind in (AWS_PROFILE, MSC_PROFILE):
        named: dict[str, list[str]] = defaultdict(list)
        for profile, name in _profiles(attachments, sources, kind):
            named[profile].append(name)
            if len(named[profile]) > 1:
                raise InvalidRequest(
                    f"spec.storage_attachments: {' and '.join(named[profile])} would both be "
                    f"the profile {profile}",
                    hint='Give one another "profile_name".',
                )


def secret_names(spec: DataSourceSpec) -> tuple[str, ...]:
    """Of the secrets that open it; none where the machine itself may."""
    s3 = _s3_secrets(spec)
    return (s3.access_key_secret_name, s3.secret_key_secret_name) if s3 else ()


def attached_variables(
    attachments: Iterable[StorageAttachment], sources: Mapping[str, DataSourceSpec]
) -> dict[str, str]:
    """Where there is one AWS profile, it is the one that programs take without being told."""
    profiles = _profiles(attachments, sources, AWS_PROFILE)
    return {"AWS_PROFILE": profiles[0][0]} if len(profiles) == 1 else {}


def attached_files(
    attachments: Sequence[StorageAttachment],
    sources: Mapping[str, DataSourceSpec],
    secrets: Mapping[str, str],
) -> dict[str, str]:
    """What the files say that the tools read, by the variables that tell them where."""
    files = {}
    if aws := _profiles(attachments, sources, AWS_PROFILE):
        files["AWS_CONFIG_FILE"] = "".join(
            _section(f"profile {profile}", _aws_settings(sources[source]))
            for profile, source in aws
        )
        files["AWS_SHARED_CREDENTIALS_FILE"] = "".join(
            _section(profile, _aws_keys(sources[source], secrets)) for profile, source in aws
        )
    if msc := _profiles(attachments, sources, MSC_PROFILE):
        profiles = {profile: _msc(sources[source], secrets) for profile, source in msc}
        files["MSC_CONFIG"] = json.dumps({"profiles": profiles}, indent=2)
    return files


def _check_mode(name: str, spec: DataSourceSpec, mode: str, profile: str | None) -> None:
    at = f"spec.storage_attachments: {name[:100]}"
    if mode not in (AWS_PROFILE, MSC_PROFILE):
        raise InvalidRequest(
            f"{at}: nothing is attached as {mode[:60]!r}",
            hint=f"Use {AWS_PROFILE} or {MSC_PROFILE}.",
        )
    if mode == AWS_PROFILE and spec.bucket.provider.kind == "gcs":
        raise InvalidRequest(
            f"{at}: a bucket of Google has no AWS profile", hint=f"Use {MSC_PROFILE}."
        )
    if profile is not None and not _PROFILE.fullmatch(profile):
        raise InvalidRequest(
            f"{at}: {profile[:60]!r} is no name for a profile", hint="Use letters and digits."
        )


def _profiles(
    attachments: Iterable[StorageAttachment], sources: Mapping[str, DataSourceSpec], mode: str
) -> list[tuple[str, str]]:
    """The names of profiles, and of their data sources: without one it is called as its bucket."""
    return [
        (each.profile_name or sources[name].bucket.bucket, name)
        for attachment in attachments
        for name in (attachment.data_source_name,)
        for each in attachment.attachments
        if each.mode == mode
    ]


def _section(name: str, settings: Mapping[str, str]) -> str:
    lines = [f"{key} = {_one_line(value)}" for key, value in settings.items()]
    return "\n".join([f"[{name}]", *lines, "", ""])


def _one_line(value: str) -> str:
    if "\n" in value or "\r" in value:
        raise InvalidRequest(
            "a secret of a data source has several lines", hint="Create it without a line end."
        )
    return value


def _aws_settings(spec: DataSourceSpec) -> dict[str, str]:
    settings = {}
    if region := _setting(spec, "region"):
        settings["region"] = region
    if endpoint := _endpoint(spec):
        settings["endpoint_url"] = endpoint
        settings["s3"] = ""
        settings["  addressing_style"] = "path"  # a bucket has no host name of its own there
    return settings


def _aws_keys(spec: DataSourceSpec, secrets: Mapping[str, str]) -> dict[str, str]:
    s3 = _s3_secrets(spec)
    if s3 is None:
        return {}
    return {
        "aws_access_key_id": secrets[s3.access_key_secret_name],
        "aws_secret_access_key": secrets[s3.secret_key_secret_name],
    }


def _msc(spec: DataSourceSpec, secrets: Mapping[str, str]) -> dict[str, Any]:
    options = {"base_path": spec.bucket.bucket}
    if spec.bucket.provider.kind == "gcs":
        if project := _setting(spec, "projectId"):
            options["project_id"] = project
        return {"storage_provider": {"type": "gcs", "options": options}}
    if region := _setting(spec, "region"):
        options["region_name"] = region
    if endpoint := _endpoint(spec):
        options["endpoint_url"] = endpoint
    profile: dict[str, Any] = {"storage_provider": {"type": "s3", "options": options}}
    if s3 := _s3_secrets(spec):
        profile["credentials_provider"] = {
            "type": "S3Credentials",
            "options": {
                "access_key": secrets[s3.access_key_secret_name],
                "secret_key": secrets[s3.secret_key_secret_name],
            },
        }
    return profile


def _s3_secrets(spec: DataSourceSpec) -> S3Secrets | None:
    credentials = spec.bucket.credentials
    if credentials is None or credentials.kind != "leptonSecret" or credentials.secrets is None:
        return None
    return credentials.secrets.s3


def _endpoint(spec: DataSourceSpec) -> str:
    return _setting(spec, "endpoint") or _setting(spec, "endpointUrl")


def _setting(spec: DataSourceSpec, name: str) -> str:
    provider = spec.bucket.provider
    told = {**(provider.aws or {}), **(provider.s3 or {}), **(provider.gcs or {})}
    value = told.get(name)
    return value if isinstance(value, str) else ""
