# SPDX-License-Identifier: Apache-2.0
"""Estimates read from a compiled program that was written by hand."""
# ruff: noqa: E501  (HLO has lines as long as it likes.)

import pytest

from benchmarks import tpu_hlo

_MODULE = """HloModule step, is_scheduled=true

%fused (param: f32[8,128]) -> f32[8,128] {
  %param = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %negate = f32[8,128]{1,0:T(8,128)} negate(%param)
}

%body (turn: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %turn = (s32[]{:T(256)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%turn), index=1
  %dot = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kOutput, calls=%fused, metadata={op_name="step/dense/MatMul"}, backend_config={"window_config":{"estimated_cycles":"1000"}}
  %reverse = f32[8,128]{1,0:T(8,128)} reverse(%dot), dimensions={0}
  ROOT %next = (s32[]{:T(256)}, f32[8,128]{1,0:T(8,128)}) tuple(%x, %reverse)
}

%condition (turn.1: (s32[], f32[8,128])) -> pred[] {
  %turn.1 = (s32[]{:T(256)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  ROOT %less = pred[]{:T(1024)} constant(true)
}

ENTRY %main (arg: f32[8,128]) -> f32[8,128] {
  %arg = f32[8,128]{1,0:T(8,128)} parameter(0)
  %copy = f32[8,128]{0,1:T(8,128)} copy(%arg), metadata={op_name="XLA_Args"}, backend_config={"estimated_cycles":"500"}
  %state = (s32[]{:T(256)}, f32[8,128]{1,0:T(8,128)}) tuple(%copy, %copy)
  %loop = (s32[]{:T(256)}, f32[8,128]{1,0:T(8,128)}) while(%state), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""


def test_instructions_in_a_loop_count_as_often_as_it_turns():
  estimated, _ = tpu_hlo.instructions(_MODULE, clock_hz=1e6, bytes_per_s=1e9)
  assert [(x["name"], x["ms"], x["times"]) for x in estimated] == [
    ("dot", pytest.approx(4.0), 4),
    ("copy", pytest.approx(0.5), 1),
  ]
  assert estimated[0]["scope"] == "step/dense/MatMul"
  assert estimated[0]["opcode"] == "fusion"
  once, _ = tpu_hlo.instructions(
    _MODULE.replace("known_trip_count", "unknown"), 1e6, 1e9
  )
  assert sum(x["ms"] for x in once) == pytest.approx(1.5)


def test_instructions_without_an_estimate_take_as_long_as_their_traffic():
  _, unestimated = tpu_hlo.instructions(_MODULE, clock_hz=1e6, bytes_per_s=1e9)
  # It reads and writes 4096 bytes in each of 4 turns. What is in the fusion has
  # no estimate of its own, and names of values cost nothing.
  (reverse,) = unestimated
  assert reverse["opcode"] == "reverse"
  assert reverse["ms"] == pytest.approx(4 * 2 * 4096 / 1e9 * 1e3)


@pytest.mark.parametrize(
  ("shape", "num_bytes"),
  [
    ("f32[]", 4),
    ("s32[10]{0:T(256)}", 40),
    ("pred[3,4]{1,0}", 12),
    # 200 is a multiple of 8, and 256 one of 128, wherever they stand.
    ("bf16[256,503,200]{0,2,1:T(8,128)(2,1)}", 2 * 256 * 503 * 200),
    ("f32[64,65]{1,0:T(8,128)}", 4 * 64 * 128),
    ("f32[7,128,3]{1,0,2:T(8,128)}", 4 * 8 * 128 * 3),
    ("(f32[8,128]{1,0:T(8,128)}, s16[4]{0:T(256)})", 4 * 8 * 128 + 8),
  ],
)
def test_bytes_of_a_shape_with_its_padding(shape, num_bytes):
  assert tpu_hlo.num_bytes(shape) == num_bytes
