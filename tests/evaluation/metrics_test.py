# SPDX-License-Identifier: Apache-2.0
"""AP, AUC, resamples against scikit-learn, d' against the standard library."""

import math
import statistics

import numpy as np
import pytest
import sklearn.metrics

from tf_audioset.evaluation import metrics


def _problem(kind):
  rng = np.random.default_rng(7)
  targets = rng.uniform(size=(300, 6)) < [0.5, 0.1, 0.02, 0.3, 0.9, 0.05]
  targets[0], targets[1] = True, False
  scores = rng.normal(size=targets.shape) + targets
  if kind == "ties":
    scores = np.round(scores)
  if kind == "constant":
    scores = np.zeros_like(scores)
  if kind == "float32":
    scores = (1 / (1 + np.exp(-9 * scores))).astype(np.float32)
  if kind == "integers":
    scores = np.round(scores - scores.min()).astype(np.uint8)
  if kind == "one positive":
    targets[:] = False
    targets[range(6), range(6)] = True
  return scores, targets


@pytest.mark.parametrize(
  "kind",
  ["distinct", "ties", "constant", "float32", "integers", "one positive"],
)
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


def test_weighted_averages_are_scikit_learns():
  scores, targets = _problem("ties")
  result = metrics.evaluate(scores, targets)
  averages = result.averages(result.num_positives)
  assert averages["mAP"] == pytest.approx(
    sklearn.metrics.average_precision_score(targets, scores, average="weighted")
  )
  assert averages["mAUC"] == pytest.approx(
    sklearn.metrics.roc_auc_score(targets, scores, average="weighted")
  )
  # Zeros and ones are a group; without any there is no average.
  group = result.averages(np.array([0, 1, 0, 0, 1, 0]))
  expected = sklearn.metrics.average_precision_score(
    targets[:, [1, 4]], scores[:, [1, 4]]
  )
  assert group["mAP"] == pytest.approx(expected)
  assert math.isnan(result.averages(np.zeros(6))["mAP"])


def test_both_conventions_of_dprime():
  scores, targets = _problem("distinct")
  auc = sklearn.metrics.roc_auc_score(targets, scores, average=None)
  quantile = statistics.NormalDist().inv_cdf
  averages = metrics.evaluate(scores, targets).averages()
  assert averages["dprime"] == pytest.approx(
    math.sqrt(2) * quantile(auc.mean())
  )
  assert averages["dprime_class_mean"] == pytest.approx(
    math.sqrt(2) * np.mean([quantile(x) for x in auc])
  )


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


def test_one_label_a_clip_is_judged_as_scikit_learn_judges_it():
  rng = np.random.default_rng(0)
  scores, labels = rng.normal(size=(200, 5)), rng.integers(5, size=200)
  targets = np.eye(5)[labels]
  np.testing.assert_array_equal(
    metrics.confusion(scores, targets),
    sklearn.metrics.confusion_matrix(labels, scores.argmax(axis=1)),
  )
  for k in (1, 3, 5):
    assert metrics.top_k(scores, targets, k) == pytest.approx(
      1.0
      if k == 5
      else sklearn.metrics.top_k_accuracy_score(labels, scores, k=k)
    )
  assert metrics.evaluate(scores, targets).is_single_label
  for row in ([1, 1, 0, 0, 0], [0] * 5):
    other = np.concatenate([targets[1:], [row]])
    assert not metrics.evaluate(scores, other).is_single_label
    with pytest.raises(ValueError, match="one label a clip"):
      metrics.confusion(scores, other)
  # A clip without a label is among no classes.
  assert metrics.top_k(scores, other, 5) == 199 / 200


def test_of_equal_scores_the_first_classes_are_on_top():
  rng = np.random.default_rng(0)
  scores = rng.integers(3, size=(200, 10)).astype(float)
  targets = rng.uniform(size=scores.shape) < 0.2
  order = np.argsort(-scores, axis=1, kind="stable")
  for k in (1, 3, 5):
    found = np.take_along_axis(targets, order[:, :k], axis=1).any(axis=1)
    assert metrics.top_k(scores, targets, k) == pytest.approx(found.mean())


def test_top1_is_scikit_learns_accuracy_with_one_label_a_clip():
  rng = np.random.default_rng(0)
  scores, labels = rng.normal(size=(200, 5)), rng.integers(5, size=200)
  expected = sklearn.metrics.accuracy_score(labels, scores.argmax(axis=1))
  actual = metrics.evaluate(scores, np.eye(5)[labels]).summary()["top1"]
  assert actual == pytest.approx(expected)


def _averages_by_repeating_rows(scores, targets, num_resamples, seed):
  """The bootstrap as it is defined: scikit-learn on the rows drawn."""
  rng = np.random.default_rng(seed)
  averages = []
  for _ in range(num_resamples):
    rows = rng.integers(len(scores), size=len(scores))
    drawn = targets[rows]
    scored = drawn.any(axis=0) & ~drawn.all(axis=0)
    arguments = drawn[:, scored], scores[rows][:, scored]
    averages.append(
      [
        sklearn.metrics.average_precision_score(*arguments),
        sklearn.metrics.roc_auc_score(*arguments),
        sklearn.metrics.average_precision_score(*arguments, average="weighted"),
        drawn[range(len(rows)), scores[rows].argmax(axis=1)].mean(),
      ]
    )
  return np.array(averages)


