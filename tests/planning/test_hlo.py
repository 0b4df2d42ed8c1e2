# SPDX-License-Identifier: Apache-2.0
"""Figures read from the HLO text of CPU, TPU and GPU programs."""

import jax
import jax.numpy as jnp
import numpy as np

from inception_jax.config import ParallelConfig
from inception_jax.planning.hlo import (
    Cost,
    bytes_by_operation,
    cost_by_module,
    read_movement,
)
from inception_jax.runtime.devices import all_devices
from inception_jax.runtime.parallel import ShardMapStep


def compiled_text(step) -> str:
    """Return the HLO of `step` on the four devices of the tests, for 8x32 numbers."""
    mapped = ShardMapStep(step, ParallelConfig("shard_map"), all_devices(), donate=False)
    shape = jax.ShapeDtypeStruct((8, 32), jnp.float32)
    state = jax.ShapeDtypeStruct((32,), jnp.float32)
    return mapped.lower(state, {"image": shape}, None).compile().as_text()


def test_collectives_of_a_program():
    def step(state, batch, numbers, *, axis_name):
        rows = batch["image"]
        total = jax.lax.psum(rows.sum(0), axis_name)
        peak = jax.lax.pmax(total[:5] * state[0], axis_name)
        everyone = jax.lax.all_gather(rows[0], axis_name, tiled=True)
        shared = jax.lax.psum(everyone * rows[1, 0], axis_name)
        return {"total": total, "peak": peak, "shared": shared}

    result = read_movement(compiled_text(step))
    assert result.counts["all-gather"] == 1
    assert result.bytes["all-gather"] == 4 * 32 * 4
    # XLA may merge neighbouring sums; their bytes stay the same.
    assert result.bytes["all-reduce"] == 4 * (32 + 5 + 4 * 32)
    assert 2 <= result.counts["all-reduce"] <= 3


def test_a_loop_counts_once_per_iteration():
    def step(state, batch, numbers, *, axis_name):
        def body(carry, row):
            return carry + jax.lax.psum(row * jnp.sin(carry), axis_name), None

        rows = jnp.concatenate([batch["image"]] * 4)
        return jax.lax.scan(body, state, rows)[0]

    result = read_movement(compiled_text(step))
    assert (result.counts, result.bytes) == ({"all-reduce": 8}, {"all-reduce": 8 * 32 * 4})


TPU = """\
HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%kernel (p: bf16[4,100]) -> f32[100] {
  %p = bf16[4,100]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %big = f32[1000000]{0:T(1024)} negate(%p)
}

ENTRY %main.1 (a: bf16[4,100], b: f32[300]) -> (f32[300], f32[100]) {
  %a = bf16[4,100]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="state"}
  %b = f32[300]{0:T(512)} parameter(1)
  %copy-start.1 = (f32[300]{0:T(512)S(1)}, f32[300]{0:T(512)}, u32[]{:S(2)}) copy-start(%b)
  %copy-done.1 = f32[300]{0:T(512)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[300]{0:T(512)}), f32[128]{0:T(128)S(1)}, s32[]{:S(2)}) \
slice-start(%b), slice={[0:128]}
  %fusion.1 = f32[100]{0:T(128)S(1)} fusion(%a), kind=kLoop, calls=%kernel, \
backend_config={"window_config":{"estimated_cycles":"1830"}}
  %all-reduce.1 = (f32[300]{0:T(512)}, /*index=1*/f32[100]{0:T(128)S(1)}) \
all-reduce(%copy-done.1, %fusion.1), replica_groups={{0,1}}, to_apply=%add
  %permute.1 = (f32[300]{0}, f32[300]{0}, u32[]) collective-permute-start(%b)
  ROOT %tuple.1 = (f32[300]{0:T(512)}, f32[100]{0:T(128)S(1)}) tuple(%b, %fusion.1)
}
"""


