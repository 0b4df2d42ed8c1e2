# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run, `WORKDIR/checkpoints/STEP`.

A checkpoint is the complete training state after a step, a `training.state.TrainState`:
step number, parameters, moving averages of batch normalisation, exponential moving averages
of both, optimizer state and, with stale gradients, the replicas' copies. It is a folder
that Orbax writes (`orbax_files`), with digests of all arrays (`digests`), and does not
depend on the number of devices. `Checkpoints` writes checkpoints in the background and
reads the newest one that is not damaged.
"""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from inception_jax.storage.digests import Record, flatten_with_paths
from inception_jax.storage.files import CheckpointError, as_checkpoint_error, one_line_error
from inception_jax.storage.orbax_files import TEMPORARY, StepFiles, check_checkpoint_path
from inception_jax.storage.run_folder import QUARANTINE_FOLDER
from inception_jax.text import first_few

T = TypeVar("T")


class Checkpoints:
    """The checkpoints in a folder.

    `keep` is the number of newest checkpoints to keep. If it is given, the folder is opened
    for writing; in a run of several processes, only process 0 may do so. A checkpoint is
    renamed to its final name only when complete; incomplete ones of an interrupted process
    are removed. Without `keep` the folder is opened for reading, and nothing is created,
    moved or removed.

    Raises CheckpointError if the folder cannot be created, and ValueError as
    `check_checkpoint_path` does.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self._folder, self._keep = folder.absolute(), keep
        self._quarantine = self._folder.parent / QUARANTINE_FOLDER
        self._files = StepFiles()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, Future] | None = None  # step and its result
        if keep is None:
            return
        check_checkpoint_path(self._folder)
        with as_checkpoint_error(f"{self._folder} cannot hold checkpoints", OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._temporary_folders():
                shutil.rmtree(path)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.wait()
        except CheckpointError as error:
            if kind is None:
                raise
            print(error, file=sys.stderr)  # the error that ended the run propagates
        finally:
            self._writer.shutdown()

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints in ascending order, without verifying them.

        Raises CheckpointError if the folder cannot be read.
        """
        with as_checkpoint_error(f"{self._folder} cannot be read", OSError):
            try:
                names = [path.name for path in self._folder.iterdir()]
            except FileNotFoundError:
                return []
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def save(self, step: int, state: Any) -> None:
        """Copy `state` and return; the copy is written in the background.

        An existing checkpoint of the step is left unchanged. Raises CheckpointError if the
        previous save failed, or as `steps` does.
        """
        self.wait()
        if step in self.steps():
            return
        # A NumPy array may share memory with an array of a CPU device, which the next
        # step overwrites.
        state = jax.tree.map(lambda x: np.array(x, copy=True), jax.device_get(state))
        self._writing = step, self._writer.submit(self._write, step, state)

    def check(self) -> None:
        """Raise CheckpointError if a save has failed, without waiting for one."""
        if self._writing is not None and self._writing[1].done():
            self.wait()

    def wait(self) -> None:
        """Wait until everything is written; raises CheckpointError if a save failed."""
        if self._writing is None:
            return
        step, result = self._writing
        error = result.exception()
        self._writing = None
        if error is not None:
            for path in self._temporary_folders():
                shutil.rmtree(path, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written to {self._folder}: "
                f"{one_line_error(error)}; earlier ones are unchanged."
            ) from error

    def _write(self, step: int, state: Any) -> None:
        self._files.write(self._path(step), state)
        assert self._keep is not None, "opened for reading"
        for old in self.steps()[: -self._keep]:
            # Renamed first: a partly removed folder must not have the name of a step.
            path = self._path(old)
            path = path.rename(path.with_name(f"{old}{TEMPORARY}-old"))
            shutil.rmtree(path, ignore_errors=True)

    def record(self, step: int) -> Record:
        """Return the record of a checkpoint: paths, shapes and digests of its arrays.

        The arrays are not read. Raises CheckpointError if the record is damaged.
        """
        return self._files.record(self._path(step))

    def read(self, step: int) -> dict[str, np.ndarray]:
        """Return the verified leaves of a checkpoint by path; raises CheckpointError."""
        return self._files.arrays(self._path(step))

    def restore(self, step: int, like: Any) -> Any:
        """Return the state of a step as NumPy arrays in the structure of `like`.

        Raises CheckpointError if the checkpoint is damaged, and ValueError if its leaves
        differ from those of `like`.
        """
        if differences := self.record(step).differences(like):
            raise ValueError(
                f"{self._path(step)} holds a state of a different structure: "
                f"{first_few(differences)}. Use the code and options of that run, or "
                "another folder."
            )
        arrays = self.read(step)
        return jax.tree.unflatten(
            jax.tree.structure(like), [arrays[path] for path in flatten_with_paths(like)]
        )

    def restore_newest(self, like: Any) -> tuple[int, Any] | None:
        """Return the newest undamaged step and its state; None if there is no checkpoint.

        Newer, damaged checkpoints are reported on stderr and, with `keep`, moved to the
        folder `quarantine` beside this one, each with a file that gives the reason.

        Raises CheckpointError if all checkpoints are damaged or, with `keep`, if there is
        none but `quarantine` exists, so that no new run replaces a damaged one. Nothing is
        moved then.
        """
        return self._newest(lambda step: self.restore(step, like))

    def read_newest(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """Return the newest undamaged step and its leaves by path; see `restore_newest`."""
        return self._newest(self.read)

    def _newest(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        damaged: dict[int, CheckpointError] = {}
        for step in reversed(self.steps()):
            try:
                state = read(step)
            except CheckpointError as error:
                print(error, file=sys.stderr)
                damaged[step] = error
                continue
            if damaged:
                if self._keep is not None:
                    self._move_to_quarantine(damaged)
                print(
                    f"The checkpoint of step {step} is the newest intact one.",
                    file=sys.stderr,
                )
            return step, state
        if damaged:
            raise CheckpointError(
                f"all checkpoints in {self._folder} are damaged (steps "
                f"{', '.join(map(str, damaged))}). To start again, remove the folder."
            )
        if self._keep is not None and self._quarantine.is_dir():
            raise CheckpointError(
                f"{self._folder} holds no checkpoint, but {self._quarantine} holds damaged "
                "ones. To start again, remove that folder."
            )
        return None

    def _move_to_quarantine(self, damaged: dict[int, CheckpointError]) -> None:
        for step, error in damaged.items():
            problem = "is damaged and cannot be moved to"
            with as_checkpoint_error(
                f"{self._path(step)} {problem} {self._quarantine}", OSError
            ):
                self._quarantine.mkdir(exist_ok=True)
                taken = {path.name for path in self._quarantine.iterdir()}
                name, number = str(step), 1
                while name in taken:
                    name, number = f"{step}-{number}", number + 1
                self._path(step).rename(self._quarantine / name)
                (self._quarantine / f"{name}.txt").write_text(f"{error}\n")
            print(
                f"The checkpoint was moved to {self._quarantine / name}.", file=sys.stderr
            )

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def _temporary_folders(self) -> list[Path]:
        return [*self._folder.glob(f"*{TEMPORARY}*")]
