# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.residual_scaling.imagenet [RUN]`: section 3.3 at full size.

Trains a full network on ImageNet, for a TPU pod; without a name, lists the runs with their
cost. A run takes the options of `python -m experiments.run`, saves and resumes like it, and
writes its signals into metrics.jsonl. None has been trained yet.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from experiments import run
from experiments.cost import read_costs
from experiments.networks import RECIPES
from inception_jax.config import AblationConfig, OptimizerConfig, RunConfig
from inception_jax.runtime import hosts

PROG = "python -m experiments.residual_scaling.imagenet"
STEPS = 50_000  # the paper: "a few tens of thousands of iterations"


def _run(network: str = "inception_resnet_v2_paper", **changes: object) -> RunConfig:
    options = {"residual_scale": 1.0, "steps": STEPS, "probe_every": 500} | changes
    return replace(RECIPES[network].CONFIG, checkpoint_every=0.5, **options)


PERIOD = AblationConfig(residual_init="stddev_0.1", kernel_init="stddev_0.1")

# Repeat a run with --seed 1, 2, ... and another --workdir.
RUNS: dict[str, RunConfig] = {
    "unscaled": _run(),
    "scale_0.3": _run(residual_scale=0.3),
    "scale_0.1": _run(residual_scale=0.1),
    "scale_published": _run(residual_scale=None),
    "unscaled_stddev_0.1": _run(ablation=PERIOD),
    "scale_0.1_stddev_0.1": _run(residual_scale=0.1, ablation=PERIOD),
    "unscaled_rate_0.0045": _run(optimizer=OptimizerConfig(learning_rate=0.0045)),
    "unscaled_rate_0.00045": _run(optimizer=OptimizerConfig(learning_rate=0.00045)),
    "unscaled_norm_before_relu": _run(ablation=AblationConfig(pool_norm="before_relu")),
    "unscaled_norm_after_relu": _run(ablation=AblationConfig(pool_norm="after_relu")),
    "unscaled_warm_up": _run(optimizer=OptimizerConfig(warmup_steps=5_000)),
    "unscaled_clipped": _run(optimizer=OptimizerConfig(clip_norm=2.0)),
    "unscaled_published_head": _run("inception_resnet_v2"),
    "v1_unscaled": _run("inception_resnet_v1"),
    "v1_scale_0.1": _run("inception_resnet_v1", residual_scale=0.1),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """List the runs or train one; exit statuses are those of `experiments.run`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print_list()
        return 0
    root = Path("runs") / "residual_scaling_imagenet"
    configs = {}
    for name, config in RUNS.items():
        title = f"{config.network}, {config.steps} updates"
        configs[name] = title, replace(config, workdir=root / name)
    parse = partial(run.parse, configs=configs, prog=PROG, description=__doc__)
    return run.main(arguments, parse, name="experiments.residual_scaling.imagenet")


def print_list() -> None:
    """Print all runs with their computation and its estimated time."""
    network_costs = read_costs()
    print(
        f"{'run':<28}{'network':<28}{'updates':>8}{'images':>9}{'operations':>12}"
        f"{'hours':>8}{'expected':>10}"
    )
    for name, config in RUNS.items():
        cost, images = network_costs[config.network], config.batch_size * config.steps
        print(
            f"{name:<28}{config.network:<28}{config.steps:>8}{images / 1e6:>7.0f} M"
            f"{images / cost.batch_size * cost.flops * cost.chips:>12.1e}"
            f"{cost.hours(images, cost.roofline_seconds):>8.1f}"
            f"{cost.hours(images, cost.expected_seconds):>10.1f}"
        )
    print(
        f"\nHours on TPU {cost.topology}: the roofline's lower bound and the compiler's "
        "estimate;\nnot measured (see python -m experiments.cost). Start a run with\n"
        f"  {PROG} unscaled --seed 0"
    )


if __name__ == "__main__":
    hosts.exit_process(main())
