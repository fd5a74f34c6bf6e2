# SPDX-License-Identifier: Apache-2.0
"""Shows how often an experiment draws each class, for inspect_records."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tf_audioset import experiment as experiment_lib
from tf_audioset.runtime import columns, gin_config
from tf_audioset.runtime.errors import UserError
from tf_audioset.training import run_data


def show(
  data_dir: str,
  gin_files: Sequence[str],
  bindings: Sequence[str],
  picture: str,
) -> None:
  """Prints and draws natural against drawn frequencies of the classes.

  Args:
    data_dir: Prepared data.
    gin_files: The experiment, as of a training run.
    bindings: Lines of gin, too.
    picture: Path of the PNG.

  Raises:
    UserError: If the experiment has no sampler, or it cannot sample this data.
  """
  gin_config.load(gin_files, bindings)
  experiment = experiment_lib.Experiment()
  sampler = experiment.pipeline.sampler
  if not hasattr(sampler, "draws"):
    raise UserError(
      "--sampling: this experiment draws every clip alike, as it has no "
      "Pipeline.sampler that balances: bind Pipeline.sampler = "
      "@BalancedSampler()."
    )
  split = run_data.choose(
    data_dir,
    training_split=experiment.training_split,
    validation_split=experiment.validation_split,
    holdout_percent=experiment.holdout_percent,
    training_percent=experiment.training_percent,
  ).training
  draws = sampler.draws(split)
  names = split.classes.names
  counts = split.clips().count_positives(len(names))
  natural = counts / split.num_clips
  drawn = draws.of_classes(len(names))
  epoch = experiment.epoch_clips or split.num_clips
  repeats = np.divide(epoch * drawn, counts, where=counts > 0, out=0 * drawn)
  rows = [["class", "clips", "natural %", "drawn %", "a clip in an epoch"]]
  for i in np.argsort(-counts, kind="stable"):
    rows.append(
      [
        names[i],
        f"{counts[i]:,}",
        f"{100 * natural[i]:.3f}",
        f"{100 * drawn[i]:.3f}",
        f"{repeats[i]:.2f}",
      ]
    )
  print(f"{data_dir}: {split.num_clips:,} clips, {epoch:,} draws an epoch")
  for line in sampler.remarks(split):
    print(line)
  print()
  print(columns.columns(rows, 1))
  _draw(natural, drawn, picture)
  print(f"wrote {picture}")


def _draw(natural: np.ndarray, drawn: np.ndarray, path: str) -> None:
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  order = np.argsort(-natural, kind="stable")
  figure, axes = pyplot.subplots(figsize=(10, 5), layout="constrained")
  # A logarithm has no place for a class that is never drawn.
  for values, label in ((natural, "natural"), (drawn, "drawn")):
    shown = np.where(values[order] > 0, 100 * values[order], np.nan)
    axes.plot(shown, ".", label=label)
  axes.set(
    xlabel="class, by its number of clips",
    ylabel="% of the clips",
    yscale="log",
  )
  axes.grid(alpha=0.3)
  axes.legend()
  figure.savefig(path, dpi=100)
