"""`leptonai simulate queue` as people call it: what it reads, what it prints, what it refuses."""

import json

import pytest

from leptonai.cli.__main__ import run

FOUR = """\
job_id,submission_time,duration,num_gpu
a,0,10,2
b,1,5,1
c,2,1,2
d,3,1,1
"""


@pytest.fixture
def simulate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def simulate(table, *options, gpus=2):
        (tmp_path / "jobs.csv").write_text(table)
        exit_code = run(["simulate", "queue", "--jobs", "jobs.csv", "--gpus", str(gpus), *options])
        return exit_code, *capsys.readouterr()

    return simulate


@pytest.fixture
def measured(simulate):
    def measured(table, *options, gpus=2):
        exit_code, out, err = simulate(table, *options, "-o", "json", gpus=gpus)
        assert (exit_code, err) == (0, "")
        return json.loads(out)

    return measured


def test_the_json_says_what_was_asked_and_what_came_of_it(measured):
    answer = measured(FOUR, "--policy", "srtf", "--preempt-cost", "2", "--deadlines", "uniform:5,5")
    assert answer.pop("decisions_per_s") > 0
    assert answer == {
        "policy": "srtf",
        "jobs": 4,
        "gpus": 2,
        "gpus_per_node": 8,
        "durations": "exact",
        "preempt_cost_s": 2,
        "checkpoint_every_s": None,
        "seed": 42,
        "avg_jct_s": 7.5,  # 20, 8, 1, 1
        "median_jct_s": 4.5,
        "p99_jct_s": pytest.approx(19.64),
        "makespan_s": 20,
        "max_delay_s": 10,
        "deadline_met_ratio": 1,
        "admitted_ratio": 1,
        "admitted_met_ratio": 1,
        "utilisation": 34 / 40,
        "preemptions": 2,
        "decisions": 7,
    }


def test_the_table_is_for_people(simulate):
    exit_code, out, err = simulate(FOUR, "--policy", "fifo")
    assert (exit_code, err) == (0, "")
    lines = [line for line in out.splitlines() if not line.startswith("decisions a second")]
    assert lines == [
        "MEASURE             VALUE",
        "policy              fifo",
        "jobs                4",
        "GPUs                2",
        "average JCT         13 s     13s",
        "median JCT          14 s     14s",
        "p99 JCT             14 s     14s",
        "largest delay       13 s     13s",
        "makespan            17 s     17s",
        "utilisation         82.4 %",
        "admitted            100.0 %",
        "preemptions         0",
    ]


@pytest.mark.parametrize("times", ["submission_time", "timestamp", "submit_time"])
@pytest.mark.parametrize("gpus", ["num_gpu", "num_gpus"])
def test_columns_go_by_any_of_their_names_and_in_any_order(measured, times, gpus):
    table = f"{gpus},extra,duration,{times}\n2,x,10,0\n1,x,5,1\n2,x,1,2\n1,x,1,3\n"
    assert measured(table, "--policy", "srtf")["avg_jct_s"] == 6


def test_other_headers_are_named(measured):
    table = "arrival_time,length,cpus\n0,10,2\n1,5,1\n2,1,2\n3,1,1\n"
    named = ("submission_time=arrival_time", "duration=length", "num_gpu=cpus")
    options = [word for name in named for word in ("--column", name)]
    assert measured(table, "--policy", "srtf", *options)["avg_jct_s"] == 6


@pytest.mark.parametrize(("unit", "seconds"), [("ms", 0.001), ("s", 1), ("min", 60), ("h", 3600)])
def test_times_may_be_in_another_unit(measured, unit, seconds):
    answer = measured(FOUR, "--policy", "fifo", "--time-unit", unit)
    assert answer["makespan_s"] == pytest.approx(17 * seconds)


def test_times_may_be_dates(measured):
    table = """\
submit_time,duration,num_gpu
2017-09-04 10:30:41,10,2
2017-09-04T10:30:51Z,10,2
2017-09-04T12:31:01+02:00,10,2
"""
    assert measured(table)["avg_jct_s"] == 10


def test_only_rows_that_say_so_are_read(measured):
    table = """\
timestamp,duration,num_gpus,cluster
0,10,2,6214e9
0,nonsense,0,11cb48
5,5,2,6214e9
7,5,1,6214e9
"""
    answer = measured(table, "--where", "cluster=6214e9", "--where", "num_gpus > 1")
    assert (answer["jobs"], answer["makespan_s"]) == (2, 15)


