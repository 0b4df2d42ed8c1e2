# SPDX-License-Identifier: Apache-2.0
"""timm's networks in PyTorch, in the channels_last layout.

On CUDA they run under bfloat16 autocast and `torch.compile`; on a CPU they run eagerly in
float32, with the convolutions of oneDNN. timm's batch norm has a gamma and ours in a
default run has none, so timm's networks have more parameters.
"""

import os
from typing import Any

from experiments.speed.case import CLASSES, OPTIMIZER, BuiltCase, Case, RunSteps
from experiments.speed.implementations import MISSING

try:
    import timm
    import torch
    from timm.utils import ModelEmaV3
except ModuleNotFoundError as error:
    raise ImportError(MISSING.format(error.name)) from error

NETWORKS = ("inception_v3", "inception_v4", "inception_resnet_v2")


def build(case: Case) -> BuiltCase:
    """Prepare the case. Raises ValueError if timm does not have the network."""
    if case.network not in NETWORKS:
        raise ValueError(f"timm has {', '.join(NETWORKS)}, not {case.network!r}.")
    on_cuda = torch.cuda.is_available()
    if on_cuda:
        share = float(os.environ.get("XLA_CLIENT_MEM_FRACTION", "1"))
        torch.cuda.set_per_process_memory_fraction(share)
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    else:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    dropout = 0.2  # as in slim and in our runs
    model = timm.create_model(case.network, num_classes=CLASSES, drop_rate=dropout)
    device = "cuda" if on_cuda else "cpu"
    model = model.to(device, memory_format=torch.channels_last)
    images = torch.from_numpy(case.images().transpose(0, 3, 1, 2)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    prepare = _training if case.task == "training" else _inference
    return BuiltCase(
        run=prepare(case, model, images),
        parameters=sum(x.numel() for x in model.parameters()),
        peak=torch.cuda.max_memory_allocated if on_cuda else lambda: None,
    )


def _training(case: Case, model: Any, images: Any) -> RunSteps:
    labels = torch.from_numpy(case.labels()).long().to(images.device)
    model.train()
    optimizer = torch.optim.RMSprop(
        model.parameters(),
        lr=OPTIMIZER.learning_rate,
        alpha=OPTIMIZER.rms_decay,
        eps=OPTIMIZER.epsilon,
        momentum=OPTIMIZER.momentum,
        weight_decay=OPTIMIZER.weight_decay,
        foreach=True,
    )
    average = ModelEmaV3(model, decay=OPTIMIZER.ema_decay)
    forward = _maybe_compiled(model, images)

    def run(steps: int) -> Any:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with _autocast(case, images):
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            average.update(model)
        _synchronize(images)
        return loss.item()

    return run


def _inference(case: Case, model: Any, images: Any) -> RunSteps:
    model.eval()
    forward = _maybe_compiled(model, images)

    def run(steps: int) -> Any:
        with torch.inference_mode(), _autocast(case, images):
            for _ in range(steps):
                logits = forward(images)
        _synchronize(images)
        return logits

    return run


def _maybe_compiled(model: Any, images: Any) -> Any:
    return torch.compile(model, dynamic=False) if images.is_cuda else model


def _autocast(case: Case, images: Any) -> Any:
    enabled = case.dtype == "bfloat16"
    return torch.autocast(images.device.type, torch.bfloat16, enabled=enabled)


def _synchronize(images: Any) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()
