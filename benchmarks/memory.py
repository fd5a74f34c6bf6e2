# SPDX-License-Identifier: Apache-2.0
r"""How much memory XLA plans for a training step.

  python benchmarks/memory.py --gin_file=gin/resnet18.gin --batch_size=256

Compiles the whole step for the CPU and adds up XLA's own buffer assignment:
weights, optimizer state, batch, activations and temporaries. The CPU has no
bfloat16 convolutions and keeps their operands in float32. So with
--precision=mixed_bfloat16 this is more than a TPU's compiler needs for
activations, apart from its padding. Nothing is run.
"""

from __future__ import annotations

import os
import pathlib
import re
import tempfile

from absl import flags

from tf_audioset.runtime import cli

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("gin_file", None, "Experiment. Repeatable.")
flags.DEFINE_multi_string("gin_bindings", [], "A line of gin. Repeatable.")
flags.DEFINE_integer("batch_size", 256, "Clips per replica.", lower_bound=1)
flags.DEFINE_integer("num_classes", 527, "Width of the targets.", lower_bound=1)
flags.DEFINE_enum(
  "precision", "mixed_bfloat16", ("float32", "mixed_bfloat16"), "As in gin."
)


def main() -> None:
  with tempfile.TemporaryDirectory() as folder:
    # Read by XLA when it starts. LLVM's work after it has no part in this.
    os.environ["XLA_FLAGS"] = (
      f"--xla_dump_to={folder} --xla_dump_hlo_as_text "
      "--xla_backend_optimization_level=0 "
      "--xla_llvm_disable_expensive_passes=true"
    )
    from tf_audioset import compilation

    compilation.load_as_on_tpu(
      FLAGS.gin_file,
      FLAGS.gin_bindings,
      batch_size=FLAGS.batch_size,
      precision=FLAGS.precision,
    )
    compilation.loop_hlo(num_classes=FLAGS.num_classes, num_steps=1)
    reports = pathlib.Path(folder).glob("*train_on*buffer-assignment.txt")
    report = max(reports, key=lambda path: path.stat().st_size).read_text()
  total = int(re.search(r"Total bytes used: (\d+)", report)[1])
  temporary = re.search(r"size (\d+), preallocated-temp", report)
  print(
    f"{total / 2**30:.2f} GiB, of which activations and temporaries "
    f"{int(temporary[1]) / 2**30:.2f} GiB"
  )


if __name__ == "__main__":
  cli.run(main, prog="memory", required=["gin_file"])