def test_deadlines_come_from_the_column_that_is_named(measured):
    table = "submit_time,duration,num_gpu,ddl,deadline\n0,10,1,10,5\n0,10,1,25,9\n0,9,1,9,9\n"
    answer = measured(table, "--policy", "edf", "--deadlines", "ddl", gpus=1)
    assert answer["deadline_met_ratio"] == 1 / 3  # 9, 19 and 29
    answer = measured(table, "--policy", "edf", gpus=1)
    assert answer["deadline_met_ratio"] == 0  # 10, 20 and 29


def test_a_deadline_that_nobody_asked_for_is_measured_and_not_seen(measured):
    lines = FOUR.splitlines()
    ends = ["deadline", "1000", "1000", "0", "1000"]
    table = "".join(f"{line},{end}\n" for line, end in zip(lines, ends, strict=True))
    without, answer = measured(FOUR), measured(table)
    for name in ("deadline_met_ratio", "admitted_met_ratio"):
        assert (without.pop(name), answer.pop(name)) == (None, 0.75)
    del without["decisions_per_s"], answer["decisions_per_s"]
    assert answer == without


def test_published_policies_know_neither_users_nor_priorities(measured):
    table = """\
submit_time,duration,num_gpu,user,priority
0,5,1,ada,1
0,5,1,ada,1
1,1,1,bob,9000
"""
    assert measured(table, "--policy", "fifo", gpus=1)["avg_jct_s"] == pytest.approx(
        (5 + 10 + 10) / 3
    )


def test_the_seed_is_of_estimates_and_of_deadlines(measured):
    table = "timestamp,duration,num_gpu\n" + "".join(f"{i},{5 + i % 7},1\n" for i in range(40))
    options = ("--policy", "srtf", "--deadlines", "uniform:1,9", "--durations", "estimate:1")
    one, two, other = (measured(table, *options, "--seed", seed) for seed in ("1", "1", "2"))
    for answer in (one, two, other):
        del answer["decisions_per_s"], answer["seed"]
    assert one == two
    assert one["avg_jct_s"] != other["avg_jct_s"]
    assert one["deadline_met_ratio"] != other["deadline_met_ratio"]


def test_utilisation_and_queue_are_drawn(simulate, tmp_path):
    exit_code, _, err = simulate(FOUR, "--plot", "queue.png")
    assert (exit_code, err) == (0, "drawn into queue.png\n")
    assert (tmp_path / "queue.png").read_bytes().startswith(b"\x89PNG")


HEADER = "submission_time,duration,num_gpu"
NUMBER_0 = "expected a number, 0 or above"


