# SPDX-License-Identifier: Apache-2.0
"""The probes of some arms that train side by side: what is seen of them on fixed images."""

from typing import Any

import jax
import numpy as np

from experiments.residual_scaling.programs import Programs, Values
from inception_jax.training.diagnostics import function_change
from inception_jax.training.metrics import rounded


class Looks:
    """Looks at the states of some arms, again and again, on the images of `probe`."""

    def __init__(self, programs: Programs, probe: dict, values: Values) -> None:
        self.programs, self.probe, self.values = programs, probe, values
        self.steps: list[int] = []
        self.seen: list[dict[str, np.ndarray]] = []

    def __call__(self, step: int, state: Any, before: Any, metrics: Any) -> None:
        """Look at `state`; `before` are the logits before its last update."""
        found = jax.device_get(self._look(state))
        logits = found.pop("logits")
        change = np.full(len(logits), np.nan)
        if before is not None:
            pairs = zip(jax.device_get(before), logits, strict=True)
            change = np.array([float(function_change(*pair)) for pair in pairs])
        norms = {k: v for k, v in jax.device_get(metrics or {}).items() if "/" in k}
        self.last = found | {"function_change": change} | norms
        self.steps.append(step)
        self.seen.append(self.last)

    def logits(self, state: Any) -> Any:
        """Logits of the images, `[arms, n, k]`, left on the devices."""
        return self._look(state)["logits"]

    def _look(self, state: Any) -> Any:
        return self.programs.look(state, self.probe, self.values.numbers)

    def of(self, arm: int) -> dict[str, list]:
        """One list a signal, one entry a probe."""
        missing = np.full(len(self.seen[0]["loss"]), np.nan)
        return {"step": self.steps} | {
            name: [rounded(look.get(name, missing)[arm]) for look in self.seen]
            for name in self.last
        }
