# SPDX-License-Identifier: Apache-2.0
"""Average precision, ROC AUC and d' of every class, in NumPy.

Their averages, and intervals by bootstrap over clips.
"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.special

from tf_audioset.runtime.errors import UserError


@dataclasses.dataclass(frozen=True)
class Metrics:
  """What `evaluate` measured; the arrays of classes are [num_classes].

  What `bootstrap` measured has [num_resamples] as first dimension of every
  array, and of every average.

  A class without a positive or without a negative clip has no AP or AUC: its
  values are nan, and the averages leave it out.

  Attributes:
    average_precision: float64 [num_classes].
    auc: float64 [num_classes], area under the ROC curve.
    num_positives: int64 [num_classes].
    num_clips: How many were scored.
    top1: The share of clips whose highest score is that of one of their
      labels: the accuracy, with one label a clip.
    is_single_label: Whether each clip has one label.
  """

  average_precision: np.ndarray
  auc: np.ndarray
  num_positives: np.ndarray
  num_clips: int
  top1: float | np.ndarray
  is_single_label: bool = False

  @property
  def dprime(self) -> np.ndarray:
    """Computes the sensitivity index sqrt(2) * Phi^-1(AUC)."""
    return dprime(self.auc)

  def averages(self, weights: np.ndarray | float = 1) -> dict[str, np.ndarray]:
    """Means over the classes that have AP and AUC.

    Args:
      weights: At least 0, [num_classes]. 1 for the macro average of every
        paper, `num_positives` for scikit-learn's average='weighted', 1 and 0
        for a group of classes.

    Returns:
      "mAP", "mAUC", "dprime" (of the mean AUC; the reference's and PANNs' way)
      and "dprime_class_mean" (of the classes' own, YAMNet's way, over those in
      which it is finite). nan where there is no class.
    """
    mean_auc = mean(self.auc, weights)
    return {
      "mAP": mean(self.average_precision, weights),
      "mAUC": mean_auc,
      "dprime": dprime(mean_auc),
      "dprime_class_mean": mean(self.dprime, weights),
    }

  def summary(self) -> dict[str, float | int]:
    """Returns the averages under the names by which they are reported.

    `averages`, `top1`, and the numbers of clips and classes behind them.
    """
    return {
      **{name: float(value) for name, value in self.averages().items()},
      "top1": self.top1,
      "num_clips": self.num_clips,
      "num_classes_scored": int((~np.isnan(self.auc)).sum()),
      "num_classes": len(self.auc),
    }


def evaluate(scores: np.ndarray, targets: np.ndarray) -> Metrics:
  """Scores every class of a multi-label problem.

  Args:
    scores: float [num_clips, num_classes]; only their order matters. In
      float32 a sigmoid ties what its logits do not: logits are better.
    targets: [num_clips, num_classes], positive where nonzero.

  Returns:
    The metrics.

  Raises:
    UserError: If the shapes differ, there is no clip, or a score is not
      finite.
  """
  scores, positive = _checked(scores, targets)
  average_precision, auc = np.full([2, scores.shape[1]], np.nan)
  for c, (falling, is_positive) in enumerate(_columns(scores, positive)):
    thresholds, hits = np.unique(falling[is_positive], return_counts=True)
    above, seen = _counts(falling, thresholds)
    average_precision[c], auc[c] = _areas(hits, above, seen, len(scores))
  return Metrics(
    average_precision,
    auc,
    positive.sum(axis=0),
    num_clips=len(scores),
    top1=float(_best_is_positive(scores, positive).mean()),
    is_single_label=bool((positive.sum(axis=1) == 1).all()),
  )


def bootstrap(
  scores: np.ndarray,
  targets: np.ndarray,
  *,
  num_resamples: int = 1000,
  seed: int = 0,
) -> Metrics:
  """Scores resamples of the clips: as many, drawn with replacement.

  The draws depend on the seed and the number of clips alone. Two systems with
  the same seed and the same clips in the same order are therefore paired: the
  differences of their metrics are those of the same resamples.

  Each class is sorted once; a resample is how often each clip was drawn. Takes
  8 bytes of memory times clips times resamples.

  Args:
    scores: As for `evaluate`.
    targets: As for `evaluate`.
    num_resamples: How many.
    seed: Of the draws.

  Returns:
    The metrics of each resample, [num_resamples, ...]. Within a resample, a
    class without a positive or a negative clip is nan.

  Raises:
    UserError: As for `evaluate`; if num_resamples is below 1.

  Reference: Efron and Tibshirani, An Introduction to the Bootstrap, 1993.
  """
  scores, positive = _checked(scores, targets)
  if num_resamples < 1:
    raise UserError(f"num_resamples is {num_resamples}; at least 1 is needed.")
  num_clips, num_classes = scores.shape
  rng = np.random.default_rng(seed)
  # float32 counts exactly up to 2^24 clips.
  times_drawn = np.empty([num_resamples, num_clips], np.float32)
  for row in times_drawn:
    drawn = rng.integers(num_clips, size=num_clips)
    row[:] = np.bincount(drawn, minlength=num_clips)
  times_drawn = np.ascontiguousarray(times_drawn.T)
  average_precision, auc = np.full([2, num_resamples, num_classes], np.nan)
  for c, (falling, is_positive) in enumerate(_columns(scores, positive)):
    order = np.argsort(falling)
    thresholds, hits = np.unique(falling[is_positive], return_counts=True)
    bounds = [
      np.searchsorted(falling, thresholds, side, sorter=order)
      for side in ("left", "right")
    ]
    seen = _sums(order, np.stack(bounds, axis=1).ravel(), times_drawn)
    seen = np.cumsum(seen, axis=0)
    positives = order[is_positive[order]]
    average_precision[:, c], auc[:, c] = _areas(
      _sums(positives, np.cumsum(hits), times_drawn),
      seen[::2],
      seen[1::2],
      num_clips,
    )
  num_positives = times_drawn.T @ positive.astype(np.float32)
  top1 = times_drawn.T @ _best_is_positive(scores, positive)
  return Metrics(
    average_precision,
    auc,
    num_positives.astype(np.int64),
    num_clips=num_clips,
    top1=top1.astype(np.float64) / num_clips,
  )


def interval(
  estimate: np.ndarray, resampled: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
  """Estimates the interval in which other clips' value is to be expected.

  The quantiles of the resamples, moved so that their mean is the estimate: a
  positive clip that is drawn twice ties with itself, which raises the mAP of
  most resamples above that of distinct clips.

  Args:
    estimate: float [...], of `evaluate`, or a difference of two.
    resampled: float [num_resamples, ...], of `bootstrap`, or a difference of
      two with the same seed. Those that are not finite are left out.
    level: Between 0 and 1, the share of cases in which it holds.

  Returns:
    float64 [...], lower and upper end; nan where nothing is finite.

  Raises:
    UserError: If the level is not between 0 and 1.
  """
  if not 0 < level < 1:
    raise UserError(f"level is {level}; allowed is between 0 and 1.")
  resampled = np.where(np.isfinite(resampled), resampled, np.nan)
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", RuntimeWarning)  # All nan is nan.
    shift = estimate - np.nanmean(resampled, axis=0)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.nanquantile(resampled, ends, axis=0) + shift
  return low, high


def best_thresholds(
  scores: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Finds the threshold of each class that gives the greatest F1.

  F1 on the clips a threshold was chosen on is too good for others.

  Args:
    scores: As for `evaluate`.
    targets: As for `evaluate`.

  Returns:
    float64 [num_classes]: thresholds, of which a score that is equal or higher
    is positive, the highest if several are best; and their F1. nan for a class
    without a positive clip.

  Raises:
    UserError: As for `evaluate`.
  """
  points = recall_points(scores, targets)
  thresholds, f1 = np.full([2, len(points)], np.nan)
  for c, (levels, hits, seen) in enumerate(points):
    # Below a positive clip's score and above the next, F1 only falls.
    if len(levels):
      f1_at = 2 * hits / (seen + hits[-1])
      best = f1_at.argmax()
      thresholds[c], f1[c] = levels[best], f1_at[best]
  return thresholds, f1


