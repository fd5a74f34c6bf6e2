# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard shows of a run beside its curves: tables and pictures.

Each function writes into the summary writer that is the default when it is
called, at that writer's step.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tf_audioset.data import prepared, records
from tf_audioset.evaluation import metrics
from tf_audioset.runtime import gin_config, randomness

# Classes at each end of the table; augmented clips in a set of pictures.
_NUM_CLASSES = 10
_NUM_PICTURES = 4
# Labels under a picture; Mixup of two clips with many has more.
_NUM_LABELS = 6


def write_config(text: str) -> None:
  """Shows the operative config, as text and as hyperparameters."""
  from tensorboard.plugins.hparams import api  # Not needed to evaluate.

  tf.summary.text("config.gin", f"```\n{text}\n```")
  scalars = (bool, int, float, str)
  api.hparams(
    {
      key: value
      for key, value in gin_config.values(text).items()
      if isinstance(value, scalars)
    }
  )


def write_classes(
  result: metrics.Metrics,
  names: Sequence[str],
  before: np.ndarray | None = None,
) -> None:
  """Shows the classes with the highest and the lowest AP.

  Args:
    result: Of a validation.
    names: Of the classes.
    before: float64 [num_classes], their AP in the validation before.
  """
  ap = result.average_precision
  order = np.argsort(-ap, kind="stable")
  order = order[~np.isnan(ap[order])]
  parts = [f"{len(order)} of {len(ap)} classes have an AP."]
  if len(order) <= 2 * _NUM_CLASSES:
    ends = {"All of them": order}
  else:
    ends = {"Best": order[:_NUM_CLASSES], "Worst": order[-_NUM_CLASSES:]}
  for title, rows in ends.items():
    table = [("AP", "change", "AUC", "positive clips", "class")]
    for c in rows:
      change = "" if before is None else f"{ap[c] - before[c]:+.4f}"
      positives = result.num_positives[c]
      row = (f"{ap[c]:.4f}", change, f"{result.auc[c]:.4f}", str(positives))
      table.append((*row, _literal(names[c])))
    parts.append(f"**{title}**\n\n{_table(table, right=4)}")
  tf.summary.text("AP_by_class", "\n\n".join(parts))


@dataclasses.dataclass(frozen=True)
class Augmented:
  """Some clips as the network is trained on them.

  Attributes:
    ids: Empty where the records do not say.
    seconds: Length of a crop.
    features: float32 [num_clips, num_frames, num_bands].
    targets: float32 [num_clips, num_classes], the clips' own.
    mixed: float32 [num_clips, num_classes], after Mixup.
  """

  ids: Sequence[str]
  seconds: float
  features: np.ndarray
  targets: np.ndarray
  mixed: np.ndarray


def augment(
  tagger,
  pipeline,
  split: prepared.Split,
  *,
  batch_size: int,
  seed: int,
  step: int,
) -> Augmented:
  """Augments the first clips of a step's batch, as training would alone.

  No more than these are read.

  Args:
    tagger: `Tagger`.
    pipeline: `data.Pipeline`.
    split: What is trained on.
    batch_size: Of the run.
    seed: Of the run.
    step: Counted from 0.
  """
  few = math.gcd(_NUM_PICTURES, batch_size)
  # Batches of so few, of which one begins where the step's batch begins.
  first = step * batch_size // few
  batches = pipeline.training(
    split,
    num_classes=tagger.head.units,
    batch_size=few,
    seed=seed,
    first_step=first,
  )
  waveform, targets, *_ = next(iter(batches.take(1)))
  ids = pipeline.training_ids(split, batch_size=few, seed=seed, step=first)
  bits = randomness.bits([2], [seed, step])
  features, mixed = tagger.augmented(waveform, targets, bits)
  return Augmented(
    ids or [""] * few,
    waveform.shape[1] / records.SAMPLE_RATE_HZ,
    features.numpy(),
    targets.numpy(),
    mixed.numpy(),
  )


def write_pictures(augmented: Augmented, names: Sequence[str]) -> None:
  """Shows augmented clips: what the network gets, and whose sounds they are.

  Args:
    augmented: The clips.
    names: Of the classes.
  """
  table = [("picture", "clip", "labels", "as trained on")]
  captions = []
  for i, clip_id in enumerate(augmented.ids):
    own = _labels(augmented.targets[i], names)
    mixed = _labels(augmented.mixed[i], names)
    table.append((str(i + 1), *map(_literal, (clip_id or "?", own, mixed))))
    captions.append(f"{clip_id}: {own}" if clip_id else own)
    if mixed != own:
      captions[-1] += f"\nmixed with another: {mixed}"
  tf.summary.text("augmented", _table(table))
  # tf-models-official brings it along.
  if not importlib.util.find_spec("matplotlib"):
    return
  for i, caption in enumerate(captions):
    picture = _draw(augmented.features[i], augmented.seconds, caption)
    tf.summary.image(f"augmented/{i + 1}", picture[np.newaxis])


def _draw(features, seconds, caption) -> np.ndarray:
  """Features of a clip as a picture, uint8 [height, width, 3]."""
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(9, 3.6), dpi=100, layout="constrained")
  canvas = backend_agg.FigureCanvasAgg(figure)
  axes = figure.subplots()
  low, high = np.percentile(features, [1, 99])
  image = axes.imshow(
    features.T,
    aspect="auto",
    origin="lower",
    extent=[0, seconds, -0.5, features.shape[1] - 0.5],
    cmap="magma",
    vmin=low,
    vmax=high,
  )
  figure.colorbar(image, ax=axes, pad=0.01)
  axes.set(xlabel="seconds", ylabel="band")
  # What is between two $ would be a formula.
  axes.set_title(caption.replace("$", r"\$"), fontsize=11, loc="left")
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Of letters that the font does not have.
    canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _labels(targets, names) -> str:
  """Returns the names of the targets above 0, with shares other than 1."""
  order = np.argsort(-targets, kind="stable")
  order = order[targets[order] >= 0.005]  # Else it would be written as 0.00.
  words = [
    names[c] if targets[c] >= 0.995 else f"{names[c]} {targets[c]:.2f}"
    for c in order[:_NUM_LABELS]
  ]
  return ", ".join(words) + (" ..." if len(order) > _NUM_LABELS else "")


def _table(rows: Sequence[Sequence[str]], right: int = 0) -> str:
  """Formats a Markdown table; the first `right` columns are right-aligned."""
  rule = ["---:"] * right + ["---"] * (len(rows[0]) - right)
  head, *body = (f"| {' | '.join(row)} |" for row in (rows[0], *rows[1:]))
  return "\n".join([head, f"| {' | '.join(rule)} |", *body])


def _literal(text: str) -> str:
  """Escapes text that Markdown is to show as it is."""
  text = text.replace("&", "&amp;").replace("<", "&lt;")
  return re.sub(r"([\\`*_{}\[\]()#+.!|-])", r"\\\1", text)
