# SPDX-License-Identifier: Apache-2.0
r"""A lower bound of a training step's time on a TPU v3-8, from its HLO.

  python tools/roofline.py --gin_file=gin/resnet18.gin

Lowers the whole step, for one core's share of the batch, to the HLO before
XLA's optimisation, which is the same for every device. Its cost is counted with
a model of a TPU core, which docs/performance.md describes. Nothing is run.
"""

from __future__ import annotations

import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from tf_audioset.runtime import cli
from tools import tpu_model

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("gin_file", None, "Experiment. Repeatable.")
flags.DEFINE_multi_string("gin_bindings", [], "A line of gin. Repeatable.")
flags.DEFINE_integer("batch_size", 2048, "Clips of all 8 cores.", lower_bound=8)
flags.DEFINE_integer("num_classes", 527, "Width of the targets.", lower_bound=1)
flags.DEFINE_enum(
  "precision", "mixed_bfloat16", ("float32", "mixed_bfloat16"), "As in gin."
)
flags.DEFINE_float(
  "hbm_tb_per_s", 7.2, "Memory bandwidth of all 8 cores.", lower_bound=0.001
)
flags.DEFINE_float(
  "efficiency",
  0.72,
  "Share of the bound that is reached. Default: the share published for "
  "ResNet-50, see docs/performance.md.",
  lower_bound=0.0,
  upper_bound=1.0,
)
flags.DEFINE_integer("top", 0, "Also show this many kernels, slowest first.")
flags.DEFINE_bool("json", False, "Print JSON.")
flags.DEFINE_bool(
  "resnet50", False, "Analyse ResNet-50 on images, whose speed is published."
)


def _experiment_hlo(clips_a_core: int) -> tuple[str, int]:
  """HLO of the step, and the bytes of a clip that the host sends."""
  import gin

  from tf_audioset import compilation

  compilation.load_as_on_tpu(
    FLAGS.gin_file,
    FLAGS.gin_bindings,
    batch_size=clips_a_core,
    precision=FLAGS.precision,
  )
  samples = gin.get_bindings("train")["pipeline"].crop_samples
  hlo = compilation.loop_hlo(
    num_classes=FLAGS.num_classes, num_steps=1, stage="hlo"
  )
  return hlo, samples * 2 + FLAGS.num_classes * 4


def _resnet50_hlo(images_a_core: int) -> tuple[str, int]:
  """The same of ResNet-50 with images of 224 x 224 and 1000 classes."""
  import tensorflow as tf

  from tf_audioset.models import resnet

  tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
  backbone = resnet.ResNet(depth=50)
  head = tf.keras.layers.Dense(1000, dtype=tf.float32)
  optimizer = tf.keras.optimizers.SGD(0.1, momentum=0.9, jit_compile=False)

  def loss(images, labels):
    logits = head(backbone(images, training=True))
    return tf.reduce_mean(
      tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    )

  loss(tf.zeros([1, 224, 224, 3]), tf.zeros([1], tf.int32))
  weights = backbone.trainable_variables + head.trainable_variables
  optimizer.build(weights)

  @tf.function(jit_compile=True)
  def step(images, labels):
    with tf.GradientTape() as tape:
      value = loss(tf.cast(images, tf.float32) / 255.0, labels)
    optimizer.apply_gradients(zip(tape.gradient(value, weights), weights))
    return value

  hlo = step.experimental_get_compiler_ir(
    tf.TensorSpec([images_a_core, 224, 224, 3], tf.uint8),
    tf.TensorSpec([images_a_core], tf.int32),
  )(stage="hlo")
  return hlo, 224 * 224 * 3 + 4


def main() -> None:
  if bool(FLAGS.gin_file) == FLAGS.resnet50:
    raise ValueError("give one of --gin_file and --resnet50, not both.")
  if FLAGS.batch_size % tpu_model.NUM_CORES:
    raise ValueError(
      f"--batch_size={FLAGS.batch_size}: the cores have equal shares; give a "
      f"multiple of {tpu_model.NUM_CORES}."
    )
  make_hlo = _resnet50_hlo if FLAGS.resnet50 else _experiment_hlo
  hlo, example_bytes = make_hlo(FLAGS.batch_size // tpu_model.NUM_CORES)
  counts = tpu_model.analyse(hlo, FLAGS.hbm_tb_per_s)
  slowest = counts.pop("kernels")[: FLAGS.top]
  total = counts["total"]
  infeed_bytes = example_bytes * FLAGS.batch_size
  counts |= {
    "infeed_bytes": infeed_bytes,
    "infeed_seconds": infeed_bytes / tpu_model.INFEED_BYTES_PER_S,
    "padding_share": 1 - total["matrix_flops"] / total["padded_flops"],
  }
  seconds = max(total["seconds"], counts["infeed_seconds"])
  counts["samples_per_s"] = FLAGS.batch_size / seconds
  counts["efficiency"] = FLAGS.efficiency
  counts["expected_samples_per_s"] = FLAGS.efficiency * counts["samples_per_s"]
  if FLAGS.json:
    print(json.dumps(counts, indent=2))
    return
  print(f"a core's share of {FLAGS.batch_size}: G operations, GB, ms")
  print(
    f"{'':22}{'kernels':>8}{'matrix':>9}{'padded':>9}{'vector':>9}{'HBM':>9}"
    f"{'time':>9}"
  )
  kinds = sorted(counts["kinds"].items(), key=lambda x: -x[1]["seconds"])
  for kind, of_kind in [*kinds, ("all", total)]:
    numbers = (
      of_kind["matrix_flops"] / 1e9,
      of_kind["padded_flops"] / 1e9,
      of_kind["vector_flops"] / 1e9,
      of_kind["bytes"] / 1e9,
      of_kind["seconds"] * 1e3,
    )
    print(
      f"{kind:22}{of_kind['kernels']:8}" + "".join(f"{x:9.2f}" for x in numbers)
    )
  print(
    f"front end: {counts['front_end_seconds'] * 1e3:.1f} ms\n"
    f"padding: {counts['padding_share']:.0%} of the matrix unit's work\n"
    f"infeed: {infeed_bytes / 1e6:.0f} MB a step, "
    f"{counts['infeed_seconds'] * 1e3:.1f} ms beside it\n"
    f"bound: {counts['samples_per_s']:,.0f} samples/s; at "
    f"{FLAGS.efficiency:.0%} of it {counts['expected_samples_per_s']:,.0f}"
  )
  bytes_per_s = FLAGS.hbm_tb_per_s * 1e12 / tpu_model.NUM_CORES
  for kernel in slowest:
    dtype, dims = kernel.node.shapes[0]
    print(
      f"{kernel.seconds(bytes_per_s) * 1e3:6.2f} ms {kernel.kind} "
      f"{dtype}{list(dims)} {kernel.node.scope}"
    )


if __name__ == "__main__":
  cli.run(main, prog="roofline")
