# SPDX-License-Identifier: Apache-2.0
"""What is said of a system: metrics with intervals, and beside another's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_audioset.evaluation import metrics


def _macro(result: metrics.Metrics):
  return 1


class Judgement:
  """The metrics of one system, of its clips and of resamples of them."""

  def __init__(
    self,
    scores: np.ndarray,
    targets: np.ndarray,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
  ):
    """Measures; see `metrics.evaluate` and `metrics.bootstrap`.

    Scores that are all between 0 and 1 are taken for probabilities, and their
    calibration is measured as well.
    """
    self._result = metrics.evaluate(scores, targets)
    self._resampled = metrics.bootstrap(
      scores, targets, num_resamples=num_resamples, seed=seed
    )
    # Which class is taken for which; None unless each clip has one label.
    self.confusion = None
    self._top = {}
    if self._result.is_single_label:
      self.confusion = metrics.confusion(scores, targets)
      self._top = {f"top{k}": metrics.top_k(scores, targets, k) for k in (3, 5)}
    self._threshold, self._f1 = metrics.best_thresholds(scores, targets)
    self._ece = np.full(len(self._f1), np.nan)
    if np.min(scores) >= 0 and np.max(scores) <= 1:
      self._ece = metrics.calibration_error(scores, targets)

  def averages(
    self, weights: Callable[[metrics.Metrics], Any] = _macro
  ) -> dict[str, Any]:
    """Means over the classes, and 95 % intervals.

    Args:
      weights: From metrics to what `Metrics.averages` takes.

    Returns:
      What `Metrics.averages` returns, and "intervals": [low, high] by the same
      names.
    """
    values = self._result.averages(weights(self._result))
    draws = self._resampled.averages(weights(self._resampled))
    return {
      **{name: float(value) for name, value in values.items()},
      "intervals": {
        name: _interval(
          value, draws[name], _SHARE if name in ("mAP", "mAUC") else _ANY
        )
        for name, value in values.items()
      },
    }

  def summary(self, branches: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Returns all averages.

    Args:
      branches: Indices of classes by the name of their group.

    Returns:
      `Metrics.summary` with "intervals"; "top3" and "top5", the shares of clips
      whose label is among the highest scores, and "recall", the mean over the
      classes of their accuracy, if each clip has one label; "ece", the mean
      over the classes that have positive and negative clips;
      "positive_weighted", averages in which a class counts by its positive
      clips; "branches", averages of each group, with "num_classes", its
      classes, and "num_classes_scored", those that were averaged.
    """
    summary = {**self._result.summary(), **self.averages()}
    summary["intervals"]["top1"] = _interval(
      self._result.top1, self._resampled.top1, _SHARE
    )
    summary |= self._top
    if self.confusion is not None:
      clips = self.confusion.sum(axis=1)
      right = self.confusion.diagonal()
      summary["recall"] = float((right[clips > 0] / clips[clips > 0]).mean())
    scored = ~np.isnan(self._result.auc)
    summary["ece"] = float(metrics.mean(self._ece[scored]))
    summary["positive_weighted"] = self.averages(lambda x: x.num_positives)
    num_classes = len(self._result.auc)
    summary["branches"] = {}
    for name, indices in branches.items():
      mask = np.isin(np.arange(num_classes), indices)
      summary["branches"][name] = {
        "num_classes": len(indices),
        "num_classes_scored": int((mask & scored).sum()),
        **self.averages(lambda _, mask=mask: mask),
      }
    return summary

  def per_class(self) -> dict[str, np.ndarray]:
    """Returns columns of [num_classes].

    ap, auc, dprime, positives; ap_low and ap_high, its interval; threshold with
    the greatest F1 on these clips, and f1; ece, the calibration error.
    """
    low, high = metrics.interval(
      self._result.average_precision, self._resampled.average_precision
    )
    return {
      "ap": self._result.average_precision,
      "auc": self._result.auc,
      "dprime": self._result.dprime,
      "positives": self._result.num_positives,
      "ap_low": np.clip(low, 0, 1),
      "ap_high": np.clip(high, 0, 1),
      "threshold": self._threshold,
      "f1": self._f1,
      "ece": self._ece,
    }

  def minus(
    self, other: Judgement
  ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the paired difference to another system on the same clips.

    Args:
      other: Made of the same clips in the same order, of the same targets,
        seed and number of resamples.

    Returns:
      By the names of `Metrics.averages`: the difference, and "intervals" of it;
      and columns, [num_classes]: other_ap, ap_difference, difference_low,
      difference_high.
    """
    mine, others = self._result.averages(), other._result.averages()
    draws, other_draws = self._resampled.averages(), other._resampled.averages()
    with np.errstate(invalid="ignore"):  # Both d' may be infinite.
      differences = {name: float(mine[name] - others[name]) for name in mine}
      resampled = {name: draws[name] - other_draws[name] for name in mine}
      # Of the classes whose d' is finite in both, or the means would be of
      # different classes.
      differences["dprime_class_mean"] = float(
        metrics.mean(self._result.dprime - other._result.dprime)
      )
      resampled["dprime_class_mean"] = metrics.mean(
        self._resampled.dprime - other._resampled.dprime
      )
    ap = self._result.average_precision, other._result.average_precision
    low, high = metrics.interval(
      ap[0] - ap[1],
      self._resampled.average_precision - other._resampled.average_precision,
    )
    return (
      {
        **differences,
        "intervals": {
          name: _interval(value, resampled[name])
          for name, value in differences.items()
        },
      },
      {
        "other_ap": ap[1],
        "ap_difference": ap[0] - ap[1],
        "difference_low": low,
        "difference_high": high,
      },
    )


# What may be in an interval.
_ANY, _SHARE = (-np.inf, np.inf), (0.0, 1.0)


def _interval(estimate, resampled, ends=_ANY) -> list[float]:
  interval = np.clip(metrics.interval(estimate, resampled), *ends)
  return [float(end) for end in interval]
