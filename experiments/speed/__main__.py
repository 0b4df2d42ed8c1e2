# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed [--plan gpu]`: this package against timm and Keras.

Each implementation trains or infers in its own process, on noise that is already on the
device. The implementations are timed alternately, round by round, and only one computes at
a time. Measured are images/s of training and inference, latency with a batch of one, the
time until the first step finishes with and without a compilation cache, and peak memory.
Records (JSON lines) and tables are written to the folder `out`. Ctrl-C ends the benchmark
and reports what has been measured.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.speed.case import Case
from experiments.speed.implementations import IMPLEMENTATIONS, REFERENCE
from experiments.speed.process import Record, WorkerProcess, failure
from experiments.speed.progress import Progress
from experiments.speed.report import report
from experiments.speed.timing import AlternatingTimer, OutOfTimeError

Question = Literal["training", "inference", "latency"]
LIBRARIES = ("jax", "jaxlib", "flax", "torch", "timm", "keras")


@dataclass(frozen=True)
class Plan:
    """Defaults for one kind of machine."""

    batch: int
    dtype: Literal["float32", "bfloat16"]
    minutes: float
    seconds: float  # for each implementation in a round
    doublings: int  # of the batch; larger batches are measured last, while time is left
    build_together: bool
    restart: bool


PLANS = {
    "cpu": Plan(8, "float32", 15, 2, doublings=0, build_together=False, restart=True),
    # All four implementations fit into 80 GB with 64 images each, and with 128.
    "gpu": Plan(64, "bfloat16", 9.5, 1, doublings=3, build_together=True, restart=False),
}


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    # "cpu": float32, batches of 8, start-up times measured separately; at most 15 minutes.
    # "gpu": bfloat16, batches of 64 that are doubled while time and memory last, programs
    # compiled concurrently, equal shares of the device's memory; at most 9.5 minutes.
    plan: Literal["cpu", "gpu"] = "cpu"
    # Folder for records.jsonl, tables.md and the logs of the implementations.
    out: Path = Path("runs/speed")
    # Networks that an implementation lacks are reported and skipped.
    networks: tuple[str, ...] = ("inception_v4", "inception_resnet_v2")
    # Implementations that are not installed are reported and skipped.
    implementations: Annotated[
        tuple[Literal[IMPLEMENTATIONS], ...], tyro.conf.arg(aliases=("--sides",))
    ] = IMPLEMENTATIONS
    # "latency" is inference with a batch of one.
    questions: tuple[Question, ...] = ("training", "inference", "latency")
    # Images per step, before any doubling; default: that of the plan.
    batch_size: int | None = None
    # Height and width of the images in pixels.
    image_size: int = 299
    # Every implementation runs once per round; the order is reversed in every second one.
    rounds: int = 5
    # Time limit of the whole benchmark; default: that of the plan.
    minutes: float | None = None

    def __post_init__(self) -> None:
        sizes = (self.rounds, self.image_size, self.batch_size or 1)
        if min(sizes) < 1 or (self.minutes is not None and self.minutes <= 0):
            raise ValueError(
                "rounds, image_size, batch_size and minutes must be positive, got "
                f"{self.rounds}, {self.image_size}, {self.batch_size} and {self.minutes}."
            )
        if REFERENCE not in self.implementations:
            raise ValueError(
                f"implementations must include {REFERENCE!r}, which the others are "
                "compared with."
            )

    @property
    def time_limit(self) -> float:
        """The time limit in minutes."""
        return PLANS[self.plan].minutes if self.minutes is None else self.minutes


def cases(options: Options) -> Iterator[Case]:
    """Yield all cases with the first batch size, then those with twice as many images."""
    plan = PLANS[options.plan]
    for doubling in range(plan.doublings + 1):
        for question in options.questions:
            if question == "latency" and doubling:
                continue
            task = "training" if question == "training" else "inference"
            size = (options.batch_size or plan.batch) << doubling
            batch = 1 if question == "latency" else size
            for network in options.networks:
                yield Case(network, task, batch, options.image_size, plan.dtype)


def measure(options: Options, save: Callable[[Record], None]) -> None:
    """Measure all cases until the time limit, passing each record to `save`."""
    plan = PLANS[options.plan]
    timer = AlternatingTimer(
        implementations=options.implementations,
        rounds=options.rounds,
        seconds=plan.seconds,
        build_together=plan.build_together,
        restart=plan.restart,
        logs=options.out,
        save=save,
        deadline=time.monotonic() + 60 * options.time_limit,
    )
    save({"kind": "machine", **_machine(options, timer.deadline)})
    for case in cases(options):
        try:
            timer.measure(case)
        except OutOfTimeError:
            reason = f"the time limit of {options.time_limit:g} minutes was reached"
            save({"kind": "skipped", **asdict(case), "reason": reason})


def _machine(options: Options, deadline: float) -> Record:
    """Return the device as JAX sees it, the host and the installed versions."""
    log, cache = options.out / "ours.log", options.out / "none"
    worker = WorkerProcess(REFERENCE, log, cache, 0.9, deadline)
    try:
        device = worker.ask("machine")
    finally:
        worker.close()
    if reason := failure(device):
        raise RuntimeError(f"no device can be used: {reason}")
    return device | {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "processor": _processor(),
        "versions": ", ".join(_versions()),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "options": {k: str(v) for k, v in asdict(options).items()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":")[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for name in LIBRARIES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark. Exit status: 0 done, 1 no device, 2 bad input, 130 interrupted."""
    try:
        options = _parse(arguments)
    except (ValueError, OSError) as error:
        print(f"experiments.speed: {error}", file=sys.stderr)
        return 2
    from inception_jax.storage.files import append_json_line

    records: list[Record] = []
    progress = Progress(len(list(cases(options))), 60 * options.time_limit)

    def save(record: Record) -> None:
        records.append(record)
        append_json_line(options.out / "records.jsonl", record)
        progress.show(record)

    status = 0
    try:
        measure(options, save)
    except KeyboardInterrupt:
        print("\nInterrupted; the measurements so far are kept.", file=sys.stderr)
        status = 130
    except RuntimeError as error:
        print(f"experiments.speed: {error}", file=sys.stderr)
        return 1
    text = report(records)
    (options.out / "tables.md").write_text(text)
    print(text, end="")
    return status


def _parse(arguments: Sequence[str] | None) -> Options:
    """Parse the command line and create the output folder.

    Raises ValueError for an unknown network and for a folder that already has records.
    """
    prog = "python -m experiments.speed"
    options = tyro.cli(Options, prog=prog, description=__doc__, args=arguments)
    # Imported here so that --help answers at once.
    from inception_jax.models.zoo import get_spec

    for network in options.networks:
        get_spec(network)
    if (options.out / "records.jsonl").exists():
        raise ValueError(
            f"{options.out} already has records; remove it or choose another --out."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
