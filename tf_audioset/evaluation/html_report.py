# SPDX-License-Identifier: Apache-2.0
"""What was measured, as one HTML file that needs no network.

Numbers are in the page's tables; its own few lines of JavaScript, in
report_template.html, draw the curves from JSON, sort and search.
"""

from __future__ import annotations

import html
import json
import math
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tf_audioset.evaluation import metrics

_MAX_POINTS = 100
_NUM_HARDEST = 50
_NUM_SAID = 5
_AVERAGES = (
  ("mAP", "mAP"),
  ("mAUC", "mAUC"),
  ("dprime", "d′ of mAUC"),
  ("dprime_class_mean", "mean d′"),
)


class _Template(string.Template):
  delimiter = "@@"  # JavaScript has the dollar.


def page(
  *,
  title: str,
  facts: Sequence[str],
  summary: Mapping[str, Any],
  table: Mapping[str, Sequence],
  ids: Sequence[str],
  scores: np.ndarray,
  targets: np.ndarray,
  no_training: str = "",
) -> str:
  """Returns the report.

  Args:
    title: Of the page.
    facts: What was judged, a sentence each.
    summary: `judging.Judgement.summary`; may have "difference", the first
      result of `Judgement.minus` and "to", the other's name.
    table: Columns of the classes: mid, name, those of `Judgement.per_class`
      and, if known, training_positives, the clips of the training split, and
      the second result of `Judgement.minus`.
    ids: [num_clips].
    scores: [num_clips, num_classes]. Calibration and loss are those of
      probabilities and left out if summary["ece"] is nan.
    targets: [num_clips, num_classes], positive where nonzero.
    no_training: Why the training clips are not known, a sentence.

  Returns:
    HTML, for UTF-8.

  Raises:
    ValueError: As for `metrics.evaluate`.
  """
  if scores.dtype.kind != "f":  # Unsigned integers have no negative.
    scores = scores.astype(np.float64)
  classes = _classes(table, scores, targets)
  data = {"num_clips": len(scores), "classes": classes}
  template = pathlib.Path(__file__).parent / "report_template.html"
  calibration = hardest = (
    "<p>These scores are not all between 0 and 1: they are no probabilities, "
    "of which alone this can be said.</p>"
  )
  class_reliability = ""
  if math.isfinite(summary["ece"]):
    bins = np.stack(metrics.calibration_bins(scores, targets), axis=-1)
    for of_class, one in zip(bins, classes):
      one["bins"] = _filled(of_class)
    data["bins"] = _filled(bins.sum(axis=0))
    class_reliability = _figure(
      "class-reliability", "How often a score comes true; dashes: ideal."
    )
    calibration = (
      "<p>Mean calibration error (ECE) of the classes: "
      f"{_number(summary['ece'], 4)}. Below, all classes together: how many "
      "clips with a score of a bin have the class. Larger dots stand for more."
      "</p>" + _figure("reliability", "15 bins of equal width; dashes: ideal.")
    )
    hardest = _hardest(table["name"], ids, scores, targets)
  training = f"<p>{html.escape(no_training)}</p>"
  if "training_positives" in table:
    training = _training(classes)
  text = json.dumps(data, separators=(",", ":"), allow_nan=False)
  return _Template(template.read_text(encoding="utf-8")).substitute(
    title=html.escape(title),
    facts="<br>".join(map(html.escape, facts)),
    headline=_headline(summary),
    averages=_averages(summary),
    class_reliability=class_reliability,
    classes=_class_table(table),
    training=training,
    calibration=calibration,
    hardest=hardest,
    # "</script>" in a name would end the element that holds the data.
    data=text.replace("<", "\\u003c"),
  )


def thinned(
  hits: np.ndarray, seen: np.ndarray, num_points: int = _MAX_POINTS
) -> np.ndarray:
  """Chooses the points of a precision-recall curve that are drawn.

  Args:
    hits: int [n], true positives at each threshold, rising to all positives.
    seen: int [n], clips at or above it.
    num_points: At least 3.

  Returns:
    int64 [min(n, num_points)], rising: even in n, with the first, the last and
    that of the greatest F1.
  """
  num = len(hits)
  if num <= num_points:
    return np.arange(num)
  best = (hits / (seen + hits[-1])).argmax()
  even = np.linspace(0, num - 1, num_points - 1).round().astype(int)
  return np.union1d(even, best)


