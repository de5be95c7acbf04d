"""Interpolation, rearranging pixels, sampling at computed positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skipgraph.ops import Kind, flop_rules, register, workspace
from skipgraph.ops.axes import FEATURE, SPACE, Axes, AxisRoles, channels_second

if TYPE_CHECKING:
    from skipgraph.capture.program import Operator


def pixel_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(…, C, H, W) with pixels moved between channels and space."""
    axes = operands[0]
    shape = operator.outputs[0].shape
    for axis, role in zip(axes[-3:], (FEATURE, SPACE, SPACE), strict=True):
        roles.witness(axis, role)
    return (*axes[:-3], ((shape[-3], FEATURE),), ((shape[-2], SPACE),), ((shape[-1], SPACE),))


def patch_axes(roles: AxisRoles, operator: Operator, operands: list[Axes]) -> Axes:
    """(N, C, H, W) -> (N, C·k·k, positions), or back."""
    axes = operands[0]
    shape = operator.outputs[0].shape
    if len(shape) == 3:
        for axis, role in zip(axes[1:], (FEATURE, SPACE, SPACE), strict=True):
            roles.witness(axis, role)
        return (axes[0], ((shape[1], FEATURE),), ((shape[2], SPACE),))
    return (axes[0], ((shape[1], FEATURE),), *[((size, SPACE),) for size in shape[2:]])


# Multiply-adds of one result: the points that it is interpolated from. fvcore has the first two rules alone.
for _points, _counted, _names in (
    (1, True, ("upsample_nearest2d",)),
    (4, True, ("upsample_bilinear2d",)),
    (1, False, ("upsample_nearest1d", "upsample_nearest3d")),
    (1, False, ("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")),
    (2, False, ("upsample_linear1d",)),
    (8, False, ("upsample_trilinear3d",)),
    (16, False, ("upsample_bicubic2d",)),
):
    register(
        *_names,
        kind=Kind.RESAMPLE,
        axes=channels_second,
        distributes=True,
        flops=flop_rules.per_result(_points),
        fvcore=_counted,
        workspace=workspace.upsampling,
        onnx=("Resize",),
    )
# How many points an antialiased result is made of depends on the scale.
register(
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", kind=Kind.RESAMPLE, axes=channels_second, distributes=True
)
register("pixel_shuffle", "pixel_unshuffle", kind=Kind.RESAMPLE, axes=pixel_axes, onnx=("DepthToSpace", "SpaceToDepth"))
# Cutting into patches and putting them together again: no other resolution, as when it is spelt with views.
register("im2col", kind=Kind.LINEAR_MAP, axes=patch_axes, free=True)
register("col2im", kind=Kind.LINEAR_MAP, axes=patch_axes)
register(
    "grid_sampler_2d",
    "grid_sampler_3d",
    "grid_sampler",
    kind=Kind.SAMPLE,
    as_name="grid_sampler",
    axes=channels_second,
    flops=flop_rules.per_result(4),
    fvcore=True,
)
