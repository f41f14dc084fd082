import asyncio

from api_world import NOW_MS, a_job, with_api
from msgspec.structs import replace

from leptonai.core.records import EndReason, Phase, Replica, Termination
from leptonai.ports.engine import LogMarks
from leptonai.ports.store import Put, Query

MS = 1_000_000


async def a_replica(api, *, output: bytes, phase=Phase.DONE, marks=None):
    """Of a job whose only attempt ran for ten seconds from NOW_MS on."""
    await api.call("POST", "/jobs", json=a_job())
    (replica,) = await api.store.find(Replica, Query())
    end = Termination(
        reason=EndReason.EXITED,
        exit_code=0,
        started_at_ms=NOW_MS,
        finished_at_ms=NOW_MS + 10_000,
    )
    over = phase is Phase.DONE
    replica = replace(
        replica,
        phase=phase,
        node="laptop",
        started_at_ms=NOW_MS,
        terminations=(end,) if over else (),
    )
    (replica,) = await api.store.commit(Put(replica))
    api.engine.logs[replica.attempt_id] = output
    if marks is not None:
        api.engine.marks[replica.attempt_id] = LogMarks.of([(NOW_MS * MS, 0), *marks])
    return replica


def lines_of(answer):
    assert answer.status_code == 200, answer.text
    return [line for stream in answer.json()["data"]["result"] for line in stream["values"]]


@with_api
async def test_a_live_log_is_the_whole_output_and_ends_with_the_replica(api):
    replica = await a_replica(api, output="zażółć\n".encode())
    answer = await api.call("GET", f"/jobs/{replica.owner_id}/replicas/{replica.id}/log")
    assert answer.text == "zażółć\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    other = await api.call("GET", f"/jobs/{replica.owner_id}/replicas/nobody/log")
    assert other.status_code == 404


@with_api
async def test_a_live_log_grows_with_the_output_and_never_cuts_a_character(api):
    replica = await a_replica(api, output=b"one \xc5", phase=Phase.RUNNING)
    path = f"/jobs/{replica.owner_id}/replicas/{replica.id}/log"

    async def write_the_rest():
        await asyncio.sleep(0.05)
        api.engine.logs[replica.attempt_id] += b"\xbc two\n"
        await api.store.commit(Put(replace(replica, phase=Phase.DONE)))

    writing = asyncio.create_task(write_the_rest())
    answer = await api.call("GET", path)
    await writing
    assert answer.text == "one ż two\n"


@with_api
async def test_a_log_goes_on_with_the_next_attempt(api):
    replica = await a_replica(api, output=b"first\n")
    api.engine.logs[f"{replica.id}.1"] = b"second\n"
    await api.store.commit(Put(replace(replica, attempt=1)))
    answer = await api.call("GET", f"/jobs/{replica.owner_id}/replicas/{replica.id}/log")
    assert answer.text == "first\nsecond\n"
    history = await api.call("GET", f"/logs?job={replica.owner_id}&end={(NOW_MS + 99_000) * MS}")
    assert [line for _, line in lines_of(history)] == ["first", "second"]


@with_api
async def test_many_followers_share_what_is_read(api):
    replica = await a_replica(api, output=b"", phase=Phase.RUNNING)
    reads = 0
    read_log = api.engine.read_log

    async def counted(*args, **more):
        nonlocal reads
        reads += 1
        return await read_log(*args, **more)

    api.engine.read_log = counted
    tails = api.world.tails

    async def follow():
        pieces = tails.follow(api.store, api.engine, replica)
        return b"".join([piece async for piece in pieces])

    following = [asyncio.create_task(follow()) for _ in range(200)]
    for number in range(5):
        await asyncio.sleep(0.01)
        api.engine.logs[replica.attempt_id] += b"line %d\n" % number
    await api.store.commit(Put(replace(replica, phase=Phase.DONE)))
    whole = b"".join(b"line %d\n" % number for number in range(5))
    assert await asyncio.gather(*following) == [whole] * 200
    # Each looks when it comes and when it is woken by the end; what was written is read for all.
    assert reads < 4 * 200
    assert not tails._tails, "nobody follows any more"


@with_api
async def test_a_live_log_may_begin_with_its_last_lines(api):
    replica = await a_replica(api, output=b"one\ntwo\nthree\nend\n")
    path = f"/jobs/{replica.owner_id}/replicas/{replica.id}/log"
    assert (await api.call("GET", f"{path}?tail=2")).text == "three\nend\n"
    assert (await api.call("GET", f"{path}?tail=0")).text == ""
    assert (await api.call("GET", f"{path}?tail=9")).text == "one\ntwo\nthree\nend\n"
    assert (await api.call("GET", f"{path}?tail=-1")).status_code == 400


