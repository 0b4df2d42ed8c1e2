# SPDX-License-Identifier: Apache-2.0
"""Two processes with two devices each train like one with four, and report faults."""

import json
import socket
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from inception_jax.config import HostsConfig
from inception_jax.runtime import hosts
from tests.processes import Processes, free_port
from tests.runtime.host_program import TRAINED, evaluated, results_with_stop_flag, trained

# Sums over devices are taken in another order: by gloo's ring over both processes, or
# within one process.
ROUNDING = {"rtol": 2e-5, "atol": 1e-6}


class Pair(NamedTuple):
    """Results, final states, output and exit statuses of two processes."""

    found: list[dict[str, Any]]
    states: list[dict[str, np.ndarray]]
    said: list[str]
    statuses: list[int]


def run(part: str, folder: Path, *more: str, **options: Any) -> Pair:
    folder.mkdir()
    arguments = [
        "-m",
        "tests.runtime.host_program",
        "--part",
        part,
        "--folder",
        str(folder),
        *more,
    ]
    with Processes(arguments, 2, 2, folder, **options) as pair:
        statuses = pair.wait(300)
    said = [pair.said(i) for i in range(2)]
    assert (folder / "1.json").exists(), pair.said_by_all()
    found = [json.loads((folder / f"{i}.json").read_text()) for i in range(2)]
    states = [dict(np.load(folder / f"{i}.npz", allow_pickle=False)) for i in range(2)]
    return Pair(found, states, said, statuses)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    # Meanwhile another process waits for a peer that never starts.
    alone = folder / "alone"
    alone.mkdir()
    arguments = [
        "-m",
        "tests.runtime.host_program",
        "--part",
        "start",
        "--folder",
        str(alone),
    ]
    given = f"--hosts.coordinator=127.0.0.1:{free_port()}"
    arguments += [given, "--hosts.count=2", "--hosts.index=0", "--hosts.start-timeout=1"]
    with Processes(arguments, 1, 1, alone, coordinator="") as waiting:
        found = run("checks", folder / "both")
        assert waiting.wait(60) == [76]
    return found._replace(said=[*found.said, waiting.said(0)])


def assert_same_training(pair: Pair, wrapper: str, mode: str | int) -> None:
    first, second = (
        {name: x for name, x in states.items() if name.startswith(f"{wrapper} {mode} ")}
        for states in pair.states
    )
    expected = trained(wrapper, mode)
    assert len(first) == len(expected)
    for name, x in expected.items():
        there = first[f"{wrapper} {mode} {name}"]
        np.testing.assert_array_equal(second[f"{wrapper} {mode} {name}"], there)
        np.testing.assert_allclose(there, x, **ROUNDING, err_msg=name)
        assert there.dtype == x.dtype


def test_two_processes_with_two_devices_train_like_one_with_four(pair):
    assert_same_training(pair, "pmap", "none")


@pytest.mark.slow
def test_all_wrappers_and_batch_statistics_agree(tmp_path):
    found = run("training", tmp_path / "all")
    assert found.statuses == [0, 0], found.said
    for wrapper, mode in TRAINED["training"]:
        assert_same_training(found, wrapper, mode)


def test_evaluation_counts_exactly_n(pair):
    first, second = (found["evaluated"] for found in pair.found)
    assert first == second
    assert first["count"] == 103
    assert first == pytest.approx(evaluated("pmap"), rel=1e-6)


def test_all_processes_learn_of_a_stop(pair):
    # The flag is set on no device, on the two of the second process, and on all four.
    expected = [[1.0, 12.0, 0.0], [2.0, 12.0, 2.0], [3.0, 12.0, 4.0]]
    for found in pair.found:
        assert found["results_with_stop_flag"] == {"pmap": expected, "shard_map": expected}
    assert [x[1:] for x in results_with_stop_flag("pmap")] == [
        [8.0, 0.0],
        [8.0, 0.0],
        [8.0, 4.0],
    ]


def test_differences_and_failures_are_raised_in_all_processes(pair):
    host = socket.gethostname()
    different, failed, disk = pair.found[0]["told"]
    start = "ValueError: the processes of a run must have the same settings: seed"
    assert different.startswith(start)
    assert f"seed is 0 in process 0 ({host}) and 1 in process 1 ({host})." in different
    assert "code" not in different.removesuffix("from the same code.")
    assert failed == f"ValueError: process 1 ({host}): no such class"
    assert disk == f"OSError: process 1 ({host}): disk full"
    own = [different, "RuntimeError: no such class", "OSError: disk full"]
    assert pair.found[1]["told"] == own


def test_every_process_lists_all(pair):
    for index in range(2):
        lines = [x for x in pair.said[index].splitlines() if x.startswith("process ")]
        assert lines[0].startswith(f"process 0: {socket.gethostname()}, pid ")
        assert lines[1].startswith(f"process 1: {socket.gethostname()}, pid ")
        assert ", 2 x cpu, jax " in lines[1]
        assert lines[1].endswith(", code c0de")
        assert pair.found[index]["host"] == [index, 2]


def test_sigterm_is_left_to_python(pair):
    assert [found["free"] for found in pair.found] == [True, True]


def test_the_end_of_one_process_ends_the_other_with_a_message(pair):
    """Process 0 exits while 1 hangs; JAX then ends process 1, which lists the processes."""
    assert pair.statuses == [5, 76]
    last = pair.said[1].rsplit("JAX has ended this process", 1)[1]
    assert (
        'another process of the run is gone; the lines above name it ("leader" is' in last
    )
    assert f"process 0: {socket.gethostname()}, pid" in last


def test_a_process_whose_peers_do_not_start_says_so(pair):
    assert "not all processes of the run connected within 1 s" in pair.said[2]
    assert "coordinator 127.0.0.1:" in pair.said[2]


@pytest.mark.parametrize("address", ["nohost.invalid:1234", "127.0.0.1:99999"])
def test_an_invalid_address(address):
    with pytest.raises(ValueError, match=f"coordinator must be HOST:PORT.* got {address}"):
        hosts.connect(HostsConfig(address, 2, 1))


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on port {port}") as error:
            hosts.connect(HostsConfig(f"127.0.0.1:{port}", 2, 0))
    assert "choose another" in str(error.value)


def test_no_cluster(monkeypatch):
    monkeypatch.setattr(hosts, "_set_abort_message", lambda text: None)
    with pytest.raises(ValueError, match="JAX found no cluster that it supports"):
        hosts.connect(HostsConfig("auto"))


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "192.0.2.1"])
def test_a_loopback_coordinator_listens_to_this_machine_only(address):
    port = free_port()
    arguments = hosts._initialize_arguments(HostsConfig(f"{address}:{port}", 2, 1))
    bound = arguments["coordinator_bind_address"]
    inside = (f"127.0.0.1:{port}", f"[::1]:{port}")
    assert bound in ((None,) if address == "192.0.2.1" else inside)


def is_free(port: int) -> bool:
    try:
        socket.create_server(("", port)).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_jax_detects_the_processes_of_slurm(tmp_path):
    """With the variables that srun sets; the job id determines the port."""
    job = next(i for i in range(1000, 1100) if is_free(61440 + i))
    found = run(
        "start",
        tmp_path / "slurm",
        "--hosts.coordinator=auto",
        coordinator="",
        environment={
            "SLURM_JOB_ID": str(job),
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": "{index}",
            "SLURM_LOCALID": "{index}",
        },
    )
    assert found.statuses == [0, 0]
    assert [x["host"] for x in found.found] == [[0, 2], [1, 2]]
