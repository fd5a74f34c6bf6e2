# SPDX-License-Identifier: Apache-2.0
"""The compiled program of each experiment leaves nothing to the host."""

import re

import pytest
import tensorflow as tf

from tests import command
from tf_audioset import compilation
from tf_audioset.runtime import gin_config
from tf_audioset.weights import audax

# Custom calls are code outside the program. None is known to be needed.
_ALLOWED_CUSTOM_CALLS = set()
_OF_THE_HOST = {
  "infeed",
  "outfeed",
  "send",
  "send-done",
  "recv",
  "recv-done",
}


_AUDAX = [f"gin/audax/{model}.gin" for model in audax.MODELS]


def _hlo(gin_file, stage, *bindings):
  compilation.load_as_on_tpu(
    [gin_file], [*bindings, "Pipeline.crop_seconds = 0.5"], batch_size=2
  )
  return compilation.loop_hlo(num_classes=5, num_steps=2, stage=stage)


def _objections(hlo: str) -> list[str]:
  """Instructions of an HLO text that are not allowed."""
  found = []
  for line in hlo.splitlines():
    match = re.match(r"\s*(?:ROOT )?%?[\w.\-]+ = (.+?) ([a-z][a-z\-]*)\(", line)
    if not match:
      continue
    shape, op = match.groups()
    target = re.search(r'custom_call_target="([^"]*)"', line)
    if (
      "<=" in shape
      or op in _OF_THE_HOST
      or (op == "custom-call" and target[1] not in _ALLOWED_CUSTOM_CALLS)
    ):
      found.append(line.strip()[:200])
  return found


# gin/audax has the same models behind another front end, and gin/sizes more of
# their layers: what is asked of XLA is told before its optimisation.
@pytest.mark.parametrize(
  ("gin_file", "stage"),
  [(file, "optimized_hlo") for file in gin_config.shipped_gin_files()]
  + [
    (file, "hlo")
    for file in [
      *_AUDAX,
      "gin/ced/tiny.gin",
      "gin/sizes/resnet50.gin",
      "gin/best/resnet18.gin",
      "gin/best/efficientnet_b0.gin",
      "gin/best/convnext_tiny.gin",
    ]
  ],
)
def test_the_whole_loop_compiles_and_needs_no_host(gin_file, stage):
  hlo = _hlo(gin_file, stage)
  instructions = re.findall(r" = \S+ ([a-z\-]+)\(", hlo)
  # It is the whole: convolutions, the loop over the steps, the update.
  assert {"convolution", "while"} <= set(re.findall(r" ([a-z\-]+)\(", hlo))
  assert len(instructions) > 1000
  assert "bf16[" in hlo
  assert _objections(hlo) == []


def test_a_frozen_backbone_with_one_label_a_clip_compiles():
  hlos = [
    _hlo("gin/quickstart.gin", "hlo", *bindings)
    for bindings in (
      (),
      ("Tagger.freeze_backbone = True", "Tagger.loss = @MultiClass()"),
    )
  ]
  assert _objections(hlos[1]) == []
  # Nothing goes back through the backbone: of each convolution but the first
  # one there are two gradients.
  everything, probe = (hlo.count(" convolution(") for hlo in hlos)
  assert probe >= 20 and everything == 3 * probe - 1


@pytest.mark.parametrize("head", ["MeanMaxHead", "AttentionHead"])
def test_the_heads_compile(head):
  hlo = _hlo("gin/quickstart.gin", "hlo", f"Tagger.head = @{head}()")
  assert _objections(hlo) == []


def test_what_is_not_allowed_is_found():
  @tf.function(jit_compile=True)
  def dynamic(x):
    return tf.where(x > 0)

  hlo = dynamic.experimental_get_compiler_ir(tf.ones([4]))(
    stage="optimized_hlo"
  )
  assert _objections(hlo)
  for line in (
    '  %c = f32[2]{0} custom-call(f32[2]{0} %a), custom_call_target="Callback"',
    "  %i = ((f32[2]), token[]) infeed(token[] %t)",
    "  ROOT %s = (f32[2], u32[], token[]) send(f32[2] %a, token[] %t)",
    "  %d = f32[<=4,2]{1,0} add(f32[<=4,2]{1,0} %a, f32[<=4,2]{1,0} %b)",
  ):
    assert _objections(line) == [line.strip()]
  assert not _objections("  %d = f32[4,2]{1,0} add(f32[4] %a, f32[4] %b)")


def test_the_memory_of_a_step_is_told():
  out = command.succeed(
    "benchmarks/memory.py", "--gin_file=gin/quickstart.gin", "--batch_size=64"
  )
  total, temporary = map(float, re.findall(r"(\S+) GiB", out))
  # 705,000 weights and as many of each moment, float32; clips of 5 s, int16.
  arguments = (705e3 * 3 * 4 + 64 * 80000 * 2) / 2**30
  assert arguments - 0.01 < total - temporary < arguments + 0.05
  # The log-mel of the clips and what the first stage makes of it: 16 channels
  # of half the frames and bands, in bfloat16.
  assert temporary > 64 * (501 * 64 * 4 + 251 * 32 * 16 * 2) / 2**30
