# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: the newest good state is found, or nothing is."""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from inception_jax.storage.digests import CheckpointError, Record, by_name, some
from inception_jax.storage.orbax_files import TEMPORARY, StepFiles, check_path, in_short

T = TypeVar("T")


class Checkpoints:
    """The newest states of a run in a folder, written in the background.

    A step is a folder of its own, which gets its name when it is complete; what an
    interrupted process left is removed by the next one. Of several processes of a run
    process 0 writes.

    With `keep`, the number of newest steps that stay, to write; without, to look at:
    nothing is created, moved or removed. Raises CheckpointError where the folder cannot
    be made, ValueError as `check_path`.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        self._folder, self._keep = folder.absolute(), keep
        self._quarantine = self._folder.parent / "quarantine"
        self._files = StepFiles()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[int, Future] | None = None
        if keep is None:
            return
        check_path(self._folder)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for left in self._temporary():
                shutil.rmtree(left)
        except OSError as error:
            raise CheckpointError(
                f"{self._folder} cannot hold checkpoints: {in_short(error)}."
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.wait()
        except CheckpointError as error:
            if kind is None:
                raise
            print(error, file=sys.stderr)  # what ended the run goes first
        finally:
            self._writer.shutdown()

    def steps(self) -> list[int]:
        """All steps that are there, rising; nobody has looked whether they are good.

        Raises CheckpointError where the folder cannot be read.
        """
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(
                f"{self._folder} cannot be read: {in_short(error)}."
            ) from error
        return sorted(int(n) for n in names if n.isdecimal() and n == str(int(n)))

    def latest_step(self) -> int | None:
        """The newest of `steps`; None if there is none."""
        return max(self.steps(), default=None)

    def save(self, step: int, state: Any) -> None:
        """Copy `state` and return; it is written in the background.

        A step that is there already stays as it is. Raises CheckpointError where the save
        before this one failed, or `steps` does.
        """
        self.wait()
        if step in self.steps():
            return
        # NumPy may look into an array of a CPU device, which the next update reuses.
        state = jax.tree.map(lambda x: np.array(x, copy=True), jax.device_get(state))
        self._writing = step, self._writer.submit(self._write, step, state)

    def check(self) -> None:
        """Raise CheckpointError if a save has failed; does not wait for one."""
        if self._writing is not None and self._writing[1].done():
            self.wait()

    def wait(self) -> None:
        """Until everything is written; raises CheckpointError where that failed."""
        if self._writing is None:
            return
        step, writing = self._writing
        error = writing.exception()
        self._writing = None
        if error is not None:
            for left in self._temporary():
                shutil.rmtree(left, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {step} cannot be written to {self._folder}: "
                f"{in_short(error)}; earlier ones are as they were."
            ) from error

    def _write(self, step: int, state: Any) -> None:
        self._files.write(self._path(step), step, state)
        for old in self.steps()[: -self._keep]:
            # Renamed first: half of a step never stands under a step's name.
            path = self._path(old)
            path = path.rename(path.with_name(f"{old}{TEMPORARY}-old"))
            shutil.rmtree(path, ignore_errors=True)

    def record(self, step: int) -> Record:
        """Names, shapes and digests of a step's leaves; the arrays are not looked at.

        Raises CheckpointError where they cannot be read.
        """
        record = self._files.record(self._path(step))
        if record.step != step:
            raise CheckpointError(
                f"{self._path(step)} is damaged: it was saved as step {record.step}."
            )
        return record

    def read(self, step: int) -> dict[str, np.ndarray]:
        """The leaves of a step by name, as they were saved; raises CheckpointError."""
        return self._files.arrays(self._path(step), self.record(step))

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, NumPy arrays in the structure of `like`.

        Raises CheckpointError, with the leaves, where it is not what was saved; ValueError
        where it is, but has other leaves than `like`.
        """
        if differences := self.record(step).differences(like):
            raise ValueError(
                f"{self._path(step)} holds a state of another structure: "
                f"{some(differences)}. Use the code and the options it was made with, or "
                "another folder."
            )
        arrays = self.read(step)
        return jax.tree.unflatten(
            jax.tree.structure(like), [arrays[name] for name in by_name(like)]
        )

    def restore_newest(self, like: Any) -> tuple[int, Any] | None:
        """The newest good step and its state, as `restore` gives it; None for a new run.

        Newer ones that are damaged are named on standard error and, with `keep`, moved to
        the folder `quarantine` beside this one, each with its reason. Raises
        CheckpointError where there were checkpoints and none is good: nothing is moved
        then, and no run begins anew over what is left of them.
        """
        return self._newest(lambda step: self.restore(step, like))

    def read_newest(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """The newest good step and its leaves, as `read` gives them; else as above."""
        return self._newest(self.read)

    def _newest(self, read: Callable[[int], T]) -> tuple[int, T] | None:
        bad: dict[int, CheckpointError] = {}
        for step in reversed(self.steps()):
            try:
                found = read(step)
            except CheckpointError as error:
                print(error, file=sys.stderr)
                bad[step] = error
                continue
            if bad:
                if self._keep is not None:
                    self._set_aside(bad)
                print(f"Step {step} is the newest good one.", file=sys.stderr)
            return step, found
        if bad:
            raise CheckpointError(
                f"no checkpoint in {self._folder} is good; steps "
                f"{', '.join(map(str, bad))} are damaged. To begin anew, remove it."
            )
        if self._keep is not None and self._quarantine.is_dir():
            raise CheckpointError(
                f"there is no checkpoint in {self._folder}, but there are damaged ones in "
                f"{self._quarantine}. To begin anew, remove that."
            )
        return None

    def _set_aside(self, bad: dict[int, CheckpointError]) -> None:
        for step, error in bad.items():
            try:
                self._quarantine.mkdir(exist_ok=True)
                taken = {path.name for path in self._quarantine.iterdir()}
                name, again = str(step), 1
                while name in taken:
                    name, again = f"{step}-{again}", again + 1
                self._path(step).rename(self._quarantine / name)
                (self._quarantine / f"{name}.txt").write_text(f"{error}\n")
            except OSError as cause:
                raise CheckpointError(
                    f"{self._path(step)} is damaged and cannot be moved to "
                    f"{self._quarantine}: {in_short(cause)}."
                ) from cause
            print(f"It was moved to {self._quarantine / name}.", file=sys.stderr)

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def _temporary(self) -> list[Path]:
        return [*self._folder.glob(f"*{TEMPORARY}*")]
