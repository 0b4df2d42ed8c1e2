# SPDX-License-Identifier: Apache-2.0
"""Made-up records of the study: plausible, random and with every problem."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace

import numpy as np

from experiments.residual_scaling.outcomes import history
from experiments.residual_scaling.records import Record
from experiments.residual_scaling.runs import Run

GROUPS = ("stem", "branches", "linear", "other", "classifier")
CLASSES = 10
KINDS = ("impaired", "dies", "diverges")  # of runs beyond the limit
SHARES = (0.3, 0.55, 0.15)


def plan() -> Iterator[Run]:
    """A grid with a seed missing, a second grid, interventions, plain and concat blocks."""
    base = Run(depth=4, steps=40)
    for width in (64, 256, 1024):
        for rate in (0.045, 0.2):
            for scale in (1.0, 0.3, 0.1, None):
                for seed in range(5):
                    if (width, scale, seed) != (1024, 0.3, 4):
                        yield replace(
                            base, width=width, learning_rate=rate, scale=scale, seed=seed
                        )
    for width in (64, 256):
        for scale in (1.0, 0.1):
            yield replace(base, data="prototypes", width=width, scale=scale)
    one = replace(base, learning_rate=0.2)
    for change in (
        {"clip_norm": 1.0},
        {"warmup_steps": 20, "warmup_rate": 1e-5},
        {"learned_scale": "scalar", "learned_scale_init": 0.0},
        {"pool_norm": "before_relu"},
        {"optimizer": "momentum"},
        {"classifier_rate": 0.05},
    ):
        yield from (replace(one, **change, seed=seed) for seed in range(5))
    for block in ("plain", "concat"):
        yield from (replace(base, block=block, seed=seed) for seed in range(5))
    for scale in (1.0, 0.1):
        yield from (replace(base, scale=scale, steps=200, seed=seed) for seed in range(2))


def made_up(runs: Iterable[Run] | None = None, seed: int = 0) -> dict[Run, Record]:
    """Records of `runs`; those with a high control number die, diverge or stop early."""
    rng = np.random.default_rng(seed)
    return {run: record(run, rng) for run in (plan() if runs is None else runs)}


def small(**changes: object) -> dict[Run, Record]:
    """Two seeds of an unscaled and a scaled setting; the smallest comparison there is."""
    base = Run(depth=2, steps=20, width=16, **changes)
    return made_up([replace(base, scale=s, seed=i) for s in (1.0, 0.1) for i in (0, 1)])


def record(run: Run, rng: np.random.Generator) -> Record:
    scale = 0.17 if run.scale is None else run.scale
    if run.learned_scale != "none":
        scale *= run.learned_scale_init
    norm2 = run.width * (0.2 + 2 * scale**2) * rng.uniform(0.8, 1.2)
    curvature = norm2 / CLASSES * rng.uniform(0.9, 1.1)
    control = run.learning_rate * run.classifier_rate * curvature / (2 * (1 + run.momentum))
    kind = "calm" if control < 0.6 else rng.choice(KINDS, p=SHARES)
    steps = run.steps if kind != "diverges" else int(rng.integers(10, run.steps))
    loss = 2.3 * np.exp(-np.arange(steps) / rng.uniform(8, 15)) + 0.1
    loss *= rng.uniform(0.8, 1.2, steps)
    if kind != "calm":
        loss += 2.3 * control**0.8 * np.exp(-(((np.arange(steps) - 6) / 3) ** 2))
    if kind == "dies":
        loss[12:] = 2.303
    loss[0] = 2.3
    losses = [float(f"{x:.7g}") for x in loss] + ([None] if kind == "diverges" else [])
    probe_steps = [*range(0, len(losses), run.probe_every)]
    if kind != "diverges":
        probe_steps = sorted({*probe_steps, run.steps})
    probes = signals(run, scale, kind, norm2, curvature, probe_steps, loss, rng)
    numbers = [math.nan if x is None else x for x in losses]
    what = history(numbers, probes["pool_dead"], probe_steps, CLASSES)
    hits = 297 * (0.1 if kind in ("dies", "diverges") else rng.uniform(0.85, 0.98))
    return {
        "run": asdict(run),
        "settings": {"bn_sync": "global", "optimizer.decay_rate": 0.94, "num_images": 128},
        "loss_every": 1,
        "loss": losses,
        "grad_norm": [None if x is None else x / 2 for x in losses],
        "probes": probes,
        "test": {
            "loss_sum": None if kind == "diverges" else 297 * float(loss[-1]),
            "top1_sum": float(round(hits)),
            "count": 297.0,
        },
        "outcome": str(what.outcome),
        "death_step": what.death_step,
        "recovered": what.recovered,
        "spikes": int(max(loss) > 4.6),
        "seconds": round(float(rng.uniform(1, 4)), 2),
        "devices": "1 x cpu",
        "versions": {"inception_jax": "0.4", "jax": "0.10.2", "flax": "0.12.8"},
    }


def signals(run, scale, kind, norm2, curvature, steps, loss, rng) -> dict[str, list]:
    """The signals at each probe; None where a run has none or has diverged."""
    depth = np.arange(1, run.depth + 1)
    severity = {"calm": 0.0, "impaired": 0.3}.get(kind, 1.0)
    rows: dict[str, list] = {}
    learned = 0.05 if kind in ("dies", "diverges") else 0.9
    pace = rng.uniform(8, 15) * (2 if run.block == "plain" else 1)
    for step in steps:
        part = severity * min(1.0, step / 20)
        if kind == "impaired" and step > 25:
            part /= 4
        dead = np.clip(part * (depth / run.depth) ** 0.5 * 1.02, 0, 1)
        lost = kind == "diverges" and step == steps[-1] and len(steps) > 1
        ratio = scale * rng.uniform(0.5, 1.0, run.depth)
        per_block = {
            "dead": dead,
            "tiny": np.clip(dead * 1.1, 0, 1),
            "dead_images": dead / 2,
            "stream_rms": np.sqrt(norm2 / run.width) * (1 + scale * depth) * (1 + part),
            "stream_mean": 0.4 + scale * depth / 10 - part,
            "residual_ratio": None if run.block in ("plain", "concat") else ratio,
            "residual_mean": -part * ratio,
        }
        now = {
            "step": step,
            "accuracy": learned * float(1 - np.exp(-step / pace)) + 0.05,
            "loss": None if lost else float(loss[min(step, len(loss) - 1)]),
            "pool_dead": float(dead[-1]),
            "pool_tiny": float(min(1, dead[-1] * 1.1)),
            "pool_dead_images": float(dead[-1] / 2),
            "feature_norm2": norm2 * (1 + part),
            "logit_rms": 1.0,
            "curvature": None if lost else curvature * (1 + step / 50),
            "function_change": None if step == 0 else 0.1,
            "ema_gap": None if step == 0 else 0.2,
        }
        for group in GROUPS:
            now[f"grad_norm/{group}"] = None if step == 0 else 0.5
            now[f"update_ratio/{group}"] = None if step == 0 else 0.01
        for name, values in per_block.items():
            now[name] = [None] * run.depth if values is None else [*map(float, values)]
        for name, value in now.items():
            rows.setdefault(name, []).append(value)
    return rows
