"""What things may be called: checked by the client before it asks and by the server when asked."""

import re

from leptonai.errors import InvalidRequest

MAX_NAME_CHARS = 36
MAX_SECRET_NAME_CHARS = 128
MAX_ENV_NAME_CHARS = 256
MAX_LABEL_KEY_CHARS = 63
MAX_LABEL_VALUE_CHARS = 256
RESERVED_SUFFIX = "by-lepton"
RESERVED_ENV_NAMES = frozenset(
    {
        "LEPTON_WORKSPACE_ID",
        "LEPTON_DEPLOYMENT_NAME",
        "LEPTON_JOB_NAME",
        "LEPTON_RESOURCE_ACCELERATOR_TYPE",
        "LEPTON_WORKSPACE_ORIGIN_URL",
    }
)

_NAME = re.compile(r"[a-z][a-z0-9-]*")
_ENV_NAME = re.compile(r"[A-Za-z._-][A-Za-z0-9._-]*")
_USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?")


def check_name(name: str, kind: str = "name") -> None:
    """Refuse what no job, endpoint, dataset or model may be called; `kind` says which it is.

    Raises:
        InvalidRequest: says which rule is broken, and suggests a name where one is near.
    """
    what = f"the {kind}" if kind == "name" else f"the {kind}'s name"
    rule = (
        f"use 1 to {MAX_NAME_CHARS} lower-case letters, digits and dashes, and start with a letter"
    )
    if not name:
        raise InvalidRequest(f"{what} is empty", hint=rule)
    if len(name) > MAX_NAME_CHARS:
        raise InvalidRequest(
            f"{what} {_shown(name)} has {len(name)} characters; {MAX_NAME_CHARS} are allowed",
            hint=rule,
        )
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"{what} {_shown(name)} is not allowed", hint=_suggest(name) or rule)
    if name.endswith("-"):
        raise InvalidRequest(f"{what} {_shown(name)} ends in a dash", hint=_suggest(name) or rule)
    if name.endswith(RESERVED_SUFFIX):
        raise InvalidRequest(
            f"{what} {_shown(name)} ends in {RESERVED_SUFFIX!r}, which is reserved",
            hint="choose another ending",
        )


def check_secret_name(name: str) -> None:
    """Secrets become variables, so they are named like them, reserved names included.

    Raises:
        InvalidRequest: says which rule is broken.
    """
    _check_variable(name, "the secret's name", MAX_SECRET_NAME_CHARS)


def check_env_name(name: str) -> None:
    """Refuse a variable that no environment can hold, or that the platform sets itself.

    Raises:
        InvalidRequest: says which rule is broken.
    """
    _check_variable(name, "the variable", MAX_ENV_NAME_CHARS)
    if name in RESERVED_ENV_NAMES:
        raise InvalidRequest(
            f"the variable {name} is set by the platform",
            hint="choose another name; the workload finds this one in its environment",
        )


def check_user_name(name: str) -> None:
    """Refuse what no person may be called: directories may be named after them.

    Raises:
        InvalidRequest: says which rule is broken.
    """
    if not _USER_NAME.fullmatch(name):
        raise InvalidRequest(
            f"the name {_shown(name)} is not allowed",
            hint="use 1 to 64 letters, digits, '.', '_', '@', '+' and '-', and begin with one of "
            "the first two; for example ann, or ann@example.org",
        )


def check_label(key: str, value: str) -> None:
    """Refuse a label that a selector (`key`, `key=value`, joined by commas) could not name.

    Raises:
        InvalidRequest: says which rule is broken.
    """
    if len(key) > MAX_LABEL_KEY_CHARS or not _LABEL_KEY.fullmatch(key):
        raise InvalidRequest(
            f"the label key {_shown(key)} is not allowed",
            hint=f"use 1 to {MAX_LABEL_KEY_CHARS} letters, digits, '.', '_', '/' and '-'",
        )
    if len(value) > MAX_LABEL_VALUE_CHARS or "," in value or not value.isprintable():
        raise InvalidRequest(
            f"the value of the label {key} is not allowed",
            hint=f"use at most {MAX_LABEL_VALUE_CHARS} printable characters without a comma",
        )


def _check_variable(name: str, what: str, limit: int) -> None:
    if len(name) > limit or not _ENV_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{what} {_shown(name)} is not allowed",
            hint=f"use 1 to {limit} letters, digits, '.', '_' and '-', not starting with a digit",
        )


def _suggest(name: str) -> str:
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("0123456789-").strip("-")
    return f"for example {near}" if near and not near.endswith(RESERVED_SUFFIX) else ""


def _shown(text: str) -> str:
    """Short, and safe to print, whatever was typed."""
    return ascii(text if len(text) <= 2 * MAX_NAME_CHARS else text[: 2 * MAX_NAME_CHARS] + "…")
