import asyncio

from api_world import NOW_MS, an_endpoint, with_api
from msgspec.structs import replace

from leptonai.core.counts import pack
from leptonai.core.records import Autoscaling, Endpoint, EndReason, Phase, Replica, Termination
from leptonai.ports.store import Put, Query
from leptonai.security.tokens import hash_token

TOKEN = "a-token-that-is-long-enough-to-show-its-ends"


PORT_OF_GRPC = {"container_port": 8080, "app_protocol": "grpc"}


@with_api
async def test_an_endpoint_is_addressed_by_its_name(api):
    answer = await api.call("POST", "/deployments", json=an_endpoint(), who="ana")
    assert answer.status_code == 200, answer.text
    created = answer.json()
    assert (created["metadata"]["id"], created["metadata"]["name"]) == ("digits", "digits")
    assert created["status"] | {"autoscaler_status": None} == {
        "state": "Starting",
        "phase": "Starting",
        "endpoint": {
            "internal_endpoint": "http://gateway/e/ws/digits",
            "external_endpoint": "http://gateway/e/ws/digits",
        },
        "ready_replicas": 0,
        "autoscaler_status": None,
    }
    assert (await api.call("GET", "/deployments/digits")).json() == created
    assert (await api.call("GET", "/deployments")).json() == [created]
    (replica,) = (await api.call("GET", "/deployments/digits/replicas")).json()
    assert replica["status"]["state"] == "Waiting"
    readiness = (await api.call("GET", "/deployments/digits/readiness")).json()
    assert [reason["reason"] for reason in readiness[replica["id"]]] == ["Queueing"]
    assert (await api.call("GET", "/deployments/digits/termination")).json() == {}


@with_api
async def test_a_taken_name_is_refused_and_a_deleted_one_is_free_at_once(api):
    assert (await api.call("POST", "/deployments", json=an_endpoint())).status_code == 200
    taken = await api.call("POST", "/deployments", json=an_endpoint())
    assert (taken.status_code, taken.json()["code"]) == (409, "AlreadyExists")
    assert (await api.call("DELETE", "/deployments/digits")).status_code == 200
    assert (await api.call("GET", "/deployments/digits")).status_code == 404
    api.clock.at_ms += 1
    assert (await api.call("POST", "/deployments", json=an_endpoint())).status_code == 200


@with_api
async def test_tokens_are_kept_as_hashes_and_shown_masked(api):
    asked = an_endpoint(api_tokens=[{"value": TOKEN}, {"value": "short"}])
    shown = (await api.call("POST", "/deployments", json=asked)).json()
    assert shown["spec"]["api_tokens"] == [{"value": "a-token-t***ends"}, {"value": "***"}]
    (kept,) = await api.store.find(Endpoint, Query())
    assert [token.sha256 for token in kept.token_hashes] == [hash_token(TOKEN), hash_token("short")]
    assert TOKEN not in repr(kept)
    assert TOKEN not in api.audit.read_text()


@with_api
async def test_a_patch_keeps_the_tokens_that_it_sends_back_masked(api):
    asked = an_endpoint(api_tokens=[{"value": TOKEN}, {"value": "short"}])
    await api.call("POST", "/deployments", json=asked)
    tokens = [{"value": "***"}, {"value": "fresh"}]
    answer = await api.call("PATCH", "/deployments/digits", json={"spec": {"api_tokens": tokens}})
    assert answer.status_code == 200, answer.text
    (kept,) = await api.store.find(Endpoint, Query())
    hashes = [token.sha256 for token in kept.token_hashes]
    assert hashes == [hash_token("short"), hash_token("fresh")]
    assert kept.revision == 1  # replicas know nothing of tokens
    unknown = {"spec": {"api_tokens": [{"value": "what***ever"}]}}
    assert (await api.call("PATCH", "/deployments/digits", json=unknown)).status_code == 400


