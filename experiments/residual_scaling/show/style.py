# SPDX-License-Identifier: Apache-2.0
"""Style of the figures: a scale has one colour and a network one marker everywhere."""

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

# Okabe and Ito's palette, which the colour-blind can distinguish.
SCALE_COLORS = {1.0: "#D55E00", 0.3: "#009E73", 0.1: "#0072B2"}
OTHER_COLOR = "#767676"
NETWORKS = {  # names and markers
    "C": ("narrow network", "o"),
    "inception_resnet_v2_paper": ("Inception-ResNet-v2 as drawn", "D"),
    "inception_resnet_v1": ("Inception-ResNet-v1", "^"),
    "inception_resnet_v2": ("Inception-ResNet-v2 as published", "v"),
    "inception_v4": ("Inception-v4, no residuals", "s"),
}
TEXT = 10  # points


def color_of(scale: float, network: str = "C") -> str:
    """Return the colour of a residual scale; grey for a network without residuals."""
    if network == "inception_v4":
        return OTHER_COLOR
    return SCALE_COLORS.get(scale, OTHER_COLOR)


def scale_label(scale: float) -> str:
    """Return "scale 0.1", or "published scales" for a missing scale."""
    return f"scale {scale:g}" if scale == scale else "published scales"


def new_figure(width: float, height: float) -> Figure:
    """Create a figure of a size in inches, with room for a legend."""
    return Figure(figsize=(width, height), layout="constrained")


def percent(axes: Axes) -> None:
    """Show the vertical axis as a percentage from 0 to 100."""
    axes.set_ylim(-0.04, 1.04)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def tidy(axes: Axes) -> None:
    """Draw thin grid lines behind the data, and no frame."""
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=TEXT - 1)
    sns.despine(ax=axes)


def add_legend(figure: Figure, scales: list[float], networks: list[str]) -> None:
    """Explain colours and markers below a figure."""
    handles = [
        Line2D([], [], marker="o", ls="", color=color_of(scale), label=scale_label(scale))
        for scale in scales
    ]
    for network in networks:
        label, marker = NETWORKS[network]
        handles.append(
            Line2D([], [], marker=marker, ls="", color="black", mfc="none", label=label)
        )
    figure.legend(
        handles=handles, loc="outside lower center", ncols=4, fontsize=TEXT, frameon=False
    )
