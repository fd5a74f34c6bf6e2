# SPDX-License-Identifier: Apache-2.0
"""Draws loss and validation mAP of one or more runs, as a picture.

  python tools/plot_curves.py --output=curves.png WORKDIR...

Needs matplotlib (pip install 'tf_audioset[plot]').
"""

from __future__ import annotations

import io
import os

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "The picture to write: .png, .pdf, .svg.")


def main(workdirs: list[str]) -> None:
  cli.check_matplotlib("a picture")
  # Imported late: a mistake in the flags is answered at once.
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  from tf_audioset.runtime import storage
  from tf_audioset.serving import picture

  figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
  for workdir in workdirs:
    name = picture.literal(os.path.basename(os.path.abspath(workdir)))
    axes[0].plot(*_curve(workdir, "train", "loss"), label=name)
    steps, values = _curve(workdir, "validation", "mAP")
    axes[1].plot(steps, values, label=f"{name}, last {values[-1]:.3f}")
  axes[0].set(title="Training loss", xlabel="step", yscale="log")
  axes[0].set_ylabel("sigmoid cross-entropy, mean over classes")
  axes[1].set(title="Validation, centre crops", xlabel="step", ylabel="mAP")
  axes[1].set_ylim(0, 1)
  for ax in axes:
    ax.grid(alpha=0.3)
    ax.legend()
  content = io.BytesIO()
  kind = os.path.splitext(FLAGS.output)[1][1:]
  figure.savefig(content, format=kind or "png", dpi=100)
  storage.write_file(FLAGS.output, content.getvalue())
  print(f"wrote {FLAGS.output}")


def _curve(workdir: str, writer: str, tag: str):
  """Steps and values of a scalar; a resumed run's later values win."""
  import tensorflow as tf

  points = {}
  pattern = os.path.join(workdir, "summaries", writer, "events.*")
  for path in sorted(tf.io.gfile.glob(pattern)):
    try:
      for record in tf.data.TFRecordDataset(path):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
          if value.tag == tag:
            points[event.step] = float(tf.make_ndarray(value.tensor))
    except tf.errors.DataLossError:
      pass  # Cut off by a full disk; what follows is in the next file.
  if not points:
    raise UserError(f"{workdir}: no run, or one without a first {tag} yet.")
  return zip(*sorted(points.items()))


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="plot_curves", required=["output"], positional="WORKDIR")


if __name__ == "__main__":
  run()
