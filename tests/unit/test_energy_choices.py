"""Batch sizes and power limits: `leptonai simulate energy` and what it decides with."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import pytest

from leptonai.cli.__main__ import run
from leptonai.core.scheduler.optimize import Model, Node, Objective, Option, Task, solve
from leptonai.core.scheduler.optimize.energy import (
    Chosen,
    TooLate,
    choose,
    read_settings,
    read_training,
)
from leptonai.errors import InvalidRequest

# Beside the checkout, or further up where it is a worktree.
ZEUS = next(
    (
        found
        for folder in Path(__file__).parents[2].parents
        if (found := folder / "shared" / "traces" / "zeus_nsdi23_energy").is_dir()
    ),
    Path("absent"),
)
measured = pytest.mark.skipif(
    not ZEUS.is_dir(),
    reason="needs the tables published with Zeus in ../shared/traces/zeus_nsdi23_energy",
)
GPUS = ("v100", "a40", "p100")

POWER = """\
dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power
digits,cnn,32,adam,100,10,90
digits,cnn,32,adam,200,6,180
digits,cnn,64,adam,100,8,95
digits,cnn,64,adam,200,5,190
"""
TRAINING = """\
dataset,network,batch_size,optimizer,learning_rate,run,target_metric,target_epoch
digits,cnn,32,adam,0.1,1,0.9,2
digits,cnn,32,adam,0.1,2,0.9,3
digits,cnn,64,adam,0.2,1,0.9,4
digits,cnn,64,adam,0.2,2,0.9,4
digits,cnn,32,adam,0.1,1,0.95,20
digits,cnn,32,adam,0.1,2,0.95,30
digits,cnn,64,adam,0.2,1,0.95,nan
digits,cnn,64,adam,0.2,2,0.95,40
"""


def read(power=POWER, training=None, **options):
    known = None
    if training is not None:
        known = read_training(training.splitlines(), source="train.csv", **options)
    return read_settings({"dir/summary_power_x1.csv": power.splitlines()}, known)


def shown(outcomes):
    return [
        (outcome.setting.batch_size, outcome.setting.power_limit_w, outcome.setting.energy_j)
        if isinstance(outcome, Chosen)
        else str(outcome)
        for outcome in outcomes
    ]


@pytest.mark.parametrize(
    ("deadline_s", "expected"),
    [
        (10, (64, 100, 760)),
        (8, (64, 100, 760)),
        (7.9, (64, 200, 950)),
        (5, (64, 200, 950)),
        (4.9, "cnn on digits with x1: the earliest it can end is after 5 s"),
    ],
)
def test_the_least_energy_that_ends_in_time_is_chosen(deadline_s, expected):
    assert shown(choose(read(), deadline_s)) == [expected]


def test_with_training_runs_a_setting_is_charged_for_all_epochs_to_the_target():
    trained = read(training=TRAINING, targets={"digits": 0.9})
    assert shown(choose(trained, 1_000)) == [(32, 100, 2.5 * 900)]
    assert shown(choose(trained, 20)) == [(32, 200, 2.5 * 1_080)]


def test_the_target_is_the_hardest_that_some_setting_reached_in_every_run():
    training = read_training(TRAINING.splitlines(), source="train.csv")
    assert training.targets == {("digits", "cnn"): "0.95"}
    ((workload, settings),) = read_settings({"p_x1.csv": POWER.splitlines()}, training).items()
    assert workload.gpu == "x1"
    assert {(setting.batch_size, setting.epochs) for setting in settings} == {(32, 25)}


def test_a_column_names_the_gpu_before_the_file_does():
    lines = POWER.splitlines()
    table = [lines[0] + ",gpu", *(line + ",h100" for line in lines[1:])]
    assert [workload.gpu for workload in read_settings({"p_x1.csv": table})] == ["h100"]


HEADER, *ROWS = POWER.splitlines()
EXPECTED_HEADER = "expected a header with " + HEADER.replace(",", ", ")


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ("", "p.csv:1: the file is empty", EXPECTED_HEADER),
        (HEADER, "p.csv:1: there is no row below the header", "expected at least one"),
        (
            "dataset,network\na,b",
            "p.csv:1: there is no column batch_size, optimizer, power_limit, time_per_epoch,"
            " average_power",
            EXPECTED_HEADER,
        ),
        (
            HEADER + ",network", "p.csv:1: the column 'network' is there twice",
            "expected each column once",
        ),
        (
            f"{HEADER}\n{ROWS[0]}\na,b,c", "p.csv:3: 3 cells", "expected 7, as in the header",
        ),
        (
            f"{HEADER}\n\n{ROWS[0].replace('10,90', 'nan,90')}",
            "p.csv:3: time_per_epoch is nan", "expected a number above 0",
        ),
        (
            f"{HEADER}\n{ROWS[0].replace('10,90', '10,-90')}",
            "p.csv:2: average_power is -90", "expected a number above 0",
        ),
        (
            f"{HEADER}\n{ROWS[0].replace('10,90', 'ten,90')}",
            "p.csv:2: time_per_epoch is 'ten'", "expected a number above 0",
        ),
        (
            f"{HEADER}\n{ROWS[0].replace('32', '3.2')}",
            "p.csv:2: batch_size is 3.2", "expected a whole number",
        ),
        (
            f"{HEADER}\n{ROWS[0].replace('digits', ' ')}",
            "p.csv:2: dataset is empty", "expected a name",
        ),
        (
            f"{HEADER}\n{ROWS[0]}\n{ROWS[0]}",
            "p.csv:3: measures the same as p.csv:2", "expected each setting once",
        ),
        (
            "a" * 200_000, "p.csv:1: field larger than field limit (131072)",
            "expected comma-separated values",
        ),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_with_file_line_and_what_was_expected(table, message, hint):
    csv.field_size_limit(131_072)  # as a process begins; who reads data has longer ones
    with pytest.raises(InvalidRequest) as refused:
        read_settings({"p.csv": table.splitlines()})
    assert (refused.value.message, refused.value.hint) == (message, hint)


def test_training_runs_are_read_as_strictly():
    for bad, message in (
        (TRAINING.replace("1,0.9,2", "1,0.9,never"), "train.csv:2: target_epoch is 'never'"),
        (TRAINING + TRAINING.splitlines()[1], "train.csv:10: measures the same as train.csv:2"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            read(training=bad)
        assert refused.value.message == message
    with pytest.raises(InvalidRequest) as refused:
        read(training=TRAINING, targets={"digits": 0.99})
    assert refused.value.message == "train.csv has no runs of digits to 0.99"
    assert refused.value.hint == "use one of 0.9, 0.95"
    with pytest.raises(InvalidRequest, match=r"train\.csv has no dataset 'words'"):
        read(training=TRAINING, targets={"words": 0.9})


# --- on the published measurements -------------------------------------------------------------


def zeus(name):
    return (ZEUS / name).read_text().splitlines()


def rows_of(name):
    header, *rows = (line.split(",") for line in zeus(name))
    return [dict(zip(header, row, strict=True)) for row in rows]


@measured
@pytest.mark.parametrize("trained", [False, True], ids=["one epoch", "to the target"])
@pytest.mark.parametrize("gpu", GPUS)
def test_the_published_tables_give_the_enumerated_optimum_under_every_deadline(gpu, trained):
    """Enumerated from the files here, without any of the code that chooses."""
    training, epochs = None, None
    if trained:
        targets = {
            "cifar100": 0.6, "imagenet": 0.5, "librispeech": 45, "movielens-1m": 0.35,
            "sentiment140": 0.84, "squad": 84,
        }  # fmt: skip
        training = read_training(zeus("summary_train.csv"), source="train", targets=targets)
        runs = defaultdict(list)
        for row in rows_of("summary_train.csv"):
            if float(row["target_metric"]) == targets[row["dataset"]]:
                key = row["dataset"], row["network"], row["batch_size"], row["optimizer"]
                runs[key].append(float(row["target_epoch"]))
        epochs = {k: sum(r) / len(r) for k, r in runs.items() if not any(e != e for e in r)}
    table = f"summary_power_{gpu}.csv"
    settings = read_settings({table: zeus(table)}, training)
    options = defaultdict(list)  # (time, energy) by dataset and network
    for row in rows_of(table):
        key = row["dataset"], row["network"], row["batch_size"], row["optimizer"]
        many = 1 if epochs is None else epochs.get(key)
        if many is not None:
            time_s = float(row["time_per_epoch"]) * many
            options[key[:2]].append((time_s, time_s * float(row["average_power"])))

    assert len(options) == len(settings) == 6
    times = sorted(time for found in options.values() for time, _ in found)
    for deadline_s in [*times[::5], times[0] * 0.99, times[-1] * 2]:
        for outcome in choose(settings, deadline_s):
            found = options[outcome.workload.dataset, outcome.workload.network]
            in_time = [energy for time, energy in found if time <= deadline_s]
            if in_time:
                assert isinstance(outcome, Chosen)
                assert outcome.setting.energy_j == pytest.approx(min(in_time), rel=1e-12)
                assert outcome.setting.time_s <= deadline_s
            else:
                assert isinstance(outcome, TooLate)
                assert outcome.fastest.time_s == min(time for time, _ in found)


@measured
def test_the_general_model_chooses_the_same():
    settings = read_settings({"p_v100.csv": zeus("summary_power_v100.csv")})
    for deadline_s in (60, 3_600, 6_000):
        chosen = [o for o in choose(settings, deadline_s) if isinstance(o, Chosen)]
        model = Model(
            tasks=tuple(
                Task(id=str(o.workload), deadline_s=deadline_s, required=True) for o in chosen
            ),
            nodes=(Node(id="gpu"),),
            options=tuple(
                Option(
                    task=str(o.workload),
                    node="gpu",
                    energy_j=s.energy_j,
                    duration_s=s.time_s,
                    setting=f"{s.batch_size} {s.optimizer} {s.power_limit_w:g}",
                )
                for o in chosen
                for s in settings[o.workload]
            ),
        )
        answer = solve(model, [Objective.ENERGY], explain=False)
        assert answer.optimal
        assert [p.option.energy_j for p in answer.placements] == [
            o.setting.energy_j for o in sorted(chosen, key=lambda o: str(o.workload))
        ]


# --- on the command line -----------------------------------------------------------------------


@pytest.fixture
def lepton(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("power_x1.csv").write_text(POWER)
    tmp_path.joinpath("train.csv").write_text(TRAINING)

    def call(*arguments):
        code = run(["simulate", "energy", *arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_the_command_answers_in_json(lepton):
    code, out, err = lepton("--table", "power_x1.csv", "--deadline", "7", "-o", "json")
    assert (code, err) == (0, "")
    fastest = {
        "batch_size": 64, "optimizer": "adam", "learning_rate": None, "power_limit_w": 200.0,
        "power_w": 190.0, "epochs": 1.0, "time_s": 5.0, "energy_j": 950.0,
    }  # fmt: skip
    assert json.loads(out) == {
        "deadline_s": 7.0,
        "energy_j": 950.0,
        "choices": [
            {
                "dataset": "digits", "network": "cnn", "gpu": "x1", "target": None, "met": True,
                "earliest_s": 5.0, **fastest, "fastest": fastest, "saved_ratio": 0.0,
            }
        ],
    }  # fmt: skip


def test_the_command_shows_a_table_and_what_cannot_be_met(lepton, tmp_path):
    tmp_path.joinpath("power_x1.csv").write_text(POWER + "words,cnn,32,adam,100,900,90\n")
    arguments = ("--table", "power_x1.csv", "--deadline", "8")
    code, out, err = lepton(*arguments)
    assert (code, err) == (
        0,
        "cannot be met: cnn on words with x1: the earliest it can end is after 900 s\n",
    )
    assert [line.split() for line in out.splitlines()] == [
        ["DATASET", "NETWORK", "GPU", "BATCH", "LIMIT", "EPOCHS", "TIME", "ENERGY", "SAVED"],
        ["digits", "cnn", "x1", "64", "100", "W", "1", "8s", "760", "J", "20", "%"],
        ["words", "cnn", "x1", "≥", "15m"],
    ]


def test_the_command_trains_to_a_target(lepton):
    arguments = ("--table", "power_x1.csv", "--train", "train.csv", "--target", "digits=0.9")
    code, out, _ = lepton(*arguments, "--deadline", "1000", "-o", "json")
    (row,) = json.loads(out)["choices"]
    assert (code, row["target"], row["epochs"], row["energy_j"]) == (0, "0.9", 2.5, 2250.0)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--deadline", "4"), 1, "error: nothing ends within 4 s: cnn on digits with x1: the"
         " earliest it can end is after 5 s\nhint: give it 5 s\n"),
        (("--deadline", "nan"), 2, "'nan' is no length of time"),
        (("--deadline", "9", "--target", "digits=0.9"), 2, "--target needs --train"),
        (("--deadline", "9", "--train", "train.csv", "--target", "x"), 2, "'x' names no target"),
        (("--deadline", "9", "--train", "power_x1.csv"), 1,
         "power_x1.csv:1: there is no column learning_rate"),
        (("--deadline", "9", "--train", "binary"), 1, "binary:2: the text is not UTF-8"),
    ],
)  # fmt: skip
def test_the_command_refuses_with_what_to_do(lepton, tmp_path, arguments, code, message):
    tmp_path.joinpath("binary").write_bytes(b"dataset\n\xff\n")
    answered, out, err = lepton("--table", "power_x1.csv", *arguments)
    assert (answered, out) == (code, "")
    assert message in err
    assert "hint: " in err
