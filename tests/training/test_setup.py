# SPDX-License-Identifier: Apache-2.0
"""Preparing a run: from its configuration to its parts, and claiming its folder."""

import json
from dataclasses import fields, replace
from pathlib import Path
from unittest.mock import create_autospec

import jax.numpy as jnp
import numpy as np
import pytest

from inception_jax.config import (
    AblationConfig,
    HostsConfig,
    ParallelConfig,
    PreprocessSpec,
    RunConfig,
)
from inception_jax.data.batches import train_batches
from inception_jax.models.ablation import ablated
from inception_jax.models.zoo import SPECS
from inception_jax.runtime.goodput import Goodput
from inception_jax.runtime.stopping import StopSignal
from inception_jax.runtime.watchdog import Watchdog
from inception_jax.storage.checkpoints import Checkpoints
from inception_jax.storage.run_folder import RECORD_FILE, config_differences, read_record
from inception_jax.training.feed import train_feed
from inception_jax.training.from_config import network_for
from inception_jax.training.loop import Loop, NonFiniteError
from inception_jax.training.reporter import Reporter
from inception_jax.training.setup import claim_folder, set_up

STANDARD = RunConfig()
# Values other than the defaults. Changing one of these fields makes another run.
DECISIVE = {
    "train_split": "train[:100]",
    "eval_split": "train[100:]",
    "network": "inception_v3",
    "data": "digits",
    "image_size": 75,
    "crop_fraction": 1.0,
    "aspect": "keep",
    "resize": "bicubic",
    "pixel_range": (0.0, 1.0),
    "first_weights": "elsewhere",
    "head": "kept",
    "bn_frozen": True,
    "batch_size": 64,
    "accumulate": 2,
    "dtype": "bfloat16",
    "seed": 1,
    "bn_scale": True,
    "bn_decay": 0.9,
    "dropout_rate": 0.0,
    "aux_head": True,
    "residual_scale": 0.5,
    "on_bad_image": "skip",
    "optimizer": replace(STANDARD.optimizer, clip_norm=1.0),
    "loss": replace(STANDARD.loss, label_smoothing=0.1),
    "augment": replace(STANDARD.augment, area=(0.1, 1.0)),
    "parallel": ParallelConfig(bn_sync="global"),
    "ablation": AblationConfig(pool_norm="before_relu"),
}
# These fields may change when a run resumes.
FREE = {
    "workdir": Path("elsewhere"),
    "data_dir": "elsewhere",
    "remat": True,
    "fast": False,
    "epochs": 1.0,
    "steps": 1,
    "eval_every": 2.0,
    "patience": 3,
    "checkpoint_every": 2.0,
    "keep_checkpoints": 1,
    "log_every": 1,
    "probe_every": 1,
    "probe_images": 1,
    "on_nonfinite": "record",
    "workers": 1,
    "wandb": "project",
    "hosts": HostsConfig("auto"),
}


def test_what_makes_another_run():
    assert DECISIVE.keys() | FREE.keys() == {field.name for field in fields(RunConfig)}
    for name, value in (DECISIVE | FREE).items():
        found = config_differences(STANDARD, replace(STANDARD, **{name: value}))
        assert bool(found) == (name in DECISIVE), name
        assert all(line.startswith(name) for line in found)


