# SPDX-License-Identifier: Apache-2.0
"""A model and a split to scores, and to metrics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_audioset import metrics


class Evaluator:
  """Scores every clip of a split once, on all replicas, while training."""

  def __init__(
    self, strategy, tagger, pipeline, split, *, num_classes, batch_size
  ):
    """Distributes the centre crops of `split`.

    Args:
      strategy: Where the replicas are.
      tagger: A `Tagger` created in the strategy's scope.
      pipeline: `data.Pipeline`.
      split: `records.Split`.
      num_classes: Width of the targets.
      batch_size: Global.
    """
    self._strategy = strategy
    self._tagger = tagger
    self._shape = (split.num_clips, num_classes)
    self._batches = strategy.distribute_datasets_from_function(
      lambda context: pipeline.centre_crops(
        split, num_classes=num_classes, batch_size=batch_size, context=context
      )
    )

  def evaluate(self, progress: Callable[[int, int], None]) -> metrics.Metrics:
    """Runs the model over the split.

    Args:
      progress: Called after each batch: clips scored, clips in all.

    Returns:
      The metrics of the logarithms of its scores, which tie less often than
      the scores.

    Raises:
      ValueError: If the split's files hold another number of clips than its
        description says.
    """
    scores = np.zeros(self._shape, np.float32)
    targets = np.zeros(self._shape, np.float32)
    times_seen = np.zeros(self._shape[0], np.int64)
    for batch in self._batches:
      index, batch_scores, batch_targets = (
        self._strategy.gather(x, axis=0).numpy() for x in self._score(batch)
      )
      real = (0 <= index) & (index < self._shape[0])
      index = index[real]
      scores[index] = batch_scores[real]
      targets[index] = batch_targets[real]
      times_seen[index] += 1
      progress(int(times_seen.sum()), len(times_seen))
    if not (times_seen == 1).all():
      raise ValueError(
        f"{(times_seen == 0).sum()} of {self._shape[0]} clips of the "
        "evaluation split were not found in its shards: prepare it again."
      )
    return metrics.evaluate(scores, targets)

  @tf.function
  def _score(self, batch):
    def replica(index, waveform, targets):
      logits = self._tagger(waveform)
      return index, self._tagger.loss_function.log_scores(logits), targets

    return self._strategy.run(replica, args=batch)
