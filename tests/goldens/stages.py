# SPDX-License-Identifier: Apache-2.0
"""The stages and batch norms of each source that `regenerate.py` records."""

# Stages by the names of the files; "repeat.{}*10" stands for repeat.0 to repeat.9.
RESNET_V2_STAGES = (
    "conv2d_1a conv2d_2a conv2d_2b maxpool_3a conv2d_3b conv2d_4a maxpool_5a mixed_5b "
    "repeat.{}*10 mixed_6a repeat_1.{}*20 mixed_7a repeat_2.{}*9 block8 conv2d_7b "
    "global_pool"
)
V3_STAGES = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_3a_3x3 Conv2d_3b_1x1 "
    "Conv2d_4a_3x3 MaxPool_5a_3x3 Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c "
    "Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c global_pool"
)
STAGES = {
    "timm_inception_v3": V3_STAGES,
    "timm_inception_v4": "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 Mixed_3a Mixed_4a "
    "Mixed_5a Mixed_5b Mixed_5c Mixed_5d Mixed_5e Mixed_6a Mixed_6b Mixed_6c Mixed_6d "
    "Mixed_6e Mixed_6f Mixed_6g Mixed_6h Mixed_7a Mixed_7b Mixed_7c Mixed_7d "
    "global_pool",
    "timm_inception_resnet_v2": RESNET_V2_STAGES,
    "facenet_pytorch_inception_resnet_v1": "conv2d_1a conv2d_2a conv2d_2b maxpool_3a "
    "conv2d_3b conv2d_4a conv2d_4b repeat_1.{}*5 mixed_6a repeat_2.{}*10 mixed_7a "
    "repeat_3.{}*5 block8 avgpool_1a last_linear last_bn",
    "keras_inception_v3": V3_STAGES,
    "keras_inception_resnet_v2": RESNET_V2_STAGES,
}
# The modules or layers that end these stages, where the source names them otherwise.
ENDS = {
    "timm_inception_v3": V3_STAGES.replace("MaxPool_3a_3x3", "Pool1").replace(
        "MaxPool_5a_3x3", "Pool2"
    ),
    "timm_inception_v4": "features.{}*22 global_pool",
    "keras_inception_v3": "activation activation_1 activation_2 max_pooling2d "
    "activation_3 activation_4 max_pooling2d_1 mixed0 mixed1 mixed2 mixed3 mixed4 mixed5 "
    "mixed6 mixed7 mixed8 mixed9 mixed10 avg_pool",
    "keras_inception_resnet_v2": "activation activation_1 activation_2 max_pooling2d "
    "activation_3 activation_4 max_pooling2d_1 mixed_5b block35_{}_ac*10 mixed_6a "
    "block17_{}_ac*20 mixed_7a block8_{}_ac*9 custom_scale_layer_39 conv_7b_ac "
    "avg_pool",
}

# Layers of which the file keeps moving averages: an early, a middle and a late one.
TRAIN_BN = {
    "timm_inception_v3": "Conv2d_1a_3x3.bn Mixed_6c.branch7x7_2.bn "
    "Mixed_7c.branch3x3dbl_2.bn",
    "timm_inception_v4": "features.0.bn features.14.branch1.0.bn features.21.branch3.1.bn",
    "timm_inception_resnet_v2": "conv2d_1a.bn repeat_1.6.branch1.1.bn conv2d_7b.bn",
    "facenet_pytorch_inception_resnet_v1": "conv2d_1a.bn repeat_2.4.branch0.bn last_bn",
}


def expand(names: str, first: int = 0) -> list[str]:
    """Return the single names that a string of patterns stands for."""
    parts = [name.partition("*") for name in names.split()]
    counted = [(name, int(count or 1)) for name, _, count in parts]
    return [name.format(first + i) for name, n in counted for i in range(n)]


def ends(source: str) -> list[tuple[str, str]]:
    """Return every stage with the source's name of its last layer."""
    stages, names = STAGES[source], ENDS.get(source, STAGES[source])
    first = 1 if source.startswith("keras") else 0
    return list(zip(expand(stages), expand(names, first), strict=True))
