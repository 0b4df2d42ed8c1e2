# SPDX-License-Identifier: Apache-2.0
"""Keras's networks on the JAX backend; `train_on_batch` compiles to one program.

Its batch norm has no gamma; neither has ours in a default run.
"""

import os
from typing import Any

from experiments.speed.case import CLASSES, OPTIMIZER, BuiltCase, Case, RunSteps
from experiments.speed.implementations import KERAS, MISSING

os.environ["KERAS_BACKEND"] = "jax"
try:
    import keras
except ModuleNotFoundError as error:
    raise ImportError(MISSING.format(error.name)) from error
import jax

from experiments.speed.implementations.ours import device_peak


def build(case: Case) -> BuiltCase:
    """Prepare the case. Raises ValueError if Keras does not have the network."""
    model = model_for(case)
    prepare = _training if case.task == "training" else _inference
    return BuiltCase(
        run=prepare(case, model),
        parameters=sum(x.value.size for x in model.trainable_variables),
        peak=device_peak,
    )


def model_for(case: Case) -> "keras.Model":
    """Return the compiled model. Raises ValueError if Keras does not have the network."""
    if case.network not in KERAS:
        raise ValueError(f"Keras has {', '.join(KERAS)}, not {case.network!r}.")
    if case.dtype == "bfloat16":
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    model = getattr(keras.applications, KERAS[case.network])(
        weights=None,
        classes=CLASSES,
        classifier_activation=None,
        input_shape=(case.image_size, case.image_size, 3),
    )
    optimizer = keras.optimizers.RMSprop(
        learning_rate=OPTIMIZER.learning_rate,
        rho=OPTIMIZER.rms_decay,
        momentum=OPTIMIZER.momentum,
        epsilon=OPTIMIZER.epsilon,
        weight_decay=OPTIMIZER.weight_decay,
        use_ema=True,
        ema_momentum=OPTIMIZER.ema_decay,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=True)
    return model


def _training(case: Case, model: "keras.Model") -> RunSteps:
    images, labels = jax.device_put((case.images(), case.labels()))

    def run(steps: int) -> Any:
        for _ in range(steps):
            loss = model.train_on_batch(images, labels)
        jax.block_until_ready([x.value for x in model.trainable_variables])
        return loss

    return run


def _inference(case: Case, model: "keras.Model") -> RunSteps:
    trained = [x.value for x in model.trainable_variables]
    others = [x.value for x in model.non_trainable_variables]
    images = jax.device_put(case.images())
    apply = jax.jit(lambda a, b, x: model.stateless_call(a, b, x, training=False)[0])

    def run(steps: int) -> Any:
        for _ in range(steps):
            logits = apply(trained, others, images)
        return jax.block_until_ready(logits)

    return run
