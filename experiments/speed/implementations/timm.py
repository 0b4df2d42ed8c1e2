# SPDX-License-Identifier: Apache-2.0
"""timm's networks in PyTorch: channels_last; on CUDA bfloat16 autocast and torch.compile.

On a CPU they run in float32 and eagerly, where oneDNN computes the convolutions.
Batch norm has a gamma there, unlike in our runs by default, so they have more parameters.
"""

import os
from typing import Any

from experiments.speed.case import CLASSES, OPTIMIZER, Built, Case, Run
from experiments.speed.implementations import MISSING

try:
    import timm
    import torch
    from timm.utils import ModelEmaV3
except ModuleNotFoundError as error:
    raise ImportError(MISSING.format(error.name)) from error

# timm's other defaults are those of its training, not of the network.
NETWORKS = ("inception_v3", "inception_v4", "inception_resnet_v2")


def build(case: Case) -> Built:
    """Ready to run. Raises ValueError where timm has no such network."""
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
    dropout = 0.2  # as slim's and ours
    model = timm.create_model(case.network, num_classes=CLASSES, drop_rate=dropout)
    device = "cuda" if on_cuda else "cpu"
    model = model.to(device, memory_format=torch.channels_last)
    images = torch.from_numpy(case.images().transpose(0, 3, 1, 2)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    prepare = _training if case.task == "training" else _inference
    return Built(
        run=prepare(case, model, images),
        parameters=sum(x.numel() for x in model.parameters()),
        peak=torch.cuda.max_memory_allocated if on_cuda else lambda: None,
    )


def _training(case: Case, model: Any, images: Any) -> Run:
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
    forward = _compiled(model, images)

    def run(steps: int) -> Any:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with _autocast(case, images):
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
            average.update(model)
        _wait(images)
        return loss.item()

    return run


def _inference(case: Case, model: Any, images: Any) -> Run:
    model.eval()
    forward = _compiled(model, images)

    def run(steps: int) -> Any:
        with torch.inference_mode(), _autocast(case, images):
            for _ in range(steps):
                logits = forward(images)
        _wait(images)
        return logits

    return run


def _compiled(model: Any, images: Any) -> Any:
    return torch.compile(model, dynamic=False) if images.is_cuda else model


def _autocast(case: Case, images: Any) -> Any:
    half = case.dtype == "bfloat16"
    return torch.autocast(images.device.type, torch.bfloat16, enabled=half)


def _wait(images: Any) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()
