# SPDX-License-Identifier: Apache-2.0
"""Averages, intervals and differences against scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics

from tf_audioset.evaluation import judging, metrics


def _problem():
  rng = np.random.default_rng(2)
  targets = rng.uniform(size=(400, 5)) < [0.5, 0.1, 0.05, 0.3, 0.2]
  good = rng.normal(size=targets.shape) + 2 * targets
  bad = good + 2 * rng.normal(size=targets.shape)
  return targets, good, bad


def _ap(targets, scores):
  return sklearn.metrics.average_precision_score(targets, scores, average=None)


def test_one_label_a_clip_has_an_accuracy():
  rng = np.random.default_rng(0)
  # The last class has no clip.
  scores, labels = rng.normal(size=(200, 6)), rng.integers(5, size=200)
  scores[np.arange(200), labels] += 1
  judgement = judging.Judgement(scores, np.eye(6)[labels], num_resamples=20)
  summary = judgement.summary({})
  chosen = scores.argmax(axis=1)
  classes = range(6)
  assert summary["top1"] == sklearn.metrics.accuracy_score(labels, chosen)
  assert summary["recall"] == pytest.approx(
    sklearn.metrics.recall_score(
      labels, chosen, labels=range(5), average="macro"
    )
  )
  for k in (3, 5):
    assert summary[f"top{k}"] == pytest.approx(
      sklearn.metrics.top_k_accuracy_score(labels, scores, k=k, labels=classes)
    )
  np.testing.assert_array_equal(
    judgement.confusion,
    sklearn.metrics.confusion_matrix(labels, chosen, labels=classes),
  )
  several = judging.Judgement(*_problem()[1::-1], num_resamples=20)
  assert several.confusion is None and "recall" not in several.summary({})


def test_the_summary_has_every_average_within_its_interval():
  targets, good, _ = _problem()
  judgement = judging.Judgement(good, targets, num_resamples=200)
  summary = judgement.summary({"Animal": [1, 3], "Music": [4]})
  ap = _ap(targets, good)
  assert summary["mAP"] == pytest.approx(ap.mean())
  weighted = np.average(ap, weights=targets.sum(axis=0))
  assert summary["positive_weighted"]["mAP"] == pytest.approx(weighted)
  branches = summary["branches"]
  assert branches["Animal"]["mAP"] == pytest.approx(ap[[1, 3]].mean())
  assert branches["Animal"]["num_classes"] == 2
  assert branches["Music"]["mAP"] == pytest.approx(ap[4])
  for part in (summary, summary["positive_weighted"], *branches.values()):
    assert {"mAP", "mAUC", "dprime", "dprime_class_mean"} <= set(part)
    for name, (low, high) in part["intervals"].items():
      assert low < part[name] < high
  columns = judgement.per_class()
  np.testing.assert_allclose(columns["ap"], ap)
  assert (columns["ap_low"] < ap).all() and (ap < columns["ap_high"]).all()


def test_classes_without_clips_have_no_calibration_error():
  targets, scores, _ = _problem()
  scores = 1 / (1 + np.exp(-scores))
  few = judging.Judgement(scores, targets, num_resamples=20)
  more = judging.Judgement(
    np.pad(scores, [(0, 0), (0, 50)]),
    np.pad(targets, [(0, 0), (0, 50)]),
    num_resamples=20,
  )
  ece = few.summary({})["ece"]
  assert more.summary({})["ece"] == pytest.approx(ece) and ece > 0.1


def test_the_mean_dprimes_are_of_the_same_classes():
  """Better in one class and equal in the other is not worse."""
  rng = np.random.default_rng(0)
  targets = np.eye(2)[np.repeat([0, 1], 20)]
  bad = rng.normal(size=targets.shape) + targets
  good = bad.copy()
  good[:, 0] = targets[:, 0]  # Perfect: its d' is infinite.
  difference, _ = judging.Judgement(good, targets, num_resamples=20).minus(
    judging.Judgement(bad, targets, num_resamples=20)
  )
  assert difference["mAUC"] > 0
  assert difference["dprime_class_mean"] == 0
  assert difference["intervals"]["dprime_class_mean"] == [0, 0]


def test_a_share_is_at_most_1():
  labels = np.arange(30) % 3
  scores = np.eye(3)[labels]
  scores[0] = [0, 1, 0]
  judgement = judging.Judgement(scores, np.eye(3)[labels], num_resamples=200)
  low, high = judgement.summary({})["intervals"]["top1"]
  assert 0.8 < low < 29 / 30 < high <= 1


def test_a_difference_is_paired():
  targets, good, bad = _problem()
  mine, other = (
    judging.Judgement(scores, targets, num_resamples=200)
    for scores in (good, bad)
  )
  difference, columns = mine.minus(other)
  expected = _ap(targets, good) - _ap(targets, bad)
  np.testing.assert_allclose(columns["ap_difference"], expected)
  np.testing.assert_allclose(columns["other_ap"], _ap(targets, bad))
  assert difference["mAP"] == pytest.approx(expected.mean())
  low, high = difference["intervals"]["mAP"]
  assert 0 < low < difference["mAP"] < high

  # Scores that are nearly the same differ by far less than either varies.
  noise = np.random.default_rng(3).normal(size=good.shape)
  near = judging.Judgement(good + 0.01 * noise, targets, num_resamples=200)
  low, high = mine.minus(near)[0]["intervals"]["mAP"]
  alone_low, alone_high = mine.averages()["intervals"]["mAP"]
  assert high - low < (alone_high - alone_low) / 10

  difference, columns = mine.minus(mine)
  assert difference["intervals"]["mAP"] == [0, 0]
  assert not columns["ap_difference"].any()


def test_calibration_is_that_of_probabilities():
  targets, good, _ = _problem()
  probabilities = 1 / (1 + np.exp(-good))
  judgement = judging.Judgement(probabilities, targets, num_resamples=2)
  ece = metrics.calibration_error(probabilities, targets)
  np.testing.assert_array_equal(judgement.per_class()["ece"], ece)
  assert judgement.summary({})["ece"] == pytest.approx(ece.mean())
  judgement = judging.Judgement(good, targets, num_resamples=2)
  assert np.isnan(judgement.summary({})["ece"])