@pytest.mark.parametrize("kind", ["distinct", "ties", "float32", "constant"])
def test_bootstrap_equals_repeated_rows(kind):
  scores, targets = _problem(kind)
  targets[:, 5] = False
  targets[:2, 5] = True  # In one resample of seven none of the two is drawn.
  targets[:, 0] = False
  result = metrics.bootstrap(scores, targets, num_resamples=20, seed=3)
  assert np.isnan(result.auc[:, 5]).any() and np.isnan(result.auc[:, 0]).all()
  averages = result.averages()
  weighted = result.averages(result.num_positives)
  actual = [averages["mAP"], averages["mAUC"], weighted["mAP"], result.top1]
  expected = _averages_by_repeating_rows(scores, targets, 20, seed=3)
  np.testing.assert_allclose(np.stack(actual, axis=1), expected, atol=1e-9)


def test_two_systems_with_one_seed_are_paired():
  scores, targets = _problem("distinct")
  other = scores + np.random.default_rng(1).normal(size=scores.shape)
  actual = [
    metrics.bootstrap(x, targets, num_resamples=20, seed=5).averages()["mAP"]
    for x in (scores, other)
  ]
  expected = [
    _averages_by_repeating_rows(x, targets, 20, seed=5)[:, 0]
    for x in (scores, other)
  ]
  np.testing.assert_allclose(
    actual[1] - actual[0], expected[1] - expected[0], atol=1e-9
  )
  assert len(set(actual[0])) == 20
  again = metrics.bootstrap(scores, targets, num_resamples=20, seed=6)
  assert (again.averages()["mAP"] != actual[0]).all()


def test_the_interval_holds_as_often_as_it_says():
  """Of 200 evaluation sets, about 95 % have the mean of all in theirs."""
  rng = np.random.default_rng(0)

  def draw():
    targets = rng.uniform(size=(200, 8)) < np.geomspace(0.05, 0.3, 8)
    return rng.normal(size=targets.shape) + 2 * targets, targets

  def measured(problem):
    averages = metrics.evaluate(*problem).averages()
    return np.array([averages["mAP"], averages["mAUC"]])

  truth = np.mean([measured(draw()) for _ in range(1000)], axis=0)
  num_held = np.zeros(2)
  for seed in range(200):
    problem = draw()
    averages = metrics.bootstrap(
      *problem, num_resamples=200, seed=seed
    ).averages()
    low, high = metrics.interval(
      measured(problem), np.stack([averages["mAP"], averages["mAUC"]], axis=1)
    )
    num_held += (low <= truth) & (truth <= high)
  # 190 +- 3.1 would be exact; small sets have intervals a little too narrow.
  assert (180 <= num_held).all() and (num_held <= 199).all()


def test_the_interval_is_of_quantiles_about_the_estimate():
  resampled = np.append(np.arange(101.0), [np.nan, np.inf])
  low, high = metrics.interval(7.0, resampled, level=0.9)
  assert (low, high) == pytest.approx((7 - 45, 7 + 45))
  assert np.isnan(metrics.interval(np.nan, np.full([4], np.nan))).all()
  with pytest.raises(ValueError, match="level is 95"):
    metrics.interval(7.0, resampled, level=95)


def test_no_resamples_are_refused():
  with pytest.raises(ValueError, match="num_resamples is 0"):
    metrics.bootstrap(np.zeros([2, 2]), np.zeros([2, 2]), num_resamples=0)


@pytest.mark.parametrize("kind", ["distinct", "ties", "constant", "float32"])
def test_no_threshold_has_a_greater_f1(kind):
  scores, targets = _problem(kind)
  targets[:, 0] = False
  thresholds, f1 = metrics.best_thresholds(scores, targets)
  assert math.isnan(thresholds[0]) and math.isnan(f1[0])
  for c in range(1, 6):
    best = max(
      (sklearn.metrics.f1_score(targets[:, c], scores[:, c] >= level), level)
      for level in np.unique(scores[:, c])
    )
    assert (f1[c], thresholds[c]) == pytest.approx(best)


def test_calibration_error_of_bins_by_hand():
  rng = np.random.default_rng(4)
  probabilities = rng.uniform(size=(500, 2)) ** 2
  probabilities[:2] = [[0, 1], [1, 0]]
  targets = rng.uniform(size=(500, 2)) < probabilities**2
  expected = np.zeros(2)
  for c in range(2):
    for i in range(10):
      p = probabilities[:, c]
      inside = (i / 10 <= p) & ((p < (i + 1) / 10) | (i == 9))
      if inside.any():
        distance = abs(p[inside].mean() - targets[inside, c].mean())
        expected[c] += inside.mean() * distance
  actual = metrics.calibration_error(probabilities, targets, num_bins=10)
  np.testing.assert_allclose(actual, expected)
  with pytest.raises(ValueError, match="to 3.*: allowed is 0 to 1"):
    metrics.calibration_error(3 * np.ones([2, 2]), np.ones([2, 2]))