@with_api
async def test_without_follow_a_log_ends_at_what_there_is(api):
    replica = await a_replica(api, output=b"so far\n", phase=Phase.RUNNING)
    path = f"/jobs/{replica.owner_id}/replicas/{replica.id}/log?follow=false"
    assert (await api.call("GET", path)).text == "so far\n"


@with_api
async def test_history_is_dated_in_nanoseconds_between_start_and_end(api):
    marks = [((NOW_MS + 1_000) * MS, 4), ((NOW_MS + 5_000) * MS, 8), ((NOW_MS + 6_000) * MS, 11)]
    replica = await a_replica(api, output=b"one\ntwo\nend", marks=marks)
    start, end = NOW_MS * MS, (NOW_MS + 10_001) * MS
    path = f"/logs?job={replica.owner_id}&timestamps=True&direction=forward"
    lines = lines_of(await api.call("GET", f"{path}&start={start}&end={end}&limit=10000"))
    assert [line for _, line in lines] == ["one", "two", "end"]
    assert [time for time, _ in lines][:2] == [str(at_ns) for at_ns, _ in marks][:2]
    assert all(time.isdigit() and start <= int(time) < end for time, _ in lines)
    second = int(lines[1][0])
    assert lines_of(await api.call("GET", f"{path}&start={start}&end={second}")) == lines[:1]
    assert lines_of(await api.call("GET", f"{path}&start={second}&end={end}")) == lines[1:]
    assert lines_of(await api.call("GET", f"{path}&start={start}&end={end}&q=tw")) == [lines[1]]


@with_api
async def test_forward_gives_the_earliest_lines_and_backward_the_latest(api):
    output = b"".join(b"line %d\n" % number for number in range(20_000))
    marks = [((NOW_MS + i) * MS, min(i * 40, len(output))) for i in range(1, 10_000)]
    replica = await a_replica(api, output=output, marks=marks)
    path = f"/logs?job={replica.owner_id}&start={NOW_MS * MS}&end={(NOW_MS + 10_001) * MS}&limit=2"
    forward = lines_of(await api.call("GET", f"{path}&direction=forward"))
    backward = lines_of(await api.call("GET", f"{path}&direction=backward"))
    assert [line for _, line in forward] == ["line 0", "line 1"]
    assert [line for _, line in backward] == ["line 19999", "line 19998"]


@with_api
async def test_paging_through_history_gives_every_line_once(api):
    output = b"".join(b"line %d\n" % number for number in range(1_000))
    marks = [((NOW_MS + 10 * i) * MS, i * 89) for i in range(1, 101)]
    replica = await a_replica(api, output=output, marks=marks)
    start, end, got = NOW_MS * MS, (NOW_MS + 10_001) * MS, []
    while True:
        path = f"/logs?job={replica.owner_id}&start={start}&end={end}&limit=300"
        page = lines_of(await api.call("GET", path))
        got += [line for line in page if line not in got]
        if len(page) < 300:
            break
        start = int(page[-1][0])
    assert [line for _, line in got] == [f"line {number}" for number in range(1_000)]


@with_api
async def test_paging_backward_gives_every_line_once(api):
    output = b"".join(b"line %d\n" % number for number in range(100_000))
    replica = await a_replica(api, output=output)
    start, end, got = NOW_MS * MS, (NOW_MS + 10_001) * MS, []
    path = f"/logs?job={replica.owner_id}&start={start}&limit=10000&direction=backward"
    while page := lines_of(await api.call("GET", f"{path}&end={end}")):
        got += page
        end = int(page[-1][0])
    assert [line for _, line in got] == [f"line {number}" for number in reversed(range(100_000))]


@with_api
async def test_lines_of_several_replicas_come_in_the_order_of_their_times(api):
    first = await a_replica(api, output=b"a0\na1\na2\na3\n")
    second = replace(first, id=f"{first.id}x", index=1, seq=0, version=0)
    await api.store.commit(Put(second))
    api.engine.logs[second.attempt_id] = b"b0\nb1\n"
    for replica, times in ((first, (1, 2, 6, 7)), (second, (3, 8))):
        marks = [((NOW_MS + at) * MS, 3 * (each + 1)) for each, at in enumerate(times)]
        api.engine.marks[replica.attempt_id] = LogMarks.of([(NOW_MS * MS, 0), *marks])
    window = f"/logs?job={first.owner_id}&start={NOW_MS}&end={NOW_MS + 100}"

    async def asked(more):
        lines = lines_of(await api.call("GET", window + more))
        return [line for _, line in sorted(lines)]

    assert await asked("") == ["a0", "a1", "b0", "a2", "a3", "b1"]
    assert await asked("&limit=3") == ["a0", "a1", "b0"]
    assert await asked("&limit=3&direction=backward") == ["a2", "a3", "b1"]
    assert await asked(f"&replica={second.id}") == ["b0", "b1"]
    alone = await api.call("GET", f"/logs?replica={second.id}&end={NOW_MS + 100}")
    assert [line for _, line in lines_of(alone)] == ["b0", "b1"]