@with_api
async def test_a_merge_patch_merges_objects_replaces_lists_and_deletes_by_null(api):
    asked = an_endpoint(
        resource_requirement={"min_replicas": 1, "cpu": 1},
        load_balance_config={"least_request": {"choice_count": 2}},
        envs=[{"name": "A", "value": "1"}],
    )
    await api.call("POST", "/deployments", json=asked)
    patch = {
        "spec": {
            "resource_requirement": {"min_replicas": 2},
            "load_balance_config": {"least_request": None, "maglev": {}},
            "envs": [{"name": "B", "value": "2"}],
        }
    }
    answer = await api.call("PATCH", "/deployments/digits", json=patch)
    assert answer.json()["spec"] == {
        "container": {"command": ["serve"]},
        "resource_requirement": {"min_replicas": 2, "cpu": 1.0},
        "load_balance_config": {"maglev": {}},
        "envs": [{"name": "B", "value": "2"}],
    }
    (kept,) = await api.store.find(Endpoint, Query())
    assert kept.revision == 2


@with_api
async def test_a_patch_that_changes_nothing_says_so(api):
    await api.call("POST", "/deployments", json=an_endpoint())
    for patch in ({}, {"spec": {}}, {"spec": {"container": {"command": ["serve"]}}}):
        answer = await api.call("PATCH", "/deployments/digits", json=patch)
        assert answer.status_code == 400
        assert "no valid field to update" in answer.json()["message"]


@with_api
async def test_a_dry_run_tells_of_a_restart_and_changes_nothing(api):
    before = (await api.call("POST", "/deployments", json=an_endpoint())).json()
    patch = {"spec": {"container": {"command": ["other"]}}}
    answer = await api.call("PATCH", "/deployments/digits?dryrun=true", json=patch)
    assert before["metadata"]["semantic_version"].split(".")[0] == "1"
    assert answer.json()["metadata"]["semantic_version"].split(".")[0] == "2"
    assert (await api.call("GET", "/deployments/digits")).json() == before


@with_api
async def test_a_restart_is_a_new_revision(api):
    await api.call("POST", "/deployments", json=an_endpoint())
    answer = await api.call("PUT", "/deployments/digits/restart")
    assert answer.json()["metadata"]["semantic_version"].split(".")[0] == "2"


@with_api
async def test_terminations_are_told_in_seconds(api):
    await api.call("POST", "/deployments", json=an_endpoint())
    (replica,) = await api.store.find(Replica, Query())
    end = Termination(
        reason=EndReason.EXITED,
        exit_code=3,
        started_at_ms=NOW_MS,
        finished_at_ms=NOW_MS + 2_500,
    )
    await api.store.commit(Put(replace(replica, phase=Phase.ENDED, terminations=(end,))))
    assert (await api.call("GET", "/deployments/digits/termination")).json() == {
        replica.id: [
            {
                "started_at": NOW_MS // 1000,
                "finished_at": NOW_MS // 1000 + 2,
                "exit_code": 3,
                "reason": "Exited",
                "message": "exited with code 3",
            }
        ]
    }


@with_api
async def test_a_stopped_endpoint_is_not_ready_and_its_phase_says_stopped(api):
    asked = an_endpoint(resource_requirement={"min_replicas": 0})
    status = (await api.call("POST", "/deployments", json=asked)).json()["status"]
    assert (status["state"], status["phase"]) == ("Not Ready", "Stopped")


@with_api
async def test_a_model_means_its_newest_version_when_the_endpoint_is_written(api):
    digests = [await api.add_blob(b"one"), await api.add_blob(b"two")]
    for digest in digests:
        model = {
            "metadata": {"name": "cnn"},
            "spec": {"digest": digest, "size_bytes": 3, "format": "torch"},
        }
        assert (await api.call("POST", "/models", json=model)).status_code == 200
    for name, reference in (("newest", "cnn"), ("first", "cnn@1")):
        asked = {"metadata": {"id": name}, "spec": {"model": reference}}
        answer = await api.call("POST", "/deployments", json=asked)
        assert answer.status_code == 200, answer.text
    kept = {each.name: each.model_digest for each in await api.store.find(Endpoint, Query())}
    assert kept == {"newest": digests[1], "first": digests[0]}
    unknown = {"metadata": {"id": "x"}, "spec": {"model": "cnn@3"}}
    answer = await api.call("POST", "/deployments", json=unknown)
    assert (answer.status_code, answer.json()["hint"]) == (404, "There are cnn@1, cnn@2.")