@pytest.mark.parametrize(
    ("table", "options", "message", "hint"),
    [
        (
            "",
            [],
            "jobs.csv:1: the file is empty",
            "expected a header with submission_time or timestamp or submit_time, duration, "
            "num_gpu or num_gpus",
        ),
        (
            f"{HEADER}\n",
            [],
            "jobs.csv:1: there is no row below the header",
            "expected at least one",
        ),
        (
            "submission_time,num_gpu\n0,1\n",
            [],
            "jobs.csv:1: there is no column duration",
            "expected a header with submission_time or timestamp or submit_time, duration, "
            "num_gpu or num_gpus",
        ),
        (
            f"{HEADER}\n0,1,1\n",
            ["--column", "duration=length"],
            "jobs.csv:1: there is no column length",
            "expected a header with submission_time or timestamp or submit_time, length, "
            "num_gpu or num_gpus",
        ),
        (f"{HEADER}\n0,1,1\n-5,1,1\n", [], "jobs.csv:3: submission_time is -5", NUMBER_0),
        (f"{HEADER}\n0,-1,1\n", [], "jobs.csv:2: duration is -1", NUMBER_0),
        (f"{HEADER}\nnan,1,1\n", [], "jobs.csv:2: submission_time is nan", NUMBER_0),
        (f"{HEADER}\n0,NaN,1\n", [], "jobs.csv:2: duration is nan", NUMBER_0),
        (f"{HEADER}\n0,inf,1\n", [], "jobs.csv:2: duration is inf", NUMBER_0),
        (f"{HEADER}\n0,soon,1\n", [], "jobs.csv:2: duration is 'soon'", NUMBER_0),
        (f"{HEADER}\n0,,1\n", [], "jobs.csv:2: duration is ''", NUMBER_0),
        (
            f"{HEADER}\n0,1e300,1\n",
            [],
            "jobs.csv:2: duration is '1e300'",
            "expected a time from 0 to 1e+11 s",
        ),
        (
            f"{HEADER}\n2017-13-04 10:30:41,1,1\n",
            [],
            "jobs.csv:2: submission_time is '2017-13-04 10:30:41'",
            "expected a time such as 2017-09-04 10:30:41",
        ),
        (f"{HEADER}\n0,1,1.5\n", [], "jobs.csv:2: num_gpu is 1.5", "expected a whole number"),
        (f"{HEADER}\n0,1,nan\n", [], "jobs.csv:2: num_gpu is nan", NUMBER_0),
        (
            f"{HEADER}\n0,1,0\n",
            [],
            "jobs.csv:2: num_gpu is 0",
            "expected at least 1, or --where 'num_gpu>0' to leave such rows out",
        ),
        (
            f"{HEADER}\n0,1,1\n0,1,3\n",
            [],
            "jobs.csv:3: num_gpu is 3, and the cluster has 2 in all",
            "expected at most 2",
        ),
        (f"{HEADER}\n0,1\n", [], "jobs.csv:2: 2 cells", "expected 3, as in the header"),
        (
            f"job_id,{HEADER}\nx,0,1,1\ny,0,1,1\nx,0,1,1\n",
            [],
            "jobs.csv:4: the job 'x' is there twice",
            "expected another id than in line 2",
        ),
        (f"job_id,{HEADER}\n,0,1,1\n", [], "jobs.csv:2: job_id is empty", "expected a name"),
        (
            f"{HEADER},priority\n0,1,1,high\n",
            [],
            "jobs.csv:2: priority is 'high'",
            NUMBER_0,
        ),
        (f"{HEADER},due\n0,1,1,-3\n", ["--deadlines", "due"], "jobs.csv:2: due is -3", NUMBER_0),
        (
            f"{HEADER},vc\n0,1,1,a\n0,1,1,b\n",
            ["--where", "vc=c"],
            "jobs.csv: no row has vc=c",
            "there, vc is a, b",
        ),
        (
            f"{HEADER}\n0,1,1\n",
            ["--where", "vc=c"],
            "jobs.csv:1: there is no column vc",
            "expected a header with submission_time or timestamp or submit_time, duration, "
            "num_gpu or num_gpus, vc",
        ),
        (
            f"{HEADER},vc\n0,1,1,a\n",
            ["--where", "vc>3"],
            "jobs.csv:2: vc is 'a'",
            "expected a number, for vc>3",
        ),
        (
            f"{HEADER}\n0,1,1\n",
            ["--policy", "edf"],
            "edf goes by deadlines, and jobs.csv has none",
            "name a column with --deadlines, or use --deadlines uniform:1.2,3",
        ),
        (
            f"{HEADER}\n0,1,1\n",
            ["--column", "gpus=num_gpu"],
            "there is no column 'gpus' to name",
            "use one of submission_time, duration, num_gpu, id, user, priority, deadline",
        ),
        (
            f"{HEADER}\n0,1,1\n",
            ["--plot", "queue.gif"],
            "'queue.gif' names no kind of picture",
            "end its name with .png, .svg, .pdf",
        ),
    ],
)
def test_what_is_wrong_with_the_table_is_told_by_file_and_line(
    simulate, table, options, message, hint
):
    assert simulate(table, *options) == (1, "", f"error: {message}\nhint: {hint}\n")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--policy", "best"], "there is no policy 'best'; use one of ours,"),
        (["--durations", "guessed"], "'guessed' says not what is known of durations; use exact,"),
        (["--durations", "estimate:-1"], "'estimate:-1' says not what is known of durations; use"),
        (
            ["--durations", "estimate:nan"],
            "'estimate:nan' says not what is known of durations; use",
        ),
        (["--preempt-cost", "-1"], "'-1' is no length of time; use seconds, 0 or above"),
        (["--preempt-cost", "nan"], "'nan' is no length of time; use seconds, 0 or above"),
        (
            ["--deadlines", "uniform:3"],
            "'uniform:3' gives no deadlines; use uniform:LOW,HIGH as in",
        ),
        (["--deadlines", "uniform:3,1"], "'uniform:3,1' gives no deadlines; use uniform:LOW,HIGH"),
        (
            ["--column", "duration"],
            "'duration' names no column; use NAME=HEADER, as in num_gpu=gpus",
        ),
        (["--where", "cluster"], "'cluster' is no condition; use COLUMN=VALUE, or another of !="),
        (["--where", "vc>x"], "'vc>x' compares with 'x'; use a number after >"),
        (["--gpus-per-node", "0"], "0 is not in the range 1<=x<=1000000."),
        (["--seed", "-1"], "-1 is not in the range 0<=x"),
    ],
)
def test_options_that_make_no_sense_are_refused(simulate, options, complaint):
    exit_code, out, err = simulate(FOUR, *options)
    assert (exit_code, out) == (2, "")
    assert complaint in err
