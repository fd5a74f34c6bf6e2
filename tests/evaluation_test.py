# SPDX-License-Identifier: Apache-2.0
"""Every clip is scored once, whatever the batch and the replicas."""

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tests import toy
from tf_audioset import data, evaluation, features, losses, records, tagger


@pytest.fixture(name="split", scope="module")
def _split(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  toy.write_dataset(folder)
  return records.find_split(str(folder), "train")  # 24 clips.


def _evaluator(split, strategy, batch_size):
  with strategy.scope():
    tf.keras.utils.set_random_seed(3)
    model = tagger.Tagger(
      3,
      frontend=features.LogMel(),
      backbone=toy.MeanBackbone(),
      loss=losses.MultiLabel(),
    )
    model(tf.zeros([1, 8000]))
  return model, evaluation.Evaluator(
    strategy,
    model,
    data.Pipeline(crop_seconds=0.5),
    split,
    num_classes=3,
    batch_size=batch_size,
  )


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("batch_size", [2, 8, 14, 60])
def test_the_metrics_are_scikit_learns_over_every_clip_once(
  split, replicas, batch_size
):
  strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
  if replicas == 2:
    strategy = toy.two_replicas()
  model, evaluator = _evaluator(split, strategy, batch_size)
  seen = []
  result = evaluator.evaluate(lambda done, total: seen.append((done, total)))
  assert result.num_clips == 24
  assert seen[-1] == (24, 24) and len(seen) == -(-24 // batch_size)
  clips = [toy.clip(i, 16000) for i in range(24)]
  middles = np.stack([samples[4000:12000] for samples, _ in clips])
  targets = np.zeros([24, 3])
  for row, (_, present) in zip(targets, clips):
    row[present] = 1
  assert list(result.num_positives) == list(targets.sum(axis=0))
  logits = model(tf.constant(middles)).numpy()
  np.testing.assert_allclose(
    result.average_precision,
    sklearn.metrics.average_precision_score(targets, logits, average=None),
    atol=1e-6,
  )
  np.testing.assert_allclose(
    result.auc,
    sklearn.metrics.roc_auc_score(targets, logits, average=None),
    atol=1e-6,
  )


def test_clips_that_are_not_in_the_shards_are_told(split, monkeypatch):
  """Their rows come as fill, as after a shard that changed under the run."""
  one = tf.distribute.OneDeviceStrategy("/cpu:0")
  centre_crops = data.Pipeline.centre_crops

  def some(*args, **kwargs):
    return centre_crops(*args, **kwargs).take(2)

  monkeypatch.setattr(data.Pipeline, "centre_crops", some)
  _, evaluator = _evaluator(split, one, 8)
  with pytest.raises(ValueError, match="8 of 24 clips"):
    evaluator.evaluate(lambda done, total: None)