AUTOSCALED = {
    "resource_requirement": {"min_replicas": 2, "max_replicas": 8},
    "auto_scaler": {"scale_down": {"no_traffic_timeout": 60}, "target_throughput": {"qpm": 30}},
}


async def asleep(api) -> None:
    (found,) = await api.store.find(Endpoint, Query())
    scaled_to_0 = Autoscaling(desired=0, because="nobody calls", since_ms=NOW_MS)
    await api.store.commit(Put(replace(found, autoscaling=scaled_to_0)))


@with_api
async def test_the_autoscalers_number_and_reason_are_shown(api):
    await api.call("POST", "/deployments", json=an_endpoint(**AUTOSCALED))
    await asleep(api)
    status = (await api.call("GET", "/deployments/digits")).json()["status"]
    assert status["autoscaler_status"] == {
        "desired_replicas": 0,
        "last_transition_time": NOW_MS // 1000,
        "conditions": [
            {
                "status": "False",
                "type": "Awake",
                "last_transition_time": NOW_MS // 1000,
                "message": "nobody calls",
            }
        ],
    }


@with_api
async def test_who_asks_for_as_many_replicas_as_there_are_to_be_anyway_wakes_it(api):
    await api.call("POST", "/deployments", json=an_endpoint(**AUTOSCALED))
    same = {"spec": {"resource_requirement": {"min_replicas": 2}}}
    refused = await api.call("PATCH", "/deployments/digits", json=same)
    assert refused.status_code == 400
    await asleep(api)
    woken = await api.call("PATCH", "/deployments/digits", json=same)
    assert woken.status_code == 200, woken.text
    assert woken.json()["status"]["autoscaler_status"] == {"desired_replicas": 2}
    assert woken.json()["status"]["phase"] == "Starting"


@with_api
async def test_a_stop_of_one_that_sleeps_is_a_stop(api):
    await api.call("POST", "/deployments", json=an_endpoint(**AUTOSCALED))
    await asleep(api)
    stop = {"spec": {"resource_requirement": {"min_replicas": 0}}}
    stopped = await api.call("PATCH", "/deployments/digits", json=stop)
    assert stopped.status_code == 200, stopped.text
    (kept,) = await api.store.find(Endpoint, Query())
    assert (kept.wanted, kept.asleep, kept.autoscaling) == (0, False, None)


@with_api
async def test_a_roll_out_is_asked_for_with_a_change_and_decided_by_hand(api):
    none = await api.call("GET", "/deployments/digits/rollout")
    assert none.status_code == 404
    await api.call("POST", "/deployments", json=an_endpoint())
    assert (await api.call("GET", "/deployments/digits/rollout")).status_code == 404
    assert (await api.call("PUT", "/deployments/digits/rollout/promote")).status_code == 409
    patch = {
        "spec": {"envs": [{"name": "A", "value": "1"}]},
        "rollout": {"strategy": "canary", "steps": [10]},
    }
    answer = (await api.call("PATCH", "/deployments/digits", json=patch)).json()
    assert answer["metadata"]["semantic_version"] == "2.2"
    assert answer["status"]["state"] == "Updating"
    found = (await api.call("GET", "/deployments/digits/rollout")).json()
    assert found["message"] == (
        "canary roll-out of revision 2: it gets no requests until its replicas are ready"
    )
    assert {key: found[key] for key in ("state", "strategy", "revision", "stable_revision")} == {
        "state": "Progressing",
        "strategy": "canary",
        "revision": 2,
        "stable_revision": 1,
    }
    assert (await api.call("PUT", "/deployments/digits/restart")).status_code == 409
    back = await api.call("PUT", "/deployments/digits/rollout/rollback")
    again = await api.call("PUT", "/deployments/digits/rollout/rollback")
    assert back.json() == again.json()
    assert back.json()["state"] == "RolledBack"
    assert (await api.call("PUT", "/deployments/digits/rollout/promote")).status_code == 409
    after = (await api.call("GET", "/deployments/digits")).json()
    assert "envs" not in after["spec"]
    assert after["metadata"]["semantic_version"].startswith("1.")
    told = (await api.call("GET", "/deployments/digits/events")).json()
    assert [event["reason"] for event in told].count("RolledBack") == 1