def _classes(table, scores, targets):
  """Returns what is drawn of each class, for JSON."""
  classes = []
  points = metrics.recall_points(scores, targets)
  for c, (_, hits, seen) in enumerate(points):
    kept = thinned(hits, seen)
    one = {
      "mid": str(table["mid"][c]),
      "name": str(table["name"][c]),
      "positives": int(table["positives"][c]),
      "ap": _finite(table["ap"][c]),
      "threshold": _significant(table["threshold"][c]),
      "hits": hits[kept].tolist(),
      "seen": seen[kept].tolist(),
    }
    if "training_positives" in table:
      one["training"] = int(table["training_positives"][c])
    classes.append(one)
  return classes


def _filled(bins):
  """Returns clips, sum of scores and positives of the bins that have clips."""
  return [
    [int(count), round(float(total), 4), int(positives)]
    for count, total, positives in bins
    if count
  ]


def _headline(summary) -> str:
  tiles = [
    ("mAP", "mAP", "mean average precision"),
    ("mAUC", "mAUC", "mean area under ROC"),
    ("dprime", "d′", "of mAUC"),
    ("top1", "top-1", "best score is a label's"),
  ]
  parts = [
    f"<div><dt>{name}<span>{meaning}</span></dt>"
    f"<dd><b>{_number(summary[key], 4)}</b>"
    f"{_range(summary['intervals'][key], 4)}</dd></div>"
    for key, name, meaning in tiles
  ]
  if math.isfinite(summary["ece"]):
    parts.append(
      "<div><dt>ECE<span>mean calibration error</span></dt>"
      f"<dd><b>{_number(summary['ece'], 4)}</b></dd></div>"
    )
  return "".join(parts)


def _averages(summary) -> str:
  groups = [
    ("all classes", summary, summary),
    ("a class by its positives", summary, summary["positive_weighted"]),
  ]
  groups += [
    (name, branch, branch) for name, branch in summary["branches"].items()
  ]
  rows = [
    _average_row(name, counts, _average_cells(values))
    for name, counts, values in groups
  ]
  if "difference" in summary:
    values = summary["difference"]
    rows.append(
      _average_row(
        f"all, minus {values['to']}", summary, _average_cells(values, "+")
      )
    )
  return _table(
    "Averages",
    _heads(["average over", "classes", *(name for _, name in _AVERAGES)]),
    rows,
    "A class without a positive or without a negative clip is left out. In "
    "brackets: 95 % intervals, by bootstrap over clips.",
  )


def _average_row(name, counts, cells) -> str:
  return (
    f'<tr><th scope="row">{html.escape(name)}</th>'
    + _cell(
      "classes",
      f"{counts['num_classes_scored']:,} of {counts['num_classes']:,}",
    )
    + f"{cells}</tr>"
  )


def _average_cells(values, sign="") -> str:
  return "".join(
    _cell(
      name,
      f"{_number(values[key], 4, sign)} "
      f"{_range(values['intervals'][key], 4, sign)}",
    )
    for key, name in _AVERAGES
  )


def _class_table(table) -> str:
  """Makes a table of a row a class, the best AP first."""
  columns = [
    ("AP", "ap", _number),
    ("AUC", "auc", _number),
    ("d′", "dprime", lambda x: _number(x, 2)),
    ("positives", "positives", _count),
    ("training clips", "training_positives", _count),
    ("threshold", "threshold", _significant),
    ("F1", "f1", _number),
    ("ECE", "ece", _number),
    ("AP minus other's", "ap_difference", lambda x: _number(x, 3, "+")),
  ]
  columns = [
    column
    for column in columns
    if column[1] in table
    and (column[1] != "ece" or np.isfinite(table["ece"]).any())
  ]
  ranges = {
    "ap": ("ap_low", "ap_high", ""),
    "ap_difference": ("difference_low", "difference_high", "+"),
  }
  rows = []
  ap = np.asarray(table["ap"], float)
  for c in np.argsort(np.where(np.isnan(ap), np.inf, -ap), kind="stable"):
    cells = []
    for name, key, shown in columns:
      value = table[key][c]
      text = shown(value)
      if key in ranges:
        low, high, sign = ranges[key]
        text += " " + _range([table[low][c], table[high][c]], 3, sign)
      # What JavaScript's parseFloat reads, for sorting.
      exact = f"{value:.9g}".replace("inf", "Infinity")
      cells.append(_cell(name, text, f' data-v="{exact}"'))
    rows.append(
      f'<tr data-class="{c}"><th scope="row"><button type="button">'
      f"{html.escape(str(table['name'][c]))}</button></th>{''.join(cells)}</tr>"
    )
  heads = ["class", *(name for name, _, _ in columns)]
  cells = "".join(
    f'<th scope="col"{" aria-sort=descending" if name == "AP" else ""}>'
    f'<button type="button">{name}</button></th>'
    for name in heads
  )
  return _table(
    "Classes",
    cells,
    rows,
    "Pick a class to see its curves; a heading sorts. Thresholds are rounded "
    "here and in full in per_class.csv.",
  )


