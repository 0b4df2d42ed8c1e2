# SPDX-License-Identifier: Apache-2.0
"""The probes of runs that train side by side."""

from typing import Any

import jax
import numpy as np

from experiments.residual_scaling.run.programs import Programs, Values
from inception_jax.training.diagnostics import BLOCK_SIGNALS, function_change
from inception_jax.training.metrics import rounded

# The other signals of blocks would make most of the size of a record.
LEFT_OUT = set(BLOCK_SIGNALS) - {"dead"}


class ProbeLog:
    """Probes the states of several runs on the images of `batch` and keeps the signals."""

    def __init__(self, programs: Programs, batch: dict, values: Values) -> None:
        self.programs, self.batch, self.values = programs, batch, values
        self.steps: list[int] = []
        self.entries: list[dict[str, np.ndarray]] = []
        self.last_logits: Any = None

    def record(
        self, step: int, state: Any, logits_before: Any = None, metrics: Any = None
    ) -> None:
        """Probe `state` after update `step`.

        `logits_before` are the logits before that update, `metrics` those of the update.
        """
        signals = jax.device_get(self._probe(state))
        logits = self.last_logits = signals.pop("logits")
        change = np.full(len(logits), np.nan)
        if logits_before is not None:
            pairs = zip(jax.device_get(logits_before), logits, strict=True)
            change = np.array([float(function_change(*pair)) for pair in pairs])
        norms = {k: v for k, v in jax.device_get(metrics or {}).items() if "/" in k}
        self.steps.append(step)
        self.entries.append(signals | {"function_change": change} | norms)

    def logits(self, step: int, state: Any) -> Any:
        """Return the logits of the probe images after update `step`, `[runs, n, k]`."""
        if self.steps[-1:] == [step]:
            return self.last_logits
        return self._probe(state)["logits"]

    def _probe(self, state: Any) -> Any:
        return self.programs.probe(state, self.batch, self.values.numbers)

    def of_run(self, index: int) -> dict[str, list]:
        """Return the signals of one run: for each name a list with one entry per probe."""
        missing = np.full(len(self.entries[0]["loss"]), np.nan)
        return {"step": self.steps} | {
            name: [rounded(entry.get(name, missing)[index]) for entry in self.entries]
            for name in self.entries[-1]
            if name not in LEFT_OUT
        }