@with_api
async def test_a_roll_out_that_cannot_be_is_refused_and_nothing_changes(api):
    before = (await api.call("POST", "/deployments", json=an_endpoint())).json()
    variables = [{"name": "A", "value": "1"}]
    for asked, words in (
        ({"rollout": {"strategy": "canary"}}, "nothing to roll out"),
        ({"rollout": {"strategy": "big-bang"}}, "rollout.strategy"),
        ({"rollout": {"steps": [0]}}, "rollout.steps"),
        ({"rollout": [10]}, "rollout"),
        ({"rollout": {"weight": 10}}, "weight"),
        ({"rollout": {"strategy": "canary", "steps": [50, 10]}}, "rollout.steps"),
    ):
        patch = {"spec": {} if "nothing" in words else {"envs": variables}, **asked}
        answer = await api.call("PATCH", "/deployments/digits", json=patch)
        assert (answer.status_code, words in answer.json()["message"]) == (400, True), answer.text
    assert (await api.call("GET", "/deployments/digits")).json() == before
    first = {**an_endpoint("other"), "rollout": {"strategy": "canary"}}
    assert (await api.call("POST", "/deployments", json=first)).status_code == 400


@with_api
async def test_whoever_may_not_change_an_endpoint_does_not_decide_its_roll_out(api):
    await api.call("POST", "/deployments", json=an_endpoint())
    for decision in ("promote", "rollback"):
        path = f"/deployments/digits/rollout/{decision}"
        assert (await api.call("PUT", path, who="gateway")).status_code in (403, 404)


@with_api
async def test_a_domain_is_one_endpoints_own(api):
    asked = {"gateway": {"domains": ["models.example.org"]}}
    made = await api.call("POST", "/deployments", json=an_endpoint("a", **asked))
    assert made.status_code == 200, made.text
    taken = await api.call("POST", "/deployments", json=an_endpoint("b", **asked))
    assert (taken.status_code, taken.json()["code"]) == (409, "AlreadyExists")
    assert "models.example.org belongs to endpoint a" in taken.json()["message"]
    again = await api.call(
        "PATCH", "/deployments/a", json={"spec": {"gateway": {"retry": "never"}}}
    )
    assert again.json()["spec"]["gateway"] == asked["gateway"] | {"retry": "never"}
    for settings in (
        {"domains": ["e.default.localhost"]},
        {"domains": ["no domain"]},
        {"domains": ["127.0.0.1"]},
        {"balance": {"by": "header"}},
        {"balance": {"by": "header", "name": "a\r\nb"}},
        {"rate_limit": {"requests_per_minute": 0}},
        {"hold": {"max_seconds": 10**9}},
        {"retry": "sometimes"},
    ):
        refused = await api.call("POST", "/deployments", json=an_endpoint("c", gateway=settings))
        assert refused.status_code == 400, settings


