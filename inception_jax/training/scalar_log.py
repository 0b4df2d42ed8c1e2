# SPDX-License-Identifier: Apache-2.0
"""Curves of a run in TensorBoard and, if requested, in Weights & Biases."""

import re
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from inception_jax.data.optional import require
from inception_jax.storage.run_folder import TENSORBOARD_FOLDER
from inception_jax.training.setup import Setup


class ScalarLog:
    """Writes scalars of a run from `step` on; TensorBoard discards later points."""

    def __init__(self, setup: Setup, step: int) -> None:
        folder = setup.folder / TENSORBOARD_FOLDER
        self.writer = SummaryWriter(str(folder), purge_step=step + 1)
        self.wandb = None
        if setup.config.wandb:
            self.wandb = require("wandb", "wandb").init(
                project=setup.config.wandb,
                dir=setup.folder,
                id=_wandb_id(setup.folder),
                resume="allow",
            )

    def write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        """Add a point at `step` to each curve of the group."""
        for name, value in values.items():
            self.writer.add_scalar(f"{group}/{name}", value, step)
        if self.wandb:
            self.wandb.log({f"{group}/{n}": v for n, v in values.items()}, step=step)

    def close(self) -> None:
        """Write buffered points and close the files."""
        self.writer.close()
        if self.wandb:
            self.wandb.finish()


def _wandb_id(folder: Path) -> str:
    """Return the last 64 characters of the path, with "-" for those an id cannot have."""
    path = folder.absolute().as_posix().strip("/")
    return re.sub(r"[^A-Za-z0-9_.-]", "-", path)[-64:]
