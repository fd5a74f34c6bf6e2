# SPDX-License-Identifier: Apache-2.0
"""AP and AUC against scikit-learn, d' against the standard library."""

import math
import statistics

import numpy as np
import pytest
import sklearn.metrics

from tf_audioset import metrics


def _problem(kind):
  rng = np.random.default_rng(7)
  targets = rng.uniform(size=(300, 6)) < [0.5, 0.1, 0.02, 0.3, 0.9, 0.05]
  targets[0], targets[1] = True, False
  scores = rng.normal(size=targets.shape) + targets
  if kind == "ties":
    scores = np.round(scores)
  if kind == "constant":
    scores = np.zeros_like(scores)
  return scores, targets


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant"])
def test_equals_scikit_learn(kind):
  scores, targets = _problem(kind)
  result = metrics.evaluate(scores, targets)
  for c in range(targets.shape[1]):
    expected_ap = sklearn.metrics.average_precision_score(
      targets[:, c], scores[:, c]
    )
    expected_auc = sklearn.metrics.roc_auc_score(targets[:, c], scores[:, c])
    assert result.average_precision[c] == pytest.approx(expected_ap, abs=1e-12)
    assert result.auc[c] == pytest.approx(expected_auc, abs=1e-12)


def test_dprime_is_the_normal_quantile_of_the_auc():
  quantile = statistics.NormalDist().inv_cdf
  for auc in (0.3, 0.5, 0.9693, 0.999):
    expected = math.sqrt(2) * quantile(auc)
    assert metrics.dprime(auc) == pytest.approx(expected, abs=1e-9)


def test_the_references_dprime_follows_from_its_auc():
  # Published: mAUC 0.9693 and d' 2.6472 (ResNet18), 0.9733 and 2.7317.
  assert metrics.dprime(0.9693) == pytest.approx(2.6472, abs=2e-3)
  assert metrics.dprime(0.9733) == pytest.approx(2.7317, abs=2e-3)


def test_a_class_without_positives_or_negatives_is_left_out():
  scores, targets = _problem("distinct")
  targets[:, 0], targets[:, 1] = False, True
  summary = metrics.evaluate(scores, targets).summary()
  assert summary["num_classes"] == 6
  assert summary["num_classes_scored"] == 4
  expected = np.mean(
    sklearn.metrics.average_precision_score(
      targets[:, 2:], scores[:, 2:], average=None
    )
  )
  assert summary["mAP"] == pytest.approx(expected, abs=1e-12)


def test_nothing_to_score_is_nan():
  assert math.isnan(
    metrics.evaluate(np.zeros([2, 3]), np.zeros([2, 3])).summary()["mAP"]
  )


def test_a_perfect_class_does_not_make_the_mean_dprime_infinite():
  targets = np.array([[1, 1], [0, 1], [0, 0], [1, 0]])
  scores = np.array([[0.9, 0.2], [0.1, 0.9], [0.2, 0.3], [0.8, 0.1]])
  summary = metrics.evaluate(scores, targets).summary()
  assert math.isfinite(summary["dprime_class_mean"])


@pytest.mark.parametrize(
  ("scores", "message"),
  [
    (np.zeros([2, 2]), "shape"),
    (np.full([3, 2], np.nan), "3 of 3 clips"),
  ],
)
def test_bad_scores_are_refused(scores, message):
  with pytest.raises(ValueError, match=message):
    metrics.evaluate(scores, np.zeros([3, 2]))


def test_top1_is_scikit_learns_accuracy_with_one_label_a_clip():
  rng = np.random.default_rng(0)
  scores, labels = rng.normal(size=(200, 5)), rng.integers(5, size=200)
  expected = sklearn.metrics.accuracy_score(labels, scores.argmax(axis=1))
  actual = metrics.evaluate(scores, np.eye(5)[labels]).summary()["top1"]
  assert actual == pytest.approx(expected)