@with_api
async def test_the_requests_of_the_last_days_are_told_to_those_who_may_see_it(api):
    await api.call("POST", "/deployments", json=an_endpoint(), who="ana")
    nothing = (await api.call("GET", "/deployments/digits/requests")).json()
    assert nothing["requests_per_second"] == []
    (endpoint,) = await api.store.find(Endpoint, Query())
    today = NOW_MS // 1000 // 86_400
    half_an_hour = [30.0] * 60 + [0.0] * 60 + [float("nan")] * (8640 - 121) + [600.0]
    for day in (today - 20, today):
        await api.store.counts.change("ws", endpoint.id, day, lambda _: pack(half_an_hour))
    told = (await api.call("GET", "/deployments/digits/requests", who="ana")).json()
    assert told["begins_at"] == today * 86_400
    assert told["step_seconds"] == 300
    rates = told["requests_per_second"]
    assert (len(rates), rates[:5], rates[-1]) == (288, [3.0, 3.0, 0.0, 0.0, None], 60.0)
    assert (await api.call("GET", "/deployments/nothing/requests")).status_code == 404


@with_api
async def test_settings_of_the_gateway_that_make_no_sense_are_refused_by_name(api):
    for gateway, named in (
        ({"hedge": {}}, "spec.gateway.hedge"),
        ({"hedge": {"percentile": 95, "after_ms": 5}}, "spec.gateway.hedge"),
        ({"hedge": {"percentile": 100}}, "spec.gateway.hedge.percentile"),
        ({"hedge": {"after_ms": 5}, "balance": {"by": "cookie"}}, "spec.gateway.hedge"),
    ):
        refused = await api.call("POST", "/deployments", json=an_endpoint(gateway=gateway))
        assert refused.status_code in (400, 422), gateway
        assert named in refused.json()["message"]
    for path in ("predict", "/a?b", "/a b", "/" + "x" * 2000):
        scaler = {"target_throughput": {"qpm": 5, "paths": [path]}}
        refused = await api.call("POST", "/deployments", json=an_endpoint(auto_scaler=scaler))
        assert refused.status_code in (400, 422), path


@with_api
async def test_of_several_who_ask_for_a_host_at_once_one_gets_it(api):
    asked = [an_endpoint(f"e{n}", gateway={"domains": ["models.example.org"]}) for n in range(5)]
    answers = await asyncio.gather(*(api.call("POST", "/deployments", json=each) for each in asked))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    patch = {"spec": {"gateway": {"domains": ["other.example.org"]}}}
    for n in range(5):
        await api.call("POST", "/deployments", json=an_endpoint(f"p{n}"))
    answers = await asyncio.gather(
        *(api.call("PATCH", f"/deployments/p{n}", json=patch) for n in range(5))
    )
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]


@with_api
async def test_what_our_gateway_does_is_refused_for_an_endpoint_that_envoy_alone_can_serve(api):
    spec = {"container": {"command": ["serve"], "ports": [PORT_OF_GRPC]}}
    for asked, named in (
        ({"auto_scaler": {"target_concurrency": 2}}, "spec.auto_scaler"),
        ({"gateway": {"rate_limit": {"requests_per_minute": 5}}}, "spec.gateway.rate_limit"),
        ({"gateway": {"hedge": {"after_ms": 5}}}, "spec.gateway.hedge"),
        ({"gateway": {"balance": {"by": "cookie"}}}, "spec.gateway.balance"),
        ({"auth_config": {"ip_allowlist": ["10.0.0.1"]}}, "spec.auth_config.ip_allowlist"),
    ):
        refused = await api.call("POST", "/deployments", json=an_endpoint(**spec, **asked))
        assert refused.status_code == 400, refused.text
        assert refused.json()["message"].startswith(named)
    made = await api.call("POST", "/deployments", json=an_endpoint(**spec))
    assert made.status_code == 200, made.text
    patch = {"spec": {"envs": [{"name": "V", "value": "2"}]}}
    for strategy, status in (("blue-green", 400), ("rolling", 200)):
        asked = patch | {"rollout": {"strategy": strategy}}
        answer = await api.call("PATCH", "/deployments/digits", json=asked)
        assert answer.status_code == status, answer.text
