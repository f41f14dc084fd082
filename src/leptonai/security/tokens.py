"""Tokens: made, recognised, and never stored as they are.

A token has 256 random bits, so a plain SHA-256 protects it: there is nothing to guess, and a slow
password hash would only slow down every request.
"""

import hashlib
import re
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from leptonai.core.access import Principal, Role
from leptonai.core.records import Job, Token, TokenHash
from leptonai.errors import Unauthenticated
from leptonai.ports.clock import Clock
from leptonai.ports.store import Query, Store
from leptonai.security.links import LINK_PREFIX, Links
from leptonai.security.signing import Signed

PREFIX = "lepton_"
JOB_PREFIX = "lepton_job_"
RUN_PREFIX = "lepton_run_"
TOKEN_BYTES = 32
MIN_TOKEN_CHARS = 16
MAX_TOKEN_CHARS = 4_096
MASKED_HEAD = 9
MASKED_TAIL = 4
MIN_CHARS_TO_SHOW_ENDS = 32  # a shorter token would give too much of itself away
CACHE_SIZE = 1_024
CACHE_MS = 5_000  # so long a removed token may still be let in


def new_token() -> str:
    return PREFIX + secrets.token_urlsafe(TOKEN_BYTES)


def is_token(text: str) -> bool:
    """Whether it could be one: of a length that cannot be guessed, and fit for a header."""
    return (
        MIN_TOKEN_CHARS <= len(text) <= MAX_TOKEN_CHARS and re.fullmatch("[!-~]*", text) is not None
    )


def hash_token(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def mask(token: str, gap: str = "***") -> str:
    """`lepton_ab***wxyz`: its owner knows which one it is, nobody else learns anything of use."""
    if len(token) < MIN_CHARS_TO_SHOW_ENDS:
        return gap
    return token[:MASKED_HEAD] + gap + token[-MASKED_TAIL:]


def token_hash(token: str) -> TokenHash:
    return TokenHash(sha256=hash_token(token), masked=mask(token))


def record_of(
    literal: str,
    *,
    workspace: str,
    name: str,
    role: Literal["admin", "member", "gateway"],
    now_ms: int,
    expires_at_ms: int | None = None,
) -> Token:
    """What is kept of a token: never the token."""
    sha256 = hash_token(literal)
    return Token(
        workspace=workspace,
        id=sha256[:16],
        name=name,
        created_at_ms=now_ms,
        modified_at_ms=now_ms,
        owner=name,
        sha256=sha256,
        masked=mask(literal, gap="..."),  # the form that published clients compare theirs with
        role=role,
        expires_at_ms=expires_at_ms,
    )


def issue(
    *,
    workspace: str,
    name: str,
    role: Literal["admin", "member", "gateway"],
    now_ms: int,
    expires_at_ms: int | None = None,
) -> tuple[str, Token]:
    """A new token, and its record: the literal is seen here and never again."""
    literal = new_token()
    record = record_of(
        literal,
        workspace=workspace,
        name=name,
        role=role,
        now_ms=now_ms,
        expires_at_ms=expires_at_ms,
    )
    return literal, record


_PURPOSES = {JOB_PREFIX: "lepton job tokens v1", RUN_PREFIX: "lepton run tokens v1"}


class JobTokens:
    """Tokens of running jobs. Nothing of them is stored: each proves itself by its signature."""

    def __init__(self, key: bytes, *, prefix: str = JOB_PREFIX) -> None:
        self._signed = Signed(key, prefix, _PURPOSES[prefix])
        # Those that may do nothing but record the job's run; every job has one.
        self.of_runs = self if prefix == RUN_PREFIX else JobTokens(key, prefix=RUN_PREFIX)

    def of(self, workspace: str, job: str) -> str:
        return self._signed.token(f"{workspace}/{job}")

    def read(self, token: str) -> tuple[str, str] | None:
        """The workspace and the job, or None where the signature is not ours."""
        workspace, slash, job = (self._signed.read(token) or "").partition("/")
        return (workspace, job) if slash else None


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    expires_at_ms: int | None
    known_until_ms: int


class Authenticator:
    """Turns a bearer token into a principal; remembers those it saw for a moment."""

    def __init__(
        self, store: Store, clock: Clock, job_tokens: JobTokens, links: Links | None = None
    ) -> None:
        """Without `links` there are none."""
        self._store = store
        self._clock = clock
        self._job_tokens = job_tokens
        self._links = links
        self._known: OrderedDict[str, _Known] = OrderedDict()

    async def principal(self, token: str) -> Principal:
        """Raises Unauthenticated, in the same words whatever is wrong with an unknown token."""
        if not token or len(token) > MAX_TOKEN_CHARS or not token.isascii():
            raise _unknown()
        if token.startswith(JOB_PREFIX):
            return await self._workload(token, self._job_tokens, Role.WORKLOAD)
        if token.startswith(RUN_PREFIX):
            return await self._workload(token, self._job_tokens.of_runs, Role.RECORDER)
        if token.startswith(LINK_PREFIX):
            bearer = self._links.read(token, self._clock.now_ms()) if self._links else None
            if bearer is None:
                raise _unknown()
            return bearer
        sha256 = hash_token(token)
        known = self._known.get(sha256)
        now = self._clock.now_ms()
        if known is None or known.known_until_ms <= now:
            known = await self._look_up(sha256, now)
        if known.expires_at_ms is not None and known.expires_at_ms <= now:
            raise Unauthenticated(
                "the token has expired", hint="Ask an admin of the workspace for a new one."
            )
        return known.principal

    def forget(self, sha256: str) -> None:
        """A token that was taken back; other control planes notice a moment later."""
        self._known.pop(sha256, None)

    async def _look_up(self, sha256: str, now_ms: int) -> _Known:
        found = await self._store.find(Token, Query(unique_key=sha256, limit=1))
        if not found:
            self._known.pop(sha256, None)
            raise _unknown()
        token = found[0]
        known = _Known(
            Principal(token.name, Role(token.role), token.workspace),
            token.expires_at_ms,
            now_ms + CACHE_MS,
        )
        self._known[sha256] = known
        self._known.move_to_end(sha256)
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)
        return known

    async def _workload(self, token: str, tokens: JobTokens, role: Role) -> Principal:
        read = tokens.read(token)
        job = await self._store.get(Job, *read) if read else None
        if job is None:
            raise _unknown()
        if job.finished:
            raise Unauthenticated(
                f"the token ended with its job {job.id}",
                hint="Use a token of your own after the job has finished.",
            )
        return Principal(job.owner, role, job.workspace, job=job.id)


def _unknown() -> Unauthenticated:
    return Unauthenticated(
        "the token is missing or unknown",
        hint="Send `Authorization: Bearer TOKEN`; `leptonai token show` prints yours.",
    )
