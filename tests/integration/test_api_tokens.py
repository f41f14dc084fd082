"""Tokens of people over HTTP."""

from api_world import NOW_MS, a_job, with_api

DAY_MS = 86_400_000


async def issued(api, name, *, who="admin", **fields):
    answer = await api.call("POST", "/tokens", json={"name": name} | fields, who=who)
    assert answer.status_code == 200, answer.text
    api.tokens[name] = answer.json()["value"]
    return answer.json()


@with_api
async def test_a_person_with_a_token_of_their_own_owns_what_they_make(api):
    made = await issued(api, "cleo@example.org")
    assert (made["name"], made["role"]) == ("cleo@example.org", "member")
    job = await api.call("POST", "/jobs", json=a_job(), who="cleo@example.org")
    assert job.json()["metadata"]["owner"] == "cleo@example.org"
    id = job.json()["metadata"]["id"]
    assert (await api.call("DELETE", f"/jobs/{id}", who="ana")).status_code == 403
    assert (await api.call("DELETE", f"/jobs/{id}", who="cleo@example.org")).status_code == 200
    listed = (await api.call("GET", "/tokens", who="cleo@example.org")).json()
    assert [(each["id"], each["role"]) for each in listed] == [(made["id"], "member")]
    head, tail = listed[0]["masked_value"].split("...")
    assert made["value"].startswith(head) and made["value"].endswith(tail)


@with_api
async def test_a_token_is_shown_once_and_kept_nowhere(api):
    made = await issued(api, "cleo", role="admin", expires_at=NOW_MS + DAY_MS)
    told = [(await api.call("GET", "/tokens")).text, api.audit.read_text()]
    assert not any(made["value"] in text for text in told)
    assert (await api.call("GET", "/workspace", who="cleo")).status_code == 200
    await issued(api, "dan", who="cleo")  # an admin may
    api.clock.at_ms += DAY_MS
    refused = await api.call("GET", "/workspace", who="cleo")
    assert (refused.status_code, refused.json()["message"]) == (401, "the token has expired")


@with_api
async def test_a_token_that_was_taken_back_lets_nobody_in(api):
    made = await issued(api, "cleo")
    assert (await api.call("GET", "/workspace", who="cleo")).status_code == 200
    assert (await api.call("DELETE", f"/tokens/{made['id']}", who="ana")).status_code == 403
    assert (await api.call("DELETE", f"/tokens/{made['id']}")).status_code == 200
    assert (await api.call("GET", "/workspace", who="cleo")).status_code == 401
    assert (await api.call("DELETE", f"/tokens/{made['id']}")).status_code == 404
    mine = await issued(api, "dan")
    assert (await api.call("DELETE", f"/tokens/{mine['id']}", who="dan")).status_code == 200


@with_api
async def test_who_may_issue_tokens_for_whom(api):
    async def asked(name, *, who="admin", **fields):
        answer = await api.call("POST", "/tokens", json={"name": name} | fields, who=who)
        return answer.status_code, answer.json()["message"]

    assert (await asked("cleo", who="ana"))[0] == 403
    assert (await asked("cleo", who="gateway"))[0] == 403
    assert await asked("gateway") == (400, "name: gateway is the platform's own")
    for name in ("", "..", "a/b", "a,b", "x" * 65, "-x"):
        assert (await asked(name))[0] == 400, name
    assert (await asked("cleo", role="gateway"))[0] == 400
    assert (await asked("cleo", expires_at=NOW_MS))[1].startswith("expires_at:")
    (platforms,) = (t for t in (await api.call("GET", "/tokens")).json() if t["name"] == "admin")
    kept = await api.call("DELETE", f"/tokens/{platforms['id']}")
    assert (kept.status_code, kept.json()["code"]) == (409, "Conflict")
