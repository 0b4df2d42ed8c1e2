# SPDX-License-Identifier: Apache-2.0
"""`inception-jax`: the figures it prints, and one line for invalid input."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from inception_jax.cli import main as cli
from inception_jax.cli import networks

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _trace_each_network_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "summarise", cache(networks.summarise))
        yield


@pytest.fixture
def run(capsys):
    """Run `inception-jax ARGUMENTS`; return exit status, standard output and error."""

    def run(arguments: str) -> tuple[int, str, str]:
        try:
            cli.main(arguments.split())
            status = 0
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


# Sources of the figures: tests/models/test_counts.py. The small network was designed for
# the study of residual scaling: a change of its figures is a change of the study.
TABLE = """
inception_v3                 23,834,568   5,713,216,096  299x299x3  3/4/2    288-768-2048
inception_v4                 42,679,816  12,253,974,624  299x299x3  4/7/3    384-1024-1536
inception_resnet_v1          22,756,328   6,206,361,696  299x299x3  5/10/5   256-896-1792
inception_resnet_v2          55,843,464  13,155,794,016  299x299x3  10/20/10 320-1088-2080
inception_resnet_v2_paper    32,433,928   9,257,953,632  299x299x3  5/10/5   384-1152-2144
inception_resnet_v1_facenet  23,482,624   1,417,662,304  160x160x3  5/10/6   256-896-1792
inception_resnet_small          219,242       3,412,480  8x8x1      0/0/10   256
"""


@pytest.mark.slow
def test_table_of_networks(run):
    status, output, errors = run("networks")
    assert (status, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0].split()[:3] == ["network", "parameters", "MACs"]
    expected = [line.split() for line in TABLE.strip().splitlines()]
    assert [line.split()[:6] for line in lines[2:9]] == expected
    drawn = ["like 1512.00567, Table 1", "Fig. 9", "Fig. 15", "like Fig. 15", "Fig. 15"]
    drawn += ["like Fig. 15", "the paper"]
    assert all(line.endswith(end) for line, end in zip(lines[2:9], drawn, strict=True))


def test_one_network_stage_by_stage(run):
    status, output, errors = run("networks inception_resnet_v1")
    assert (status, errors) == (0, "")
    rows = {line.split("  ")[0]: line.split() for line in output.splitlines()}
    assert rows["Conv2d_1a_3x3"][1:] == [
        "1",
        "149x149x32",
        "3x3",
        "928",
        "19,181,664",
        "Fig.",
        "14",
    ]
    # Ten times the weights of Fig. 11: 128*896*3 + 128*128*7*2 and so on.
    b = rows["block17_1 .. block17_10"]
    # Each of the ten blocks sees 3 positions of stride 16 further on each side.
    figures = ["6,900,480", "1,988,689,920", "0.1", "Fig.", "11"]
    assert b[3:] == ["10", "17x17x896", "1183x1183", *figures]
    assert rows["Mixed_6a"][-4:] == ["Fig.", "7,", "Table", "1"]
    assert rows["Logits"][1:5] == ["1", "1000", "all", "1,793,000"]
    assert rows["total"] == ["total", "22,756,328", "6,206,361,696"]


def test_blocks_of_several_widths_are_one_stage(run):
    status, output, errors = run("networks inception_v3")
    assert (status, errors) == (0, "")
    rows = {line.split("  ")[0]: line.split()[3:8] for line in output.splitlines()}
    # 255,904 parameters of Mixed_5b and 281,312 of each of the two others, and so on.
    assert rows["Mixed_5b .. Mixed_5d"] == [
        "3",
        "35x35x288",
        "127x127",
        "818,528",
        "999,129,600",
    ]
    assert rows["Mixed_6b .. Mixed_6e"][1::2] == ["17x17x768", "6,821,376"]


def test_image_size(run):
    status, output, _ = run("networks inception_resnet_v1 --image-size 150")
    assert status == 0
    assert "74x74x32" in output
    assert "22,756,328" in output
    assert "6,206,361,696" not in output


def test_comparison_of_the_two_v2(run):
    status, output, errors = run(
        "networks compare inception_resnet_v2 inception_resnet_v2_paper"
    )
    assert (status, errors) == (0, "")
    marked, unmarked = {}, set()
    for line in output.splitlines()[2:]:
        star, *cells = [cell.strip() for cell in line[3:].split("  ") if cell.strip()]
        if line.startswith("*"):
            marked[star] = cells[-1]
        else:
            unmarked.add(star)
    both = "shape, parameters, MACs"
    first, second = "only in the first", "only in the second"
    assert marked == {
        **dict.fromkeys(["MaxPool_3a_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"], first),
        **dict.fromkeys(["MaxPool_5a_3x3", "Mixed_5b"], first),
        **dict.fromkeys(["Mixed_3a", "Mixed_4a", "Mixed_5a"], second),
        **dict.fromkeys(["A", "B", "C"], "blocks, " + both),
        **dict.fromkeys(["Reduction-A", "Reduction-B"], both),
        **dict.fromkeys(["C, last", "Conv2d_7b_1x1"], first),
        "global_pool": "shape",
        "Logits": "parameters, MACs",
    }
    assert unmarked == {"Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "total"}
    assert "10 x 35x35x320, 1,231,680, scale 0.17" in output
    assert "55,843,464 params, 13,155,794,016 MACs" in output
    assert "32,433,928 params, 9,257,953,632 MACs" in output


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("networks incepton_v4", "did you mean inception_v4?"),
        ("networks compare inception_v4", "compare takes two networks, got 1"),
        ("networks compare inception_resnet_small v5", "no network 'v5'"),
        ("networks a b", "networks compare a b"),
        (
            "networks inception_v4 --image-size 74",
            "inception_v4: images must be at least 75x75 pixels, got 74x74",
        ),
    ],
)
def test_invalid_input_is_one_line(run, arguments, part):
    status, output, errors = run(arguments)
    assert status == 2
    assert output == ""
    assert errors.startswith("inception-jax: ")
    assert errors.count("\n") == 1
    assert part in errors


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("networks --image-size x", "--image-size"),
        ("networks --imagesize 75", "--image-size"),
        ("network", "networks"),
        ("", "networks"),
    ],
)
def test_invalid_options_are_explained(run, arguments, part):
    status, _, errors = run(arguments)
    assert status == 2
    assert part in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "usage"),
    [
        (
            "--help",
            "usage: inception-jax [-h] "
            "{networks,data,ckpt,plan,predict,features,weights,version}",
        ),
        ("networks --help", "usage: inception-jax networks [-h] [NAME | compare A B]"),
    ],
)
def test_help(run, arguments, usage):
    status, output, errors = run(arguments)
    assert (status, errors) == (0, "")
    assert output.startswith(usage)


def test_version(run):
    status, output, _ = run("version")
    assert status == 0
    packages = [line.split()[0] for line in output.splitlines()]
    assert packages == ["inception_jax", "jax", "flax", "optax"]


def test_as_a_module():
    def python_m(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "inception_jax", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    good = python_m("networks", "inception_resnet_small")
    assert (good.returncode, good.stderr) == (0, "")
    assert "219,242" in good.stdout