def test_every_option_reaches_the_network_and_its_training(tiny, tmp_path):
    config = replace(
        tiny,
        workdir=tmp_path / "a",
        crop_fraction=0.75,
        aspect="keep",
        resize="bicubic",
        pixel_range=(-0.5, 2.0),
        bn_frozen=True,
        batch_size=64,
        steps=None,
        epochs=2.0,
        accumulate=4,
        remat=True,
        dtype="bfloat16",
        bn_scale=True,
        bn_decay=0.5,
        dropout_rate=0.25,
        loss=replace(tiny.loss, label_smoothing=0.1),
        parallel=ParallelConfig(bn_sync=2),
        ablation=AblationConfig(residual_init="zeros", activation="pre"),
    )
    setup = set_up(config)
    network, options = setup.network, setup.options
    assert (network.num_classes, network.dtype) == (10, jnp.bfloat16)
    assert (network.bn_scale, network.bn_decay) == (True, 0.5)
    assert network.dropout_rate == 0.25
    changes = {"residual_init": "zeros", "activation": "pre"}
    assert network.spec == ablated(SPECS["tiny"], **changes)
    assert network.bn_axis_index_groups == ((0, 1), (2, 3))
    assert options.network == network
    assert (options.optimizer, options.loss) == (config.optimizer, config.loss)
    assert (options.accumulate, options.steps_per_epoch) == (4, 1500 / 64)
    assert options.preprocess == setup.preprocess
    assert setup.preprocess == PreprocessSpec(
        (8, 8, 1), 0.75, "keep", "bicubic", low=-0.5, high=2.0
    )
    assert network.bn_frozen
    assert network.remat
    assert setup.steps == 47  # 2 x 23.4
    assert setup.eval_batch_size == 64
    assert not options.group_metrics
    assert setup.probe_images == 296  # of 297, a multiple of the devices
    assert (
        set_up(replace(config, batch_size=800, workdir=tmp_path / "b")).eval_batch_size
        == 300
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 30}, "batch_size must be a multiple of 4 .* got 30"),
        ({"batch_size": 32, "accumulate": 16}, "a multiple of 64 .* got 32"),
        ({"batch_size": 1504}, "at most the 1500 training examples of digits, got 1504"),
        (
            {"probe_every": 1, "probe_images": 3},
            "one for each of the 4 devices, got 3 of the 297 examples of digits .eval",
        ),
        ({"network": "tinny"}, "no network 'tinny'; did you mean tiny"),
        ({"image_size": 7}, "at least 8x8 pixels, got 7x7"),
        ({"aux_head": True}, "aux_head=True needs a network with a 17x17 grid"),
        ({"data": "digitz"}, "digitz"),
        ({"head": "kept"}, "head must be new without first_weights"),
        ({"first_weights": "nowhere"}, "there is no model nowhere"),
        ({"network": "inception_v4", "residual_scale": 0.1}, "no residual blocks"),
        (
            {"network": "inception_v4", "ablation": AblationConfig(activation="pre")},
            "an ablation needs a network with residual blocks",
        ),
        (
            {
                "network": "inception_resnet_v2",
                "ablation": AblationConfig(pool_norm="before_relu"),
            },
            "pool_norm='before_relu' needs a residual sum",
        ),
    ],
)
def test_errors_come_before_anything_is_written(tiny, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        set_up(replace(tiny, workdir=tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_network_for_inference_has_no_device_groups(tiny):
    """A network trained on four devices in pairs can be evaluated on one."""
    network = network_for(replace(tiny, parallel=ParallelConfig(bn_sync=2)), 10)
    assert network.bn_axis_name is None
    assert not network.bn_scale  # slim's, though the networks' own default is True


def claim(config: RunConfig) -> None:
    with claim_folder(set_up(config)):
        pass


def test_a_record_from_before_ablations_is_read(tiny, tmp_path):
    """The run continues with the same network."""
    config = replace(tiny, workdir=tmp_path)
    claim(config)
    path = tmp_path / RECORD_FILE
    record = json.loads(path.read_text())
    del record["config"]["ablation"]
    path.write_text(json.dumps(record))
    assert read_record(tmp_path).config == config
    set_up(config)
    with pytest.raises(ValueError, match=r"ablation\.pool_norm none instead of after_relu"):
        set_up(replace(config, ablation=AblationConfig(pool_norm="after_relu")))


def test_a_record_with_an_ablation_is_read(tiny, tmp_path):
    changes = AblationConfig(learned_scale="scalar", learned_scale_init=0.0)
    config = replace(tiny, workdir=tmp_path, ablation=changes)
    claim(config)
    assert read_record(tmp_path).config == config


def loop_of(config: RunConfig) -> Loop:
    kinds = (Checkpoints, Reporter, Watchdog, StopSignal)
    parts = (create_autospec(kind, instance=True) for kind in kinds)
    return Loop(set_up(config), Goodput(), *parts)


def test_numbers_and_batches_of_a_step(tiny, tmp_path):
    config = replace(tiny, workdir=tmp_path, seed=7, residual_scale=0.5)
    run = loop_of(config)
    optimizer, scale, seed, stale = run.numbers
    assert float(optimizer.learning_rate) == pytest.approx(config.optimizer.learning_rate)
    assert (float(scale), int(seed), stale) == (0.5, 7, None)
    batches = train_batches(
        run.setup.train_source,
        preprocess=run.setup.preprocess,
        augment=config.augment,
        batch_size=32,
        seed=7,
    )
    got = train_feed(run.setup, 3, run.train_step.place, run.reporter.skipped)
    for step in (3, 4):
        batch = next(got)
        assert batch.keys() == {"image", "label"}
        for name, x in batch.items():
            expected = batches[step][name]
            np.testing.assert_array_equal(np.reshape(x, expected.shape), expected)


@pytest.mark.parametrize("bad", ["loss_sum", "grad_norm"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_either_of_loss_and_gradient_ends_the_run(tiny, tmp_path, bad, value):
    run = loop_of(replace(tiny, workdir=tmp_path))
    good = {"loss_sum": 1.0, "grad_norm": 1.0, "count": 2.0}
    run.pending += [(4, good, np.zeros(())), (5, good | {bad: value}, np.zeros(()))]
    with pytest.raises(NonFiniteError, match=f"^step 5: .*{value:g}"):
        run._receive_all()
    assert run.reporter.add.call_count == 2
    run.reporter.log.assert_called_once_with(5)  # the failing step is recorded


def test_the_first_call_of_a_program_counts_as_its_compilation(tiny, tmp_path):
    run = loop_of(replace(tiny, workdir=tmp_path))
    run.goodput = create_autospec(Goodput, instance=True)
    for kind, program in 2 * [("step", "train")] + 2 * [("eval", "eval")]:
        run._timed(kind, program)
    kinds = [call.args[0] for call in run.goodput.spent_on.call_args_list]
    assert kinds == ["compile", "step", "compile", "eval"]


def test_only_one_process_claims_a_folder(tiny, tmp_path):
    """Sessions are recorded, and a second process is refused."""
    config = replace(tiny, workdir=tmp_path / "run")
    setup = set_up(config)
    assert not (tmp_path / "run").exists()  # nothing is written yet
    with claim_folder(setup) as before:
        assert before is None
        with pytest.raises(ValueError, match="is in use by"), claim_folder(setup):
            pass
    draft = config.workdir / "run.json.tmp-1"
    draft.touch()  # as a killed process leaves it
    with claim_folder(set_up(replace(config, steps=7))) as before:
        assert (before.steps, len(before.sessions)) == (6, 1)
        assert not draft.exists()
    record = read_record(config.workdir)
    assert (record.steps, len(record.sessions)) == (7, 2)
    assert [session.devices for session in record.sessions] == 2 * ["4 x cpu"]


def test_other_classes_are_another_run(tiny, photos, tmp_path):
    config = replace(tiny, data=f"folder:{photos}", batch_size=8, workdir=tmp_path / "run")
    claim(config)
    claim(config)
    for split in ("train", "val"):
        (photos / split / "b").rename(photos / split / "c")
    with pytest.raises(ValueError, match=r"settings \(the classes of the data\); choose"):
        set_up(config)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "Expecting value"),
        ("[]", r"\[\] is not a RunRecord"),
        ("null", "None is not a RunRecord"),
        ("{}", "missing"),
        ('{"config": 3}', "3 is not a RunConfig"),
        ('{"config": {"batch": 1}}', "unknown batch"),
        ('{"config": {"seed": -1}}', "seed must be from 0"),
        ("\udcff", "utf-8"),
    ],
)
def test_an_invalid_record(tmp_path, content, why):
    (tmp_path / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(
        ValueError, match=f"run.json cannot be read as the record of a run.*{why}"
    ):
        read_record(tmp_path)


def test_probes_are_prepared_for(tiny, tmp_path):
    """The probe images are a multiple of the devices, and group metrics are on."""
    config = replace(tiny, workdir=tmp_path, probe_every=5, probe_images=30)
    assert set_up(config).probe_images == 28
    assert set_up(config).options.group_metrics


def test_a_large_batch(tiny, tmp_path):
    """A batch may be the whole training set."""
    assert set_up(replace(tiny, workdir=tmp_path, batch_size=1500)).steps == 6