def test_traffic_of_a_tpu_program():
    result = read_movement(TPU)
    assert result.counts == {"all-reduce": 1, "collective-permute": 1}
    assert result.bytes == {"all-reduce": 4 * (300 + 100), "collective-permute": 4 * 300}
    assert (result.overlapping, result.cycles) == (1, 1830)
    copied = 4 * 512  # 300 numbers, padded to a tile of 512
    sliced = 4 * 128
    kernel = 2 * 8 * 128  # 4x100 two-byte numbers, padded to a tile of 8x128
    reduced, permuted = 4 * 512, 2 * 4 * 300 + 4  # and a semaphore
    assert result.hbm_bytes == copied + sliced + kernel + reduced + permuted
    on_chip = copied + 4 + sliced + 4 * 128 + (copied + 4 * 128 + 4 * 128)
    assert result.total_bytes == result.hbm_bytes + on_chip


def test_kernels_count_for_modules():
    """The bytes of a kernel count for the outermost module that produces its result, those
    of a copy for the module whose result is copied. Copies of arguments count for none."""
    outer, inner = "jit(step)/jvp(Network)/Mixed_6a", "Branch_0/Conv2d_1a_3x3/conv/dot"
    text = TPU.replace("calls=%kernel", f'calls=%kernel, op_name="{outer}/{inner}"')
    text = text.replace("parameter(1)", 'parameter(1), op_name="state/Mixed_6a_2/scale"')
    text = text.replace("to_apply=%add", 'to_apply=%add, op_name="jit(step)/psum"')
    copy = "(f32[100]{0:T(128)}, f32[100]{0:T(128)S(1)}, u32[]{:S(2)}) copy-start"
    text = text.replace(
        "  ROOT %tuple.1",
        "  %same.1 = f32[100]{0:T(128)S(1)} bitcast(%fusion.1)\n"
        f"  %copy-start.2 = {copy}(%same.1)\n  ROOT %tuple.1",
    )
    result = cost_by_module(text, ["Conv2d_1a_3x3", "Mixed_6a", "Mixed_6b"])
    whole = read_movement(text)
    hbm, on_chip = 2 * 8 * 128 + 4 * 128, 4 * 128 + (4 * 128 + 4)
    block = Cost(hbm, hbm + on_chip, cycles=1830)
    assert result == {
        "Mixed_6a": block,
        "Conv2d_1a_3x3": Cost(),
        "Mixed_6b": Cost(),
        "": Cost(whole.hbm_bytes - hbm, whole.total_bytes - block.total_bytes, 0),
    }


def test_parameters_move_no_bytes():
    text = "ENTRY %main (a: f32[8]) -> f32[8] {\n  %a = f32[8]{0} parameter(0)\n}\n"
    result = read_movement(text)
    assert (result.counts, result.hbm_bytes, result.total_bytes) == ({}, 0, 0)
    assert np.isclose(result.cycles, 0)


GPU = """\
HloModule jit_step, is_scheduled=true

%fused (p: bf16[6,4]) -> bf16[6,4] {
  %p = bf16[6,4]{1,0} parameter(0)
  ROOT %n = bf16[6,4]{1,0} negate(%p)
}

ENTRY %main (x: bf16[6,4], w: bf16[4,4]) -> bf16[6,4] {
  %x = bf16[6,4]{1,0} parameter(0)
  %w = bf16[4,4]{1,0} parameter(1)
  %y = (bf16[6,4]{1,0}, s8[9]{0}) custom-call(%x, /*index=1*/%w), custom_call_target="LIB"
  %z = bf16[6,4]{1,0} get-tuple-element(%y), index=0
  %f = bf16[6,4]{1,0} fusion(%z), kind=kLoop, calls=%fused
  ROOT %c = bf16[6,4]{1,0} copy(%f)
}
""".replace("LIB", "__cublas$lt$matmul")


def test_bytes_by_operation_of_a_gpu_program():
    """The workspace of cuBLAS is not counted."""
    expected = {"__cublas$lt$matmul": 2 * (24 + 16 + 24), "fusion": 2 * 48, "copy": 2 * 48}
    moved = {kind: size for kind, size in bytes_by_operation(GPU).items() if size}
    assert moved == expected
    assert read_movement(GPU).total_bytes == sum(expected.values())
