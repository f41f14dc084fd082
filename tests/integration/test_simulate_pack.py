"""`leptonai simulate pack`: as people call it, and against the published results of openb."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from leptonai.cli.__main__ import run
from leptonai.core.scheduler import Choice
from leptonai.testing.simulator import read_nodes, read_pods, simulate_pack

NODES = "sn,cpu_milli,memory_mib,gpu,model\nb,96000,393216,8,G2\n"
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\nwhole,12000,16384,1,1000\n"

# Beside the checkout, or further up where it is a worktree.
_beside = (folder / "shared" / "traces" for folder in Path(__file__).parents[2].parents)
TRACES = Path(os.environ.get("LEPTON_TRACES") or next(filter(Path.is_dir, _beside), "absent"))
OPENB = TRACES / "alibaba_openb_2023"
with_traces = pytest.mark.skipif(
    not OPENB.is_dir(), reason="needs the published traces in ../shared/traces or LEPTON_TRACES"
)


@pytest.fixture
def simulate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def simulate(*options, nodes=NODES, pods=PODS):
        (tmp_path / "nodes.csv").write_text(nodes)
        (tmp_path / "pods.csv").write_text(pods)
        given = ["simulate", "pack", "--nodes", "nodes.csv", "--pods", "pods.csv", *options]
        exit_code = run(given)
        return exit_code, *capsys.readouterr()

    return simulate


def test_the_json_says_what_was_asked_and_what_came_of_it(simulate):
    exit_code, out, err = simulate(
        "--policy", "fgd", "--arrival", "1.1", "--seed", "7", "-o", "json"
    )
    assert (exit_code, err) == (0, "")
    answer = json.loads(out)
    assert answer.pop("decisions_per_s") > 0
    shares = [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.625, 0.75, 0.875, 1.0, 1.0]
    allocated = {f"{(at + 1) / 10:.1f}": share for at, share in enumerate(shares)}
    idle, gpu, socket = 3 * 15 + 8 * 30, 150 - 30, 120 - 15
    sockets = [0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert answer == {
        "policy": "fgd",
        "arrival": 1.1,
        "seed": 7,
        "allocation_ratio": allocated,
        "power_watts": {
            arrived: idle + 8 * share * gpu + awake * socket
            for (arrived, share), awake in zip(allocated.items(), sockets, strict=True)
        },
        "pods": 8,
        "skipped": 0,
        "never_fit": 0,
        "gpus_left": 0.0,
    }


def test_the_table_is_for_people(simulate):
    exit_code, out, _ = simulate("--arrival", "0.25")
    assert exit_code == 0
    assert out.splitlines()[:4] == [
        "ARRIVED  ALLOCATED  POWER",
        "10 %     0.00 %     0.3 kW",
        "20 %     12.50 %    0.5 kW",
        "25 %     25.00 %    0.6 kW",
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "magic"), "there is no policy 'magic'"),
        (("--arrival", "nan"), "'nan' is no share of what there is"),
        (("--arrival", "-1"), "'-1' is no share of what there is"),
        (("--plot", "picture.txt"), "names no kind of picture"),
    ],
)
def test_what_cannot_be_is_refused_with_a_hint(simulate, options, said):
    exit_code, out, err = simulate(*options)
    assert (exit_code != 0, out) == (True, "")
    assert said in err
    assert "hint" in err


def test_a_wrong_line_is_named(simulate):
    exit_code, _, err = simulate(pods=PODS + "whole,1,1,1,1000\n")
    assert exit_code != 0
    assert "pods.csv:3: name 'whole' is there twice" in err


def openb(pods):
    with (OPENB / "openb_node_list_gpu_node.csv").open() as lines:
        nodes = read_nodes(lines, source="nodes")
    with (OPENB / f"openb_pod_list_{pods}.csv").open() as lines:
        return nodes, read_pods(lines, source="pods")


def published(pods, policy):
    with (OPENB / "published_allocation_ratio.csv").open() as lines:
        rows = [
            float(row["130"])
            for row in csv.DictReader(lines)
            if (row["workload"], row["sc_policy"]) == (f"openb_pod_list_{pods}", policy)
        ]
    return mean(rows) / 100


@with_traces
@pytest.mark.parametrize(
    ("choice", "policy"), [(Choice.RANDOM, "01-Random"), (Choice.BEST_FIT, "05-BestFit")]
)
def test_the_baselines_fill_openb_as_published(choice, policy):
    packed = simulate_pack(*openb("default"), choice)
    # One seed of ten: those that were published spread by 0.3 points.
    assert packed.allocated["1.3"] == pytest.approx(published("default", policy), abs=0.006)


@with_traces
def test_ours_fills_openb_better_than_fgd_whatever_the_nodes_are_called():
    nodes, pods = openb("default")
    names = np.random.default_rng(5).permutation(len(nodes))
    renamed = [replace(node, id=f"n{at}") for node, at in zip(nodes, names, strict=True)]
    packed = simulate_pack(renamed, pods)
    assert packed.allocated["1.3"] >= published("default", "06-FGD")
