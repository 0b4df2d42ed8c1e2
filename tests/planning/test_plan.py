# SPDX-License-Identifier: Apache-2.0
"""Plans of runs on TPUs elsewhere: the figures, what is kept, and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from inception_jax.cli import main as cli
from inception_jax.cli import plan as cli_plan
from inception_jax.cli.plan import describe
from inception_jax.config import AugmentConfig, OptimizerConfig, ParallelConfig, RunConfig
from inception_jax.models.network import create
from inception_jax.models.summary import summarise
from inception_jax.planning import aot, aot_worker, worker
from inception_jax.planning.aot import CompiledStep, StageWork, TooLarge
from inception_jax.planning.hlo import Movement
from inception_jax.planning.plan import LargestBatch, Plan, Scaling, make_plan
from inception_jax.planning.roofline import CHIPS, GIB, get_slice
from inception_jax.runtime.parallel import all_devices
from tests.test_imports import ours

CONFIG = RunConfig(batch_size=640, dtype="bfloat16")
MOVED = Movement(
    {"all-reduce": 3}, {"all-reduce": 170 * 10**6}, 0, 16 * 10**9, 2 * 10**10, 10**8
)
STAGES = (
    StageWork("Conv2d_1a_3x3", 254_000_000, 4 * 10**9, 3 * 10**7),
    StageWork("Mixed_5b .. Mixed_5e", 12 * 10**9, 11 * 10**9, 6 * 10**7),
    StageWork("", 0, 10**9, 10**7),
)


def compiled(needed: int = 4 * GIB, chips: int = 16, images: int = 40) -> CompiledStep:
    """Of a step of 0.5 GiB and what is temporary for its images."""
    memory = {"arguments": GIB // 2, "results": GIB // 2, "reused": GIB // 2, "code": 0}
    memory |= {"temporary": needed - GIB // 2, "peak": needed}
    return CompiledStep(chips, 100.0, memory, 2.9e12, MOVED, STAGES, 12_254_000_000, 42, 7)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty folder for what is kept, and libtpu as if it were there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    versions = {"libtpu": "0.0.1"}
    monkeypatch.setattr(aot, "version", lambda name: versions.get(name, "1.0"))
    return tmp_path / "inception_jax" / "plan"


# Times: twice what a chip has to receive, over the links of the chip that has fewest.


@pytest.mark.parametrize(
    ("name", "chips", "links", "milliseconds"),
    [
        # Rings of 16: two links of 50 GB/s for each of two axes.
        ("v5e:16x16", 256, 4, 2 * 255 / 256 / 200 * 1e3),
        ("v5e:4x4", 16, 2, 2 * 15 / 16 / 100 * 1e3),
        ("v5e:8x16", 128, 3, 2 * 127 / 128 / 150 * 1e3),
        ("v6e:2x2", 4, 2, 2 * 3 / 4 / 200 * 1e3),
        ("v4:2x2x1", 4, 2, 2 * 3 / 4 / 90 * 1e3),
        ("v4:2x4x4", 32, 3, 2 * 31 / 32 / 135 * 1e3),
        ("v5p:4x4x4", 64, 6, 2 * 63 / 64 / 600 * 1e3),
    ],
)
def test_all_reduce_of_a_gigabyte(name, chips, links, milliseconds):
    found = get_slice(name)
    assert (found.chips, found.links) == (chips, links)
    assert found.all_reduce_seconds(1e9) * 1e3 == pytest.approx(milliseconds)


def test_chips_are_as_their_makers_say():
    for kind, chip in CHIPS.items():
        for shape in chip.slices:
            assert get_slice(f"{kind}:{shape}").chips <= 256
    # All links of a chip, both ways: 400, 1200 and 800 GB/s.
    assert [CHIPS[kind].link_rate * 2 * n for kind, n in (("v5e", 4), ("v5p", 6))] == [
        *(400e9, 1200e9)
    ]
    assert CHIPS["v6e"].link_rate * 2 * 4 == 800e9
    assert CHIPS["v5e"].peak == pytest.approx(4 * 2 * 128**2 * 1.5e9, rel=0.01)


def test_roofline_and_scaling():
    found = Plan(CONFIG, get_slice("v5e:4x4"), compiled(), None)
    assert found.images == 40
    assert found.compute_seconds == pytest.approx(2.9 / 197)
    assert found.hbm_seconds == pytest.approx(16 / 819)
    assert found.step_seconds == found.hbm_seconds
    assert found.images_per_second == pytest.approx(40 * 819 / 16)
    assert found.expected_seconds == pytest.approx(0.1 / 1.5)
    row = found.scaling[2]
    assert (row.chips, len(found.scaling)) == (16, 7)
    alone, reduce = 16 / 819, 2 * 0.17 * 15 / 16 / 100
    assert row.waiting == pytest.approx(alone / (alone + reduce))
    assert row.overlapped == 1.0
    assert Scaling.of(8, 1.0, 4.0) == Scaling(8, 4.0, 0.2, 0.25)
    slow = replace(compiled(), flops=5e12)
    assert replace(found, program=slow).step_seconds == pytest.approx(5 / 197)
    elsewhere = replace(found, slice=get_slice("v6e:4x4"))
    assert elsewhere.expected_seconds is None


def test_needed_memory_counts_results_only_in_places_of_their_own():
    memory = {"arguments": 10, "results": 9, "reused": 8, "temporary": 100, "code": 1000}
    assert replace(compiled(), memory=memory).needed == 10 + 1 + 100 + 1000


def test_the_description_has_the_figures(monkeypatch):
    monkeypatch.setattr(cli_plan, "version", lambda name: "1.0")
    bigger = replace(compiled(12 * GIB), flops=2.9e12 / 40 * 128 * 1.25)
    largest = LargestBatch(128, "v5e:2x2", bigger, TooLarge(20 * GIB, 15 * GIB, 1.0))
    text = describe(Plan(CONFIG, get_slice("v5e:4x4"), compiled(), largest))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "together 4.00 GiB, of 16 GiB",
        "Largest batch per chip that fits: 128 (with 12.00 GiB and 25% of the operations "
        "done twice to save memory; 256 would need at least 20.00 GiB of 15.00 GiB), "
        "compiled for v5e:2x2; 2048 on all.",
        "operations per image 72.5 G, 0.986 of 6 x 12.25 GMACs",
        "bytes per image 400 MB to and from HBM, 500 MB with memory on the chip",
        "collectives per step 3 all-reduce of 170.0 MB; none of them while the step goes "
        "on",
        "roofline, the longer 19.5 ms at most 2,048 images/s per chip, 32,760 on all",
        "by stage of the network operations HBM the compiler expects",
        "Mixed_5b .. Mixed_5e 14.6 ms 13.4 ms 40.0 ms",
        "the rest: loss, update, averages 0.0 ms 1.2 ms 6.7 ms",
        "16 3.2 ms 86.0% 100.0%",
    ):
        assert line in lines
    none = LargestBatch(0, "v5e:2x2", None, TooLarge(20 * GIB, 15 * GIB, 1.0))
    text = describe(Plan(CONFIG, get_slice("v6e:4x4"), compiled(), none))
    assert "that fits: 0 (none; 1 would need at least" in text
    assert "by stage" in text
    assert "expects" not in text  # cores and clock are not known
    silent = replace(compiled(), movement=replace(MOVED, cycles=0))
    text = describe(Plan(CONFIG, get_slice("v5e:4x4"), silent, None))
    assert "expects" not in text


# What is kept.


CHANGES = [
    {"network": "inception_v3"},
    {"batch_size": 1280},
    {"image_size": 331},
    {"dtype": "float32"},
    {"accumulate": 2},
    {"remat": True},
    {"bn_scale": True},
    {"aux_head": True},
    {"residual_scale": 0.1},
    {"probe_every": 5},
    {"parallel": ParallelConfig("shard_map", "global")},
    {"augment": AugmentConfig(color=False)},
    {"optimizer": OptimizerConfig(clip_norm=2.0)},
]


def test_the_key_names_all_that_decides(cache, monkeypatch, tmp_path):
    keys = [
        aot.cache_key(replace(CONFIG, **change), "v5e:4x4") for change in [{}, *CHANGES]
    ]
    keys.append(aot.cache_key(CONFIG, "v5e:2x2"))
    for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "--xla_something=1")
            keys.append(aot.cache_key(CONFIG, "v5e:4x4"))
    for package in aot.PACKAGES:
        with monkeypatch.context() as patch:
            patch.setattr(aot, "version", lambda name, p=package: str(name == p))
            keys.append(aot.cache_key(CONFIG, "v5e:4x4"))
    with monkeypatch.context() as patch:
        patch.setattr(aot, "SOURCE_FILES", aot.SOURCE_FILES[1:])
        keys.append(aot.cache_key(CONFIG, "v5e:4x4"))
    assert len(set(keys)) == len(keys)
    same = replace(CONFIG, seed=3, epochs=2.0, workdir=tmp_path, log_every=7)
    assert aot.cache_key(same, "v5e:4x4") == keys[0]


def test_every_file_behind_the_compiled_step_is_in_the_key():
    reached, more = set(), {"inception_jax.planning.aot_worker"}
    while more:
        reached |= more
        more = {name for module in more for name in ours(module)} - reached
    modules = {name.partition(".")[2].replace(".", "/") for name in reached}
    covered = {name for name in modules if any(fnmatch(name, p) for p in aot.SOURCE_FILES)}
    # These decide no compiled program.
    assert modules - covered == {"data/crops", "storage/jsonl", "storage/run_folder"}


def test_a_step_is_compiled_once(cache, monkeypatch):
    figures = {
        "chips": 16,
        "seconds": 1.0,
        "memory": compiled().memory,
        "flops": 1.0,
        "movement": vars(MOVED),
        "stages": [vars(stage) for stage in STAGES],
        "macs": 1,
        "params": 1,
        "statistics": 1,
    }
    answers = [{"compiled": figures}, {"refused": vars(TooLarge(9, 8, 1.0))}]
    said, asked = [], []

    def ask(worker, request):
        asked.append(request["topology"])
        return answers[request["config"]["batch_size"] == 32]

    monkeypatch.setattr(aot, "run_worker", ask)

    def get(batch_size: int = 16, fresh: bool = False):
        config = replace(CONFIG, batch_size=batch_size)
        return aot.load_or_compile(config, "v5e:4x4", fresh=fresh, log=said.append)

    expected = {**figures, "movement": MOVED, "stages": STAGES}
    assert get() == get() == CompiledStep(**expected)
    assert get(32) == get(32) == TooLarge(9, 8, 1.0)
    assert len(asked) == 2
    assert "inception_v4 for v5e:4x4, 16 images" in said[0]
    get(fresh=True)
    assert len(asked) == 3
    assert all(place.stat().st_mode & 0o777 == 0o700 for place in (cache, cache.parent))
    for path in cache.iterdir():
        path.write_text(path.read_text()[:40])
    get()
    assert len(asked) == 4


# The largest batch.


def with_memory(monkeypatch, *, each: float, limit: float = 15.75, bend: float = 1.0):
    """A compiler for which an image takes `each` GiB, times `bend` above 32 images."""
    asked = []

    def compile_step(config, topology, *, fresh, log):
        images = config.batch_size // get_slice(topology).chips
        asked.append((topology, images))
        grown = each * (min(images, 32) + max(0, images - 32) * bend)
        needed = round((0.5 + grown) * GIB)
        if needed > limit * GIB:
            return TooLarge(needed, round(limit * GIB), 1.0)
        return compiled(needed)

    monkeypatch.setattr(aot, "load_or_compile", compile_step)
    return asked


@pytest.mark.parametrize(
    ("memory", "largest", "compiled_for"),
    [
        # A guess of 1.5 x 15.5 / 0.09 = 258 images, and half as many fit.
        ({"each": 0.09}, 128, [256, 128]),
        # The guess is right.
        ({"each": 0.065}, 128, [256, 128]),
        ({"each": 0.09, "bend": 0.5}, 256, [256, 512]),
        # The guess is too low.
        ({"each": 0.09, "bend": 0.1}, 1024, [256, 512, 1024, 2048]),
        # The guess is too high.
        ({"each": 0.09, "bend": 3.0}, 64, [128, 64]),
    ],
)
def test_the_largest_batch(monkeypatch, memory, largest, compiled_for):
    asked = with_memory(monkeypatch, **memory)
    found = make_plan(CONFIG, "v5e:4x4", largest=True, log=print)
    assert found.largest.images == largest
    assert asked == [("v5e:4x4", 40), *(("v5e:2x2", n) for n in compiled_for)]
    assert found.largest.refused.needed > 15.75 * GIB >= found.largest.program.needed


def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does(monkeypatch):
    with_memory(monkeypatch, each=0.5)
    said = (
        r"40 images per chip of v5e:4x4 need at least 20\.5 GiB of HBM and 15\.75 GiB are "
        r"available; at most 16 fit, a --batch of 256, or split it with --accumulate, or "
        r"use --remat\."
    )
    with pytest.raises(ValueError, match=said):
        make_plan(CONFIG, "v5e:4x4", largest=True, log=print)
    with pytest.raises(ValueError, match="choose a smaller --batch"):
        make_plan(CONFIG, "v5e:4x4", largest=False, log=print)
    with_memory(monkeypatch, each=20.0)
    with pytest.raises(ValueError, match="choose a smaller --batch"):
        make_plan(CONFIG, "v5e:4x4", largest=True, log=print)


def test_parts_of_a_share_divide_the_largest_batch(monkeypatch):
    asked = with_memory(monkeypatch, each=0.09)
    config = replace(CONFIG, accumulate=5, batch_size=800)
    assert make_plan(config, "v5e:4x4", largest=True, log=print).largest.images == 160
    assert [images for _, images in asked] == [50, 160, 320]


# What is asked for wrongly.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("inception_v5", "did you mean inception_v4"),
        ("inception_v4 --topology v5e:3x3", "must be one of v5e:2x2, v5e:2x4, v5e:4x4"),
        ("inception_v4 --topology v9", "one of v4, v5e, v5p, v6e as the chip, got 'v9'"),
        ("inception_v4 --batch 641", "multiple of 16 (16 chips x accumulate 1), got 641"),
        ("inception_v4 --topology v5e:16x16", "got 640; the nearest: 512 or 768"),
        ("inception_v4 --batch 7", "got 7; the nearest: 16."),
        ("inception_v4 --accumulate 3", "multiple of 48"),
        ("inception_v4 --bn-sync 3", "divide the 16 chips of v5e:4x4, got 3"),
        ("inception_v4", 'libtpu, the compiler for TPUs, is missing: pip install "inc'),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as exit:
        cli.main(["plan", *arguments.split()])
    assert exit.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


# The real step, compiled for the devices that are here, and by libtpu.


def test_the_step_that_is_compiled_is_the_training_step(tiny, monkeypatch):
    monkeypatch.setattr(aot_worker, "devices_elsewhere", lambda topology: all_devices())
    config = replace(tiny, batch_size=64, parallel=ParallelConfig("shard_map"))
    whole = aot_worker.compile_step(config, "v5e:2x2")["compiled"]
    assert whole["chips"] == 4
    # The state is donated, and gradients and batch statistics are averaged in float32.
    assert whole["memory"]["reused"] > 3 * 4 * whole["params"]
    averaged = 4 * (whole["params"] + whole["statistics"])
    reduced = whole["movement"]["bytes"]["all-reduce"]
    assert averaged < reduced < averaged + 100
    stages = whole["stages"]
    assert [stage["stage"] for stage in stages][-3:] == ["global_pool", "Logits", ""]
    assert sum(stage["macs"] for stage in stages) == whole["macs"]
    moved = sum(stage["hbm_bytes"] for stage in stages)
    assert moved == whole["movement"]["hbm_bytes"]
    assert all(stage["hbm_bytes"] for stage in stages if stage["macs"])
    # Six operations for a multiply-accumulate, and what is not in convolutions.
    assert 16 * 6 * whole["macs"] < whole["flops"] < 3 * 16 * 6 * whole["macs"]
    parts = aot_worker.compile_step(replace(config, accumulate=4), "v5e:2x2")["compiled"]
    assert parts["flops"] == pytest.approx(whole["flops"], rel=0.25)
    with pytest.raises(ValueError, match="at least"):
        aot_worker.compile_step(replace(config, image_size=1), "v5e:2x2")


def test_the_blocks_of_a_stage_are_one_line():
    kernel = (
        "  %{0} = f32[100]{{0}} custom-call(%a), metadata={{op_name="
        '"jit(step)/jvp(Network)/{0}/add"}}, backend_config={{"estimated_cycles":"7"}}'
    )
    lines = [kernel.format(name) for name in ("block8_1", "block8_2", "Logits", "psum")]
    text = "\n".join(["ENTRY %main (a: f32[100]) -> f32[100] {", *lines, "}"])
    stages = aot_worker._stages(summarise(create("inception_resnet_small")), text)
    figures = [(s["stage"], s["hbm_bytes"], s["cycles"]) for s in stages[2:]]
    assert figures == [
        ("block8_1 .. block8_10", 2 * 400, 2 * 7),
        ("global_pool", 0, 0),
        ("Logits", 400, 7),
        ("", 400, 7),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "RESOURCE_EXHAUSTED: ... Used 17.71G of 15.75G hbm. Exceeded hbm capacity by",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (17.71G) exceeds available HBM (15.75G).",
    ],
)
def test_what_the_compiler_says_of_a_program_that_is_too_large(text):
    found = aot_worker._refusal(RuntimeError(text))
    assert found == {"needed": round(17.71 * GIB), "available": round(15.75 * GIB)}
    with pytest.raises(RuntimeError, match="something else"):
        aot_worker._refusal(RuntimeError("something else"))


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='libtpu is not installed: pip install "inception_jax[plan]"',
)


@needs_libtpu
@pytest.mark.slow
def test_a_plan_of_a_small_network(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = "plan inception_resnet_small --topology v5e:2x2 --batch 64 --no-largest"
    cli.main(command.split())
    text, progress = capsys.readouterr()
    assert "Compiling inception_resnet_small for v5e:2x2" in progress
    for expected in (
        "4 x TPU v5 lite",
        "16 per chip",
        "of 16 GiB",
        "1 all-reduce of 0.9 MB",
    ):
        assert expected in text
    cli.main([*command.split(), "--json"])
    text, progress = capsys.readouterr()
    assert progress == ""
    figures = json.loads(text)
    assert figures["program"]["chips"] == 4
    program = figures["program"]
    assert 0 < program["movement"]["hbm_bytes"] < program["movement"]["total_bytes"]
    assert figures["scaling"][0]["chips"] == 4
    assert "libtpu.so" not in Path("/proc/self/maps").read_text()


@needs_libtpu
@pytest.mark.slow
def test_every_slice_that_is_named_is_one_to_libtpu():
    names = [f"{kind}:{shape}" for kind, chip in CHIPS.items() for shape in chip.slices]
    program = (
        "import sys\n"
        "from inception_jax.runtime.hardware import describe\n"
        "from inception_jax.runtime.parallel import devices_elsewhere\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, describe(devices_elsewhere(name)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | worker.WORKER_ENVIRONMENT,
    )
    slices = [get_slice(name) for name in names]
    expected = [f"{s.name} {s.chips} x {s.chip.kind}" for s in slices]
    assert [x for x in result.stdout.splitlines() if x in expected] == expected
