import asyncio
import os
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from leptonai.core.access import Principal, Role
from leptonai.core.lifecycle.job import new_job
from leptonai.core.records import Job
from leptonai.errors import Internal, Unauthenticated
from leptonai.ports.store import Delete, Put, Query
from leptonai.security.keys import KEY_BYTES, UnsafeKeyFile, derive, load_or_create_key
from leptonai.security.secrets import Sealer
from leptonai.security.tokens import (
    CACHE_MS,
    Authenticator,
    JobTokens,
    hash_token,
    issue,
    mask,
    new_token,
)
from leptonai.spec.jobs import JobSpec, JobState
from leptonai.stores.memory import MemoryStore

KEY, OTHER_KEY = bytes(32), bytes(range(32))
texts = st.text(max_size=200)
names = st.from_regex(r"[A-Z_]{1,20}", fullmatch=True)


class Clock:
    at_ms = 1_000

    def now_ms(self):
        return self.at_ms


# --- the key file --------------------------------------------------------------------------------


def test_the_key_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "home" / "key"
    key = load_or_create_key(path)
    assert (len(key), load_or_create_key(path)) == (KEY_BYTES, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_all_who_make_the_key_at_the_same_moment_get_the_same(tmp_path):
    keys = []
    threads = [
        threading.Thread(target=lambda: keys.append(load_or_create_key(tmp_path / "key")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8 and len(set(keys)) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_may_read_is_refused(tmp_path, mode):
    path = tmp_path / "key"
    load_or_create_key(path)
    path.chmod(mode)
    with pytest.raises(UnsafeKeyFile, match="may be read by others"):
        load_or_create_key(path)


def test_a_key_file_without_a_key_is_refused(tmp_path):
    path = tmp_path / "key"
    path.touch(0o600)
    with pytest.raises(UnsafeKeyFile, match="holds 0 bytes"):
        load_or_create_key(path)


def test_a_link_is_no_key_file(tmp_path):
    load_or_create_key(tmp_path / "real")
    (tmp_path / "key").symlink_to(tmp_path / "real")
    with pytest.raises(OSError):
        load_or_create_key(tmp_path / "key")


def test_each_purpose_has_a_key_of_its_own():
    assert len({KEY, derive(KEY, "a"), derive(KEY, "b"), derive(OTHER_KEY, "a")}) == 4


# --- secrets -------------------------------------------------------------------------------------


@given(names, texts)
def test_a_sealed_value_opens_in_its_place(name, value):
    sealer = Sealer(KEY)
    assert sealer.open("ws", name, sealer.seal("ws", name, value)) == value


@given(names, texts, st.data())
def test_a_sealed_value_opens_nowhere_else_and_not_when_tampered_with(name, value, data):
    sealer = Sealer(KEY)
    sealed = sealer.seal("ws", name, value)
    at = data.draw(st.integers(0, len(sealed) - 1))
    flipped = bytes([*sealed[:at], sealed[at] ^ 1, *sealed[at + 1 :]])
    for reader, place, ciphertext in (
        (sealer, ("other", name), sealed),
        (sealer, ("ws", name + "X"), sealed),
        (Sealer(OTHER_KEY), ("ws", name), sealed),
        (sealer, ("ws", name), flipped),
        (sealer, ("ws", name), sealed[:at]),
    ):
        with pytest.raises(Internal, match="cannot be decrypted"):
            reader.open(*place, ciphertext)


def test_equal_values_are_sealed_differently():
    sealer = Sealer(KEY)
    assert sealer.seal("ws", "A", "same") != sealer.seal("ws", "A", "same")


# --- tokens --------------------------------------------------------------------------------------


def test_tokens_are_unlike_each_other_and_hold_256_bits():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(re.fullmatch(r"lepton_[A-Za-z0-9_-]{43}", token) for token in tokens)


@given(st.text(alphabet="abc", min_size=1, max_size=80))
def test_a_mask_shows_no_short_token_and_little_of_a_long_one(token):
    shown = mask(token).replace("***", "")
    assert len(shown) <= (13 if len(token) >= 32 else 0)


def test_a_token_record_holds_no_token():
    literal, record = issue(workspace="ws", name="ana", role="member", now_ms=1)
    assert literal not in repr(record)
    assert record.sha256 == hash_token(literal)


def test_job_tokens_prove_themselves_and_forgeries_do_not():
    tokens = JobTokens(KEY)
    token = tokens.of("ws", "train-ab12")
    assert tokens.read(token) == ("ws", "train-ab12")
    assert JobTokens(OTHER_KEY).read(token) is None
    head, _, signature = token.partition(".")
    other = JobTokens(OTHER_KEY).of("ws", "train-cd34").partition(".")[0]
    for forged in (f"{other}.{signature}", head, f"{head}.", f"{head}.!!", "lepton_job_.", ""):
        assert tokens.read(forged) is None


def test_a_token_that_records_a_run_is_no_other_and_ends_with_its_job():
    tokens = JobTokens(KEY)
    of_job, of_run = tokens.of("ws", "train-ab12"), tokens.of_runs.of("ws", "train-ab12")
    assert tokens.of_runs.read(of_run) == ("ws", "train-ab12")
    renamed = of_run.replace("lepton_run_", "lepton_job_"), of_job.replace("job", "run", 1)
    assert tokens.read(of_run) is tokens.of_runs.read(of_job) is None
    assert tokens.read(renamed[0]) is tokens.of_runs.read(renamed[1]) is None

    async def story():
        store = MemoryStore()
        authenticator = Authenticator(store, Clock(), tokens)
        job = Job(workspace="ws", id="train-ab12", name="t", created_at_ms=0, spec=JobSpec())
        (job,) = await store.commit(Put(replace(job, owner="ana")))
        recorder = Principal("ana", Role.RECORDER, "ws", job="train-ab12")
        assert await authenticator.principal(of_run) == recorder
        await store.commit(Put(replace(job, state=JobState.COMPLETED)))
        with pytest.raises(Unauthenticated, match="ended with its job"):
            await authenticator.principal(of_run)

    asyncio.run(story())


@given(st.text(max_size=60))
def test_no_text_is_taken_for_a_job_token(text):
    assert JobTokens(KEY).read(f"lepton_job_{text}") is None


def test_a_token_is_let_in_until_it_expires_and_forgotten_soon_after_its_removal():
    async def story():
        store, clock = MemoryStore(), Clock()
        authenticator = Authenticator(store, clock, JobTokens(KEY))
        literal, record = issue(workspace="ws", name="ana", role="member", now_ms=0)
        await store.commit(Put(replace(record, expires_at_ms=50_000)))
        ana = Principal("ana", Role.MEMBER, "ws")
        assert await authenticator.principal(literal) == ana
        for wrong in ("", literal + "x", "ä", "x" * 5_000):
            with pytest.raises(Unauthenticated, match="missing or unknown"):
                await authenticator.principal(wrong)
        clock.at_ms = 50_000
        with pytest.raises(Unauthenticated, match="has expired"):
            await authenticator.principal(literal)

    asyncio.run(story())


def test_a_removed_token_is_remembered_for_a_moment_only():
    async def story():
        store, clock = MemoryStore(), Clock()
        authenticator = Authenticator(store, clock, JobTokens(KEY))
        literal, record = issue(workspace="ws", name="ana", role="admin", now_ms=0)
        (record,) = await store.commit(Put(record))
        await authenticator.principal(literal)
        await store.commit(Delete(record))
        clock.at_ms += CACHE_MS
        with pytest.raises(Unauthenticated):
            await authenticator.principal(literal)

    asyncio.run(story())


def test_a_job_acts_for_its_owner_while_it_runs():
    async def story():
        store, tokens = MemoryStore(), JobTokens(KEY)
        authenticator = Authenticator(store, Clock(), tokens)
        job = new_job(
            workspace="ws",
            id="train-ab12",
            name="train",
            spec=JobSpec(),
            owner="ana",
            labels={},
            visibility="",
            now_ms=1,
        )
        (job,) = await store.commit(Put(job))
        token = tokens.of("ws", "train-ab12")
        expected = Principal("ana", Role.WORKLOAD, "ws", job="train-ab12")
        assert await authenticator.principal(token) == expected
        with pytest.raises(Unauthenticated):
            await authenticator.principal(tokens.of("other", "train-ab12"))
        await store.commit(Put(replace(job, state=JobState.FAILED)))
        with pytest.raises(Unauthenticated, match="ended with its job"):
            await authenticator.principal(token)
        assert len(await store.find(type(job), Query())) == 1

    asyncio.run(story())


def test_a_key_is_never_seen_in_a_repr():
    secret = os.urandom(32)
    shown = repr(Sealer(secret)) + repr(JobTokens(secret))
    assert repr(secret)[2:-1] not in shown
