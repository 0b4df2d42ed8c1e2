# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a run: the only file that knows Orbax."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


class Checkpoints:
    """The newest states of a run in a folder, written in the background.

    A step is a folder of its own, which gets its name when it is complete; what an
    interrupted write left is removed by the next process.
    """

    def __init__(self, folder: Path, keep: int | None = None) -> None:
        # Without `keep`, to look at: nothing is created or removed.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=keep is not None,
            create=keep is not None,
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()  # waits for what is being written

    def latest_step(self) -> int | None:
        """The newest complete step; None if there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """All complete steps, rising."""
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any) -> None:
        """Copy `state` and return; a failed earlier write raises here or at the end."""
        if step != self.latest_step():
            self._manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(state))
            )

    def wait(self) -> None:
        """Until everything is written; raises what went wrong."""
        self._manager.wait_until_finished()

    def restore(self, step: int, like: Any) -> Any:
        """The state of `step`; `like` has its structure, shapes, dtypes and shardings.

        Raises ValueError where what is there cannot be read as that.
        """
        args = ocp.args.Composite(state=ocp.args.StandardRestore(like))
        try:
            restored = self._manager.restore(step, args=args)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ValueError(
                f"{self._manager.directory / str(step)} cannot be read as a state of this "
                f"run; remove it to use an earlier one. {error}"
            ) from error
        return restored["state"]