def recall_points(
  scores: np.ndarray, targets: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Finds the points of each precision-recall curve where recall rises.

  Args:
    scores: As for `evaluate`.
    targets: As for `evaluate`.

  Returns:
    For each class: thresholds, falling, the distinct scores of its positive
    clips; and int64, how many positive clips, and how many clips, have such a
    score or a higher one. All [num_points], empty without a positive clip.

  Raises:
    UserError: As for `evaluate`.
  """
  scores, positive = _checked(scores, targets)
  points = []
  for falling, is_positive in _columns(scores, positive):
    levels, hits = np.unique(falling[is_positive], return_counts=True)
    _, seen = _counts(falling, levels)
    points.append((-levels, np.cumsum(hits), seen))
  return points


def confusion(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Counts which class is taken for which.

  Args:
    scores: As for `evaluate`.
    targets: As for `evaluate`, one label a clip.

  Returns:
    int64 [num_classes, num_classes]: clips of the row's class whose highest
    score is the column's. Where scores tie, the first class has it.

  Raises:
    UserError: As for `evaluate`; if a clip has none or several labels.
  """
  scores, positive = _checked(scores, targets)
  if (positive.sum(axis=1) != 1).any():
    raise UserError("a confusion matrix needs one label a clip.")
  matrix = np.zeros([scores.shape[1]] * 2, np.int64)
  np.add.at(matrix, (positive.argmax(axis=1), scores.argmax(axis=1)), 1)
  return matrix


def top_k(scores: np.ndarray, targets: np.ndarray, k: int) -> float:
  """Computes the share of clips with a label among the k highest scores.

  Args:
    scores: As for `evaluate`.
    targets: As for `evaluate`.
    k: At least 1. Where scores tie, the first classes are the highest, as in
      `confusion`.

  Raises:
    UserError: As for `evaluate`.
  """
  scores, positive = _checked(scores, targets)
  of_labels = np.where(positive, scores, -np.inf)
  best = of_labels.argmax(axis=1)[:, np.newaxis]
  score = np.take_along_axis(scores, best, axis=1)
  is_before = np.arange(scores.shape[1]) < best
  above = ((scores > score) | ((scores == score) & is_before)).sum(axis=1)
  return float(((above < k) & positive.any(axis=1)).mean())


def calibration_error(
  probabilities: np.ndarray, targets: np.ndarray, num_bins: int = 15
) -> np.ndarray:
  """Computes the expected calibration error (ECE).

  Args:
    probabilities: float [num_clips, num_classes], 0 to 1.
    targets: [num_clips, num_classes], positive where nonzero.
    num_bins: Of equal width.

  Returns:
    float64 [num_classes]: the mean over clips of the distance between the mean
    probability of a clip's bin and the share of positive clips in it.

  Raises:
    UserError: As for `evaluate`; if a probability is not between 0 and 1.

  Reference: Guo et al., On Calibration of Modern Neural Networks, 2017; one
  class at a time.
  """
  count, total, hits = calibration_bins(probabilities, targets, num_bins)
  return np.abs(total - hits).sum(axis=1) / count.sum(axis=1)


def calibration_bins(
  probabilities: np.ndarray, targets: np.ndarray, num_bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Sorts each class's clips into bins of their probability.

  Args:
    probabilities: float [num_clips, num_classes], 0 to 1.
    targets: [num_clips, num_classes], positive where nonzero.
    num_bins: Of equal width.

  Returns:
    float64 [num_classes, num_bins] each: the number of clips, the sum of their
    probabilities, the number of positive clips.

  Raises:
    UserError: As for `evaluate`; if a probability is not between 0 and 1.
  """
  probabilities, positive = _checked(probabilities, targets)
  if probabilities.min() < 0 or probabilities.max() > 1:
    raise UserError(
      f"probabilities from {probabilities.min()} to {probabilities.max()}: "
      "allowed is 0 to 1."
    )
  bins = np.minimum((probabilities * num_bins).astype(int), num_bins - 1)

  def sums(values):
    return np.array(
      [
        np.bincount(of_class, weights, num_bins)
        for of_class, weights in zip(bins.T, values.T)
      ]
    )

  ones = np.broadcast_to(1.0, bins.shape)
  return sums(ones), sums(probabilities.astype(np.float64)), sums(positive)


def dprime(auc: npt.ArrayLike) -> np.ndarray:
  """Computes the d' of each class, float64 [num_classes]."""
  return np.sqrt(2.0) * scipy.special.ndtri(auc)


def _checked(scores, targets) -> tuple[np.ndarray, np.ndarray]:
  """Returns the checked scores, and where the targets are positive."""
  scores = np.asarray(scores)
  if scores.dtype.kind != "f":
    scores = scores.astype(np.float64)  # Unsigned integers have no negative.
  positive = np.asarray(targets) != 0
  if scores.shape != positive.shape or scores.ndim != 2 or not len(scores):
    raise UserError(
      f"scores of shape {scores.shape} and targets of shape {positive.shape}: "
      "both must be the same [num_clips, num_classes], with a clip at least."
    )
  if not np.isfinite(scores).all():
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    raise UserError(f"{bad} of {len(scores)} clips have a non-finite score.")
  return scores, positive


def _columns(scores, positive):
  """Yields each class's scores times -1 (the best is least), and positives.

  In memory of their own: a column of a matrix is slow to sort.
  """
  return zip(np.ascontiguousarray(-scores.T), np.ascontiguousarray(positive.T))


def _best_is_positive(scores, positive) -> np.ndarray:
  return positive[np.arange(len(scores)), scores.argmax(axis=1)]


def _counts(falling, thresholds):
  """Counts the values of `falling` below each threshold, and not above it.

  Positive clips are few: it is quicker to find every clip's place among them
  than to sort the clips.

  Args:
    falling: [num_clips].
    thresholds: [num_thresholds], rising.

  Returns:
    int64 [num_thresholds] twice.
  """
  end = len(thresholds)
  place = np.searchsorted(thresholds, falling)
  not_above = np.cumsum(np.bincount(place, minlength=end + 1))[:end]
  ties = np.append(thresholds, np.inf)[place] == falling
  equal = np.bincount(place[ties], minlength=end + 1)[:end]
  return not_above - equal, not_above


def _sums(clips, ends, times_drawn) -> np.ndarray:
  """Sums `times_drawn[clips]` from each of the `ends` to the next.

  Args:
    clips: int [n], numbers of clips.
    ends: int [num_sums], rising; the first sum begins at 0.
    times_drawn: float32 [num_clips, num_resamples].

  Returns:
    float32 [num_sums, num_resamples].
  """
  # The product with a matrix of ones and zeros; np.add.reduceat is slower.
  ends = np.append(0, ends)
  ones = np.ones(ends[-1], np.float32)
  shape = len(ends) - 1, len(times_drawn)
  return scipy.sparse.csr_matrix((ones, clips[: ends[-1]], ends), shape) @ (
    times_drawn
  )


def _areas(hits, above, seen, num_clips):
  """Computes AP and AUC of a class from its ranking.

  A threshold is a score of a positive clip; the highest comes first, and equal
  ones are one. AP is the sum over thresholds of the step in recall times the
  precision: scikit-learn's `average_precision_score`, as every AudioSet paper
  has it. AUC is Mann and Whitney's U over its greatest value: a tie counts
  half.

  Args:
    hits: [num_thresholds, ...], positive clips whose score is the threshold.
    above: [num_thresholds, ...], clips that score higher.
    seen: [num_thresholds, ...], clips that score higher or equal.
    num_clips: Of the class.

  Returns:
    float64 [...], AP and AUC; nan without a positive or a negative clip.
  """
  hits = hits.astype(np.float64)
  hits_seen = np.cumsum(hits, axis=0)
  num_positives = hits.sum(axis=0)
  num_negatives = num_clips - num_positives
  precision = hits_seen / np.maximum(seen, 1)
  # Negative clips above the threshold, plus half of those that tie.
  false = (above - hits_seen + seen - hits_seen + hits) / 2
  with np.errstate(invalid="ignore", divide="ignore"):
    ap = (hits * precision).sum(axis=0) / num_positives
    auc = 1 - (hits * false).sum(axis=0) / (num_positives * num_negatives)
  scored = (num_positives > 0) & (num_negatives > 0)
  return np.where(scored, ap, np.nan), np.where(scored, auc, np.nan)


def mean(values: np.ndarray, weights: np.ndarray | float = 1.0) -> np.ndarray:
  """Averages what is finite over the last dimension.

  Args:
    values: float [..., n].
    weights: That of each value, which `values` can be multiplied by.

  Returns:
    float64 [...]; nan where nothing is finite or has a weight.
  """
  weights = np.where(np.isfinite(values), weights, 0)
  total = weights.sum(axis=-1)
  with np.errstate(invalid="ignore"):
    weighted = np.where(weights > 0, values, 0) * weights
    return weighted.sum(axis=-1) / total