def _training(classes) -> str:
  shown = sum(bool(x["training"]) and x["ap"] is not None for x in classes)
  left_out = ""
  if shown < len(classes):
    left_out = (
      f" {len(classes) - shown} of {len(classes)} classes have no AP or no "
      "training clip and are not shown."
    )
  if not shown:
    return f"<p>{left_out}</p>"
  return "<p>A dot a class; pick one to see its curves." + (
    f"{left_out}</p>{_figure('training', 'Clips of the training split.')}"
  )


def _hardest(names, ids, scores, targets) -> str:
  positive = np.asarray(targets) != 0
  exact = scores.astype(np.float64)
  right = np.where(positive, exact, 1 - exact)
  # 1e-7: float32 has scores of exactly 0 and 1, whose loss would be infinite.
  loss = -np.log(np.maximum(right, 1e-7)).mean(axis=1)
  rows = []
  for i in np.argsort(-loss, kind="stable")[:_NUM_HARDEST]:
    order = np.argsort(-scores[i], kind="stable")
    rank = np.argsort(order)
    labels = [
      f"{html.escape(str(names[c]))} "
      f'<span class="range">{_number(scores[i, c])}, place {rank[c] + 1}</span>'
      for c in order
      if positive[i, c]
    ]
    said = [
      f"{'<b>' if positive[i, c] else ''}{html.escape(str(names[c]))}"
      f"{'</b>' if positive[i, c] else ''} "
      f'<span class="range">{_number(scores[i, c])}</span>'
      for c in order[:_NUM_SAID]
    ]
    rows.append(
      f'<tr><th scope="row">{html.escape(str(ids[i]))}</th>'
      + _cell("loss", _number(loss[i], 4), ' class="number"')
      + _cell("labels", f"<div>{'<br>'.join(labels) or 'none'}</div>")
      + _cell("highest scores", f"<div>{'<br>'.join(said)}</div>")
      + "</tr>"
    )
  return _table(
    "Hardest clips",
    _heads(["clip", "loss", "labels", "highest scores"]),
    rows,
    f"The {len(rows)} clips with the greatest loss, the cross-entropy of the "
    "scores, mean over the classes. Bold: is a label.",
  )


def _heads(names) -> str:
  return "".join(f'<th scope="col">{name}</th>' for name in names)


def _cell(head, content, attributes="") -> str:
  """Makes a cell that knows its heading, for narrow screens."""
  return f'<td data-head="{html.escape(head)}"{attributes}>{content}</td>'


def _table(name, heads, rows, note) -> str:
  """Makes a table that scrolls by itself, also with the keyboard."""
  key = name.lower().replace(" ", "-")
  return (
    f'<p class="note">{note}</p><div class="scroll" id="{key}" tabindex="0" '
    f'role="region" aria-label="{name}"><table><thead><tr>{heads}</tr></thead>'
    f"<tbody>{''.join(rows)}</tbody></table></div>"
  )


def _figure(name, caption) -> str:
  return (
    f'<figure><svg id="{name}" role="img"></svg>'
    f"<figcaption>{caption}</figcaption></figure>"
  )


def _finite(value):
  return float(value) if math.isfinite(value) else None


def _number(value, places=3, sign="") -> str:
  if math.isnan(value):
    return "–"
  return f"{value:{sign}.{places}f}".replace("inf", "∞").replace("-", "−")


def _count(value) -> str:
  return f"{value:,}"


def _significant(value) -> str:
  if math.isnan(value):
    return "–"
  return f"{value:#.3g}".rstrip(".").replace("-", "−")


def _range(ends, places, sign="") -> str:
  if not all(map(math.isfinite, ends)):
    return ""
  low, high = (_number(end, places, sign) for end in ends)
  return f'<span class="range">[{low}, {high}]</span>'
