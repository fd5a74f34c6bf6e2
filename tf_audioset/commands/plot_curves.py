# SPDX-License-Identifier: Apache-2.0
"""Draws loss and validation mAP of one or more runs, as a picture.

  python tools/plot_curves.py --output=curves.png WORKDIR...

WORKDIR is the --workdir of a run, or a folder of several. Needs matplotlib. The
exit code is 1 if a run is left out because it has no first loss yet.
"""

from __future__ import annotations

import io
import os
import re
import sys

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("output", None, "The picture to write: .png, .pdf, .svg.")


_LOSSES = {
  "MultiLabel": "sigmoid cross-entropy, mean over classes",
  "MultiClass": "softmax cross-entropy",
}


def main(paths: list[str]) -> int:
  cli.check_matplotlib("a picture")
  # Imported late: a mistake in the flags is answered at once.
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  from tf_audioset.runtime import outputs

  figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
  kind = os.path.splitext(FLAGS.output)[1][1:] or "png"
  kinds = sorted(figure.canvas.get_supported_filetypes())
  if kind not in kinds:
    raise UserError(
      f"--output={FLAGS.output}: no kind of picture; choose one of "
      + ", ".join(f".{kind}" for kind in kinds)
    )
  outputs.check_file(FLAGS.output, "output")
  workdirs = _workdirs(paths)
  curves = {}
  for workdir in workdirs:
    if loss := _curve(workdir, "train", "loss"):
      curves[workdir] = loss, _curve(workdir, "validation", "mAP")
    else:
      print(
        f"plot_curves: {workdir}: left out: no loss is logged there yet",
        file=sys.stderr,
      )
  if not curves:
    raise UserError(f"{workdirs[0]}: no run, or one without a first loss yet.")
  _draw(axes, curves)
  content = io.BytesIO()
  figure.savefig(content, format=kind, dpi=100)
  writer = outputs.Writer()
  writer.write(FLAGS.output, content.getvalue())
  writer.close()
  print(f"wrote {FLAGS.output}")
  return 0 if len(curves) == len(workdirs) else 1


def _workdirs(paths: list[str]) -> list[str]:
  """Returns the paths, with a folder of work directories replaced by those.

  Raises:
    UserError: If a path is neither.
  """
  import tensorflow as tf

  def is_workdir(path):
    return tf.io.gfile.isdir(os.path.join(path, "summaries"))

  workdirs = []
  for path in paths:
    found = [path]
    if not is_workdir(path):
      is_folder = tf.io.gfile.isdir(path)
      names = sorted(tf.io.gfile.listdir(path)) if is_folder else []
      children = (os.path.join(path, name.rstrip("/")) for name in names)
      found = [*filter(is_workdir, children)]
    if not found:
      raise UserError(
        f"{path}: no work directory of a run, which has a folder summaries, "
        "and none in it."
      )
    workdirs += found
  return list(dict.fromkeys(workdirs))


def _draw(axes, curves) -> None:
  """Draws what `_curve` gives of each run: loss, validation mAP."""
  from tf_audioset.runtime import outputs
  from tf_audioset.serving import picture

  names = outputs.mirrored([*curves])
  losses = {workdir: _loss(workdir) for workdir in curves}
  kinds = sorted(set(losses.values()))
  for workdir, (loss, validation) in curves.items():
    name = picture.literal(names[workdir])
    of_kind = f" ({losses[workdir]})" if len(kinds) > 1 else ""
    axes[0].plot(*loss, label=name + of_kind)
    steps, values = validation or ([], [])
    last = f"last {values[-1]:.3f}" if values else "none yet"
    axes[1].plot(steps, values, label=f"{name}, {last}")
  axes[0].set(title="Training loss", xlabel="step", yscale="log")
  axes[0].set_ylabel(kinds[0] if len(kinds) == 1 else "loss")
  axes[1].set(title="Validation, centre crops", xlabel="step", ylabel="mAP")
  axes[1].set_ylim(0, 1)
  for ax in axes:
    ax.grid(alpha=0.3)
    ax.legend(prop={"family": picture.fonts(*names.values())})


def _loss(workdir: str) -> str:
  """Returns the name of a run's loss according to its config.gin."""
  import tensorflow as tf

  try:
    with tf.io.gfile.GFile(os.path.join(workdir, "config.gin")) as file:
      found = re.search(
        r"^Tagger\.loss = @(?:[\w/]+/)?(?:\w+\.)*(\w+)",
        file.read(),
        re.MULTILINE,
      )
  except (tf.errors.OpError, UnicodeDecodeError):
    found = None
  return _LOSSES.get(found[1], f"loss {found[1]}") if found else "loss"


def _curve(workdir: str, writer: str, tag: str):
  """Steps and values of a scalar, of a resumed run the later; empty if none."""
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
  return tuple(zip(*sorted(points.items())))


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="plot_curves", required=["output"], positional="WORKDIR")


if __name__ == "__main__":
  run()
