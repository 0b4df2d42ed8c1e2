# SPDX-License-Identifier: Apache-2.0
"""Loss functions, with one value per example."""

import jax
import optax
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "n k"], labels: Int[Array, " n"], label_smoothing: float = 0.0
) -> Float[Array, " n"]:
    """Return the softmax cross-entropy in nats.

    Label smoothing distributes that fraction of the target evenly over all classes.
    """
    if not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    targets = optax.losses.smooth_labels(one_hot, label_smoothing)
    return optax.softmax_cross_entropy(logits, targets)
