# SPDX-License-Identifier: Apache-2.0
"""Average precision, ROC AUC and d' of every class, in NumPy."""

from __future__ import annotations

import dataclasses

import numpy as np
import scipy.special
import scipy.stats


@dataclasses.dataclass(frozen=True)
class Metrics:
  """What `evaluate` measured; the per-class arrays are float64 [num_classes].

  A class without a positive or without a negative clip has no AP or AUC: its
  values are nan, and the averages leave it out.
  """

  average_precision: np.ndarray
  auc: np.ndarray
  num_positives: np.ndarray
  num_clips: int
  top1: float

  @property
  def dprime(self) -> np.ndarray:
    """float64 [num_classes], sqrt(2) times the normal quantile of the AUC."""
    return dprime(self.auc)

  def summary(self) -> dict[str, float | int]:
    """The averages under the names that are reported everywhere.

    `dprime` is that of the mean AUC (the reference's and PANNs' way),
    `dprime_class_mean` the mean of the classes' own (YAMNet's way), over the
    classes in which it is finite. `top1` is the share of clips whose highest
    score is that of one of their labels: the accuracy, with one label a clip.
    """
    scored = ~np.isnan(self.average_precision)
    mean_auc = _mean(self.auc[scored])
    per_class = self.dprime[scored]
    return {
      "mAP": _mean(self.average_precision[scored]),
      "mAUC": mean_auc,
      "dprime": float(dprime(mean_auc)),
      "dprime_class_mean": _mean(per_class[np.isfinite(per_class)]),
      "top1": self.top1,
      "num_clips": self.num_clips,
      "num_classes_scored": int(scored.sum()),
      "num_classes": len(scored),
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
    ValueError: If the shapes differ, there is no clip, or a score is not
      finite.
  """
  scores = np.asarray(scores)
  positive = np.asarray(targets) != 0
  if scores.shape != positive.shape or scores.ndim != 2 or not len(scores):
    raise ValueError(
      f"scores of shape {scores.shape} and targets of shape {positive.shape}: "
      "both must be the same [num_clips, num_classes], with a clip at least."
    )
  if not np.isfinite(scores).all():
    bad = int((~np.isfinite(scores)).any(axis=1).sum())
    raise ValueError(f"{bad} of {len(scores)} clips have a non-finite score.")
  num_classes = scores.shape[1]
  average_precision = np.full(num_classes, np.nan)
  auc = np.full(num_classes, np.nan)
  for c in range(num_classes):
    if 0 < positive[:, c].sum() < len(positive):
      average_precision[c] = _average_precision(scores[:, c], positive[:, c])
      auc[c] = _roc_auc(scores[:, c], positive[:, c])
  best = scores.argmax(axis=1)
  return Metrics(
    average_precision,
    auc,
    positive.sum(axis=0),
    num_clips=len(scores),
    top1=float(positive[np.arange(len(scores)), best].mean()),
  )


def _average_precision(scores, positive):
  """Sum over thresholds of (recall step) * precision; ties are one threshold.

  scikit-learn's `average_precision_score`, as every AudioSet paper has it.
  """
  order = np.argsort(-scores, kind="stable")
  ranked = scores[order]
  last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
  hits = np.cumsum(positive[order])[last_of_tie]
  precision = hits / (np.flatnonzero(last_of_tie) + 1)
  return np.sum(np.diff(hits, prepend=0) * precision) / hits[-1]


def _roc_auc(scores, positive):
  """Mann and Whitney's U over its greatest value; a tie counts half."""
  ranks = scipy.stats.rankdata(scores)
  num_positive = positive.sum()
  num_negative = len(positive) - num_positive
  smallest = num_positive * (num_positive + 1) / 2
  return (ranks[positive].sum() - smallest) / (num_positive * num_negative)


def dprime(auc):
  """Sensitivity index: sqrt(2) * Phi^-1(AUC). Infinite at 0 and at 1."""
  return np.sqrt(2.0) * scipy.special.ndtri(auc)


def _mean(values: np.ndarray) -> float:
  """Mean, nan without a warning when there is nothing."""
  return float(np.mean(values)) if len(values) else float("nan")