@with_api
async def test_times_may_be_given_in_any_unit(api):
    marks = [((NOW_MS + 1_000) * MS, 4), ((NOW_MS + 5_000) * MS, 8)]
    replica = await a_replica(api, output=b"one\ntwo\n", marks=marks)
    for unit_per_s in (1, 1_000, 1_000_000, 1_000_000_000):
        start, end = (second * unit_per_s for second in (NOW_MS // 1000, NOW_MS // 1000 + 5))
        path = f"/logs?job={replica.owner_id}&start={start}&end={end}"
        assert [line for _, line in lines_of(await api.call("GET", path))] == ["one"]


@with_api
async def test_an_answer_of_many_megabytes_is_one_json(api):
    output = b"".join(b"%06d %s\n" % (number, b"x" * 1_000) for number in range(5_000))
    replica = await a_replica(api, output=output)
    lines = lines_of(await api.call("GET", f"/logs?job={replica.owner_id}&end={NOW_MS + 99}"))
    assert [line[:6] for _, line in lines] == [f"{number:06}" for number in range(5_000)]
    assert [int(at) for at, _ in lines] == sorted({int(at) for at, _ in lines})


@with_api
async def test_a_line_without_an_end_that_is_longer_than_any_is_told_in_pieces(api):
    output = b"before\n" + "ż".encode() * 200_000
    replica = await a_replica(api, output=output)
    path = f"/logs?job={replica.owner_id}"
    forward = lines_of(await api.call("GET", path))
    assert forward[0][1] == "before"
    assert "".join(line for _, line in forward[1:]) == "ż" * 200_000
    assert lines_of(await api.call("GET", f"{path}&direction=backward")) == forward[::-1]
    last = lines_of(await api.call("GET", f"{path}&direction=backward&limit=1"))
    assert last == forward[-1:]
    middle = int(forward[4][0])
    assert lines_of(await api.call("GET", f"{path}&start={middle}")) == forward[4:]


@with_api
async def test_lines_are_counted_over_time(api):
    marks = [((NOW_MS + 1_000) * MS, 8), ((NOW_MS + 5_000) * MS, 12)]
    replica = await a_replica(api, output=b"one\ntwo\nend\n", marks=marks)
    path = f"/logs/timeseries?job={replica.owner_id}&start={NOW_MS}&end={NOW_MS + 6_000}"
    answer = (await api.call("GET", f"{path}&interval_ms=2000")).json()
    (series,) = answer["data"]["result"]
    assert series["values"] == [[NOW_MS / 1000, "2"], [NOW_MS / 1000 + 4, "1"]]
    assert (await api.call("GET", f"{path}&interval_ms=2000&q=w")).json()["data"]["result"][0][
        "values"
    ] == [[NOW_MS / 1000, "1"]]
    wide = f"/logs/timeseries?job={replica.owner_id}&start=1&interval_ms=1"
    assert (await api.call("GET", wide)).status_code == 400


@with_api
async def test_a_log_of_no_workload_or_two_is_refused(api):
    assert (await api.call("GET", "/logs")).status_code == 400
    assert (await api.call("GET", "/logs?job=a&deployment=b")).status_code == 400
    assert (await api.call("GET", "/logs?job=nobody")).status_code == 404


async def stream_of(api, replica, after, then):
    """What is sent of a log to whom something happens after so many messages."""
    sent = []

    async def send(message):
        sent.append(message["type"])

    async def receive():
        while len(sent) < after:
            await asyncio.sleep(0.01)
        return await then()

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/api/v2/workspaces/ws/jobs/{replica.owner_id}/replicas/{replica.id}/log",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {api.tokens['admin']}".encode())],
    }
    await asyncio.wait_for(api.app(scope, receive, send), 60)
    return sent


@with_api
async def test_a_reader_who_leaves_ends_the_stream_of_a_silent_log(api):
    replica = await a_replica(api, output=b"", phase=Phase.RUNNING)

    async def leave():
        return {"type": "http.disconnect"}

    assert await stream_of(api, replica, 1, leave) == ["http.response.start"]


@with_api
async def test_a_server_that_stops_breaks_off_a_log_that_has_not_ended(api):
    replica = await a_replica(api, output=b"so far", phase=Phase.RUNNING)

    async def stop():
        api.app.stop()
        await asyncio.Event().wait()

    sent = await stream_of(api, replica, 2, stop)
    assert sent == ["http.response.start", "http.response.body"]  # and no word of its end
