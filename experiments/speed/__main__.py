# SPDX-License-Identifier: Apache-2.0
"""`python -m experiments.speed [--plan gpu]`: this package against others, in turns.

Each side is a process of its own that trains or infers on noise which is on the device
already; sides take turns round by round, and only one computes at a time. Measured are
images/s of training and of inference, the time of a batch of one, the time until the first
step is done anew and from the compilation cache, and peak memory. The records, a line of
JSON each, and the tables go into the folder `out`. Ctrl-C ends it with what there is.
"""

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.speed.case import Case
from experiments.speed.implementations import IMPLEMENTATIONS
from experiments.speed.progress import Progress
from experiments.speed.report import report
from experiments.speed.turns import OutOfTimeError, Side, Turns, fault

Question = Literal["training", "inference", "latency"]
LIBRARIES = ("jax", "jaxlib", "flax", "torch", "timm", "keras")


@dataclass(frozen=True)
class Plan:
    """A setting that suits a kind of machine."""

    batch: int
    dtype: Literal["float32", "bfloat16"]
    minutes: float
    seconds: float  # of a side in a round
    doublings: int  # of the batch, each measured after all else, while time is left
    together: bool  # see `Turns`
    again: bool


PLANS = {
    "cpu": Plan(8, "float32", 15, 2, doublings=0, together=False, again=True),
    # 64 images a side fit beside the others' on 80 GB twice over.
    "gpu": Plan(64, "bfloat16", 9.5, 1, doublings=3, together=True, again=False),
}


@dataclass(frozen=True)
class Options:
    """What the command line can say; what is left out is the plan's."""

    # "cpu": float32, batches of 8, starts measured one after another, within 15 minutes on
    # a quiet machine. "gpu": bfloat16, batches of 64 and doubled while there is time and
    # memory, of which each side has an equal share; sides compile side by side.
    plan: Literal["cpu", "gpu"] = "cpu"
    # A folder for records.jsonl, tables.md and what the sides print.
    out: Path = Path("runs/speed")
    # Names of `inception-jax networks`; what a side does not have is named and left out.
    networks: tuple[str, ...] = ("inception_v4", "inception_resnet_v2")
    # In the same order always; sides that are not installed are named and left out.
    implementations: Annotated[
        tuple[Literal[IMPLEMENTATIONS], ...], tyro.conf.arg(aliases=("--sides",))
    ] = IMPLEMENTATIONS
    # "latency" is inference of a batch of one.
    questions: tuple[Question, ...] = ("training", "inference", "latency")
    # Images of a step, the first time; left out: the plan's.
    batch_size: int | None = None
    # Pixels of a side.
    image_size: int = 299
    # In each of them every side has its turn, in one order and then in the other.
    rounds: int = 5
    # What is not done by then is ended; left out: the plan's, 15 or 9.5.
    minutes: float | None = None

    def __post_init__(self) -> None:
        sizes = (self.rounds, self.image_size, self.batch_size or 1)
        if min(sizes) < 1 or (self.minutes is not None and self.minutes <= 0):
            raise ValueError(
                "rounds, image_size, batch_size and minutes must be positive, got "
                f"{self.rounds}, {self.image_size}, {self.batch_size} and {self.minutes}."
            )
        if IMPLEMENTATIONS[0] not in self.implementations:
            raise ValueError(
                f"implementations must have {IMPLEMENTATIONS[0]}, which is compared."
            )

    @property
    def limit(self) -> float:
        """Minutes."""
        return PLANS[self.plan].minutes if self.minutes is None else self.minutes


def cases(options: Options) -> Iterator[Case]:
    """Everything at the plan's batch first, then at twice as much, and so on."""
    plan = PLANS[options.plan]
    for doubled in range(plan.doublings + 1):
        for question in options.questions:
            if question == "latency" and doubled:
                continue
            task = "training" if question == "training" else "inference"
            size = (options.batch_size or plan.batch) << doubled
            batch = 1 if question == "latency" else size
            for network in options.networks:
                yield Case(network, task, batch, options.image_size, plan.dtype)


def measure(
    options: Options,
    tell: Callable[[dict[str, Any]], None],
    start: Callable[..., Side] = Side,
) -> None:
    """Hand on all records, while there is time."""
    plan = PLANS[options.plan]
    turns = Turns(
        sides=options.implementations,
        rounds=options.rounds,
        seconds=plan.seconds,
        together=plan.together,
        again=plan.again,
        logs=options.out,
        tell=tell,
        deadline=time.monotonic() + 60 * options.limit,
        start=start,
    )
    tell({"kind": "machine", **_machine(options, start)})
    for case in cases(options):
        try:
            turns.measure(case)
        except OutOfTimeError:
            reason = f"the {options.limit:g} minutes were over"
            tell({"kind": "skipped", **asdict(case), "reason": reason})


def _machine(options: Options, start: Callable[..., Side]) -> dict[str, Any]:
    """The device, as ours sees it, and what is installed."""
    limit = time.monotonic() + 60 * options.limit
    side = start("ours", options.out / "ours.log", options.out / "none", 0.9, limit)
    try:
        found = side.ask("machine")
    finally:
        side.close()
    if reason := fault(found):
        raise RuntimeError(f"no device can be used: {reason}")
    return found | {
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
    """Measure what the command line says; exit status 2 for bad input."""
    try:
        options = _parse(arguments)
    except (ValueError, OSError) as error:
        print(f"experiments.speed: {error}", file=sys.stderr)
        return 2
    from inception_jax.storage.jsonl import append_json_line

    records: list[dict[str, Any]] = []
    progress = Progress(len(list(cases(options))), 60 * options.limit)

    def tell(record: dict[str, Any]) -> None:
        records.append(record)
        append_json_line(options.out / "records.jsonl", record)
        progress.tell(record)

    status = 0
    try:
        measure(options, tell)
    except KeyboardInterrupt:
        print("\nInterrupted; what was measured is kept.", file=sys.stderr)
        status = 130
    except RuntimeError as error:
        print(f"experiments.speed: {error}", file=sys.stderr)
        return 1
    text = report(records)
    (options.out / "tables.md").write_text(text)
    print(text, end="")
    return status


def _parse(arguments: Sequence[str] | None) -> Options:
    """The command line, with a folder to write into that has no records.

    Raises ValueError for an unknown network and where there are some, OSError where there
    can be no such folder.
    """
    prog = "python -m experiments.speed"
    options = tyro.cli(Options, prog=prog, description=__doc__, args=arguments)
    # Imported after the command line is read: --help answers at once.
    from inception_jax.models.network import get_spec

    for network in options.networks:
        get_spec(network)
    if (options.out / "records.jsonl").exists():
        raise ValueError(
            f"{options.out} has records already; remove it or choose another --out."
        )
    options.out.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    raise SystemExit(main())
