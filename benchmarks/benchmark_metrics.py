# SPDX-License-Identifier: Apache-2.0
"""Compares the speed and values of our metrics with scikit-learn's.

  python benchmarks/benchmark_metrics.py [--num_clips 17408 --num_classes 527]

Scores are random; each class has about as many positive clips as one of
AudioSet's evaluation set (59 to 5,695 of 20,371). scikit-learn is called as
audax does, class by class: average_precision_score, roc_auc_score,
precision_recall_curve, roc_curve. The two take turns, and the best time of
each counts. Neither uses a second core.
"""

from __future__ import annotations

import time

from absl import flags

from tf_audioset.runtime import cli

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_clips", 17408, "Rows.", lower_bound=2)
flags.DEFINE_integer("num_classes", 527, "Columns.", lower_bound=1)
flags.DEFINE_integer("num_rounds", 3, "Turns of each.", lower_bound=1)
flags.DEFINE_integer(
  "num_resamples", 1000, "Bootstrap resamples; 0: none.", lower_bound=0
)


def main() -> None:
  import numpy as np
  import sklearn.metrics

  from tf_audioset.evaluation import metrics

  shape = FLAGS.num_clips, FLAGS.num_classes
  rng = np.random.default_rng(0)
  # Few classes are common: 2.7 labels a clip, where AudioSet has 2.5.
  share = (59 + 5636 * np.linspace(0, 1, FLAGS.num_classes) ** 143) / 20371
  targets = rng.uniform(size=shape) < share
  targets[0], targets[1] = True, False  # scikit-learn needs both.
  scores = rng.normal(size=shape) + 2 * targets
  scores = scores.astype(np.float32)

  def by_scikit_learn():
    ap, auc = [], []
    for c in range(FLAGS.num_classes):
      of_class = targets[:, c], scores[:, c]
      ap.append(sklearn.metrics.average_precision_score(*of_class))
      auc.append(sklearn.metrics.roc_auc_score(*of_class))
      sklearn.metrics.precision_recall_curve(*of_class)
      sklearn.metrics.roc_curve(*of_class)
    return np.array([ap, auc])

  def by_ours():
    result = metrics.evaluate(scores, targets)
    return np.array([result.average_precision, result.auc])

  seconds = {by_scikit_learn: [], by_ours: []}
  values = {}
  for _ in range(FLAGS.num_rounds):
    for way, times in seconds.items():
      start = time.perf_counter()
      values[way] = way()
      times.append(time.perf_counter() - start)
  theirs, ours = (min(times) for times in seconds.values())
  difference = np.abs(values[by_ours] - values[by_scikit_learn]).max()
  print(
    f"{FLAGS.num_clips} clips x {FLAGS.num_classes} classes\n"
    f"scikit-learn, class by class  {theirs:8.3f} s\n"
    f"metrics.evaluate              {ours:8.3f} s\n"
    f"ratio                         {theirs / ours:8.1f}\n"
    f"largest difference            {difference:8.1e}"
  )
  if FLAGS.num_resamples:
    start = time.perf_counter()
    metrics.bootstrap(scores, targets, num_resamples=FLAGS.num_resamples)
    took = time.perf_counter() - start
    print(f"bootstrap, {FLAGS.num_resamples} resamples     {took:8.3f} s")


if __name__ == "__main__":
  cli.run(main, prog="benchmark_metrics")
