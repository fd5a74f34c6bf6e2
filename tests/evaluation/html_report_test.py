# SPDX-License-Identifier: Apache-2.0
"""The page, read as a browser reads it, against scikit-learn."""

import html.parser
import json
import re

import numpy as np
import pytest
import sklearn.metrics

from tf_audioset.evaluation import html_report, judging, metrics

_NAMES = ('<script>"&alert(1)</script>', "Speech", "Never", "Rare")
_VOID = ("meta", "input", "br", "link", "img")


class _Page(html.parser.HTMLParser):
  """Tables by the name of their region, other texts by tag."""

  def __init__(self, text):
    super().__init__()
    self.open, self.regions, self.texts, self.attributes = [], {}, {}, []
    self.heads = []  # Of each cell: that it has, and that of its column.
    self.data = None
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.attributes += [(tag, *pair) for pair in attrs.items()]
    if tag not in _VOID:
      self.open.append((tag, attrs))
    if attrs.get("role") == "region":
      self.rows = self.regions[attrs["aria-label"]] = []
    if tag == "tr":
      self.rows.append([])
    if tag in ("td", "th"):
      self.rows[-1].append("")
    if tag == "td":  # On a narrow screen its heading stands before it.
      self.heads.append(
        (attrs["data-head"], self.rows[0][len(self.rows[-1]) - 1])
      )
    if tag in ("h1", "title", "dd", "section", "script", "style"):
      self.texts.setdefault(tag, []).append("")

  def handle_endtag(self, tag):
    assert self.open.pop()[0] == tag

  def handle_data(self, data):
    if self.open and self.open[-1][1].get("id") == "data":
      self.data = json.loads(data)
    tags = [tag for tag, _ in self.open]
    for tag in set(tags) & set(self.texts):
      self.texts[tag][-1] += data
    if "td" in tags or "th" in tags:
      self.rows[-1][-1] += data


def _problem(num_clips=3000):
  rng = np.random.default_rng(4)
  shares = [0.3, 0.5, 0, 0.002]
  targets = rng.uniform(size=[num_clips, 4]) < shares
  logits = rng.normal(size=targets.shape) + 2 * targets - 1
  # Rounded: some scores tie.
  return np.round(1 / (1 + np.exp(-logits)), 3), targets


def _page(scores, targets, names=_NAMES, difference=None, **options):
  judgement = judging.Judgement(scores, targets, num_resamples=20)
  summary = judgement.summary({"<b>": [0, 1, 2]})
  table = {"mid": names, "name": names, **judgement.per_class()}
  if difference is not None:
    other = judging.Judgement(difference, targets, num_resamples=20)
    values, columns = judgement.minus(other)
    summary["difference"] = {"to": "<other>", **values}
    table |= columns
  if "training_positives" in options:
    table["training_positives"] = options.pop("training_positives")
  text = html_report.page(
    title="A & <B>",
    facts=["<first>", "second"],
    summary=summary,
    table=table,
    ids=[f"<clip {i}>" for i in range(len(scores))],
    scores=scores,
    targets=targets,
    **options,
  )
  return text, _Page(text), summary


@pytest.fixture(name="made", scope="module")
def _made():
  scores, targets = _problem()
  training = np.array([1200, 34567, 8, 0])
  return scores, targets, *_page(scores, targets, training_positives=training)


def test_nothing_is_loaded(made):
  text, page = made[2:4]
  names = {name for _, name, _ in page.attributes}
  assert not names & {"src", "href", "srcset", "action", "data", "onclick"}
  for word in ("url(", "@import", "import(", "fetch(", "XMLHttp", "innerHTML"):
    assert word not in text
  # The only address is the name of SVG's namespace, which is not loaded.
  addresses = set(re.findall(r"https?://[^\"'\s<]*", text))
  assert addresses == {"http://www.w3.org/2000/svg"}


def test_names_are_text(made):
  text, page = made[2:4]
  assert page.texts["h1"] == page.texts["title"] == ["A & <B>"]
  # The data and the program; a name would be a third.
  assert len(page.texts["script"]) == text.count("<script") == 2
  assert [one["name"] for one in page.data["classes"]] == list(_NAMES)
  assert {row[0] for row in page.regions["Classes"][1:]} == set(_NAMES)
  assert "<b>" in [row[0] for row in page.regions["Averages"]]
  assert page.regions["Hardest clips"][1][0].startswith("<clip ")


def test_tables_hold_the_metrics(made):
  scores, targets, _, page, summary = made
  scored = [0, 1, 3]
  ap = sklearn.metrics.average_precision_score(
    targets[:, scored], scores[:, scored], average=None
  )
  auc = sklearn.metrics.roc_auc_score(
    targets[:, scored], scores[:, scored], average=None
  )
  low, high = summary["intervals"]["mAP"]
  shown = f"{ap.mean():.4f}[{low:.4f}, {high:.4f}]"
  assert page.texts["dd"][0] == shown
  assert page.texts["dd"][1].startswith(f"{auc.mean():.4f}[")
  assert page.texts["dd"][-1] == f"{summary['ece']:.4f}"
  heads, *rows = page.regions["Averages"]
  assert heads[1:3] == ["classes", "mAP"]
  # The third class has no clip, and is in no average.
  assert [row[1] for row in rows] == ["3 of 4", "3 of 4", "2 of 3"]
  assert [row[2][:6] for row in rows] == [
    f"{value:.4f}"
    for value in (
      ap.mean(),
      np.average(ap, weights=targets[:, scored].sum(axis=0)),
      ap[:2].mean(),
    )
  ]
  heads, *rows = page.regions["Classes"]
  assert heads[:4] == ["class", "AP", "AUC", "d′"]
  rows = {row[0]: row for row in rows}
  for c, value, area in zip(scored, ap, auc):
    row = rows[_NAMES[c]]
    assert (row[1][:5], row[2]) == (f"{value:.3f}", f"{area:.3f}")
    assert row[4] == f"{targets[:, c].sum():,}"
  assert [rows[name][5] for name in _NAMES] == ["1,200", "34,567", "8", "0"]
  assert rows["Never"][1:4] == ["– ", "–", "–"]
  # The best comes first, what is not known last.
  order = [*np.array(_NAMES)[scored][np.argsort(-ap)], "Never"]
  assert list(rows) == order


def test_each_cell_has_the_heading_of_its_column(made):
  """On a narrow screen it stands before the cell."""
  page = made[3]
  assert len(page.heads) > 50 * 3 + 4 * 8
  assert all(own == column for own, column in page.heads)
  (style,) = page.texts["style"]
  assert "content: attr(data-head)" in style
  # Rows that are blocks are hidden by the search all the same.
  assert "tr[hidden] { display: none; }" in style


def test_curves_are_points_of_scikit_learns(made):
  scores, targets, _, page, _ = made
  for c, one in enumerate(page.data["classes"]):
    assert len(one["hits"]) == len(one["seen"]) <= 100
    if not one["positives"]:
      assert not one["hits"]
      continue
    precision, recall, thresholds = sklearn.metrics.precision_recall_curve(
      targets[:, c], scores[:, c]
    )
    points = {(p, r) for p, r in zip(precision, recall)}
    hits, seen = np.array(one["hits"]), np.array(one["seen"])
    drawn = set(zip(hits / seen, hits / one["positives"]))
    assert drawn <= points
    assert max(recall for _, recall in drawn) == 1
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
    best = f1[:-1].argmax()
    assert (precision[best], recall[best]) in drawn
    assert float(one["threshold"]) == pytest.approx(thresholds[best], abs=1e-3)


def test_all_points_of_a_short_curve_are_kept_and_their_area_is_the_ap(made):
  scores, targets, _, page, _ = made
  rare = page.data["classes"][3]
  recall = np.array(rare["hits"]) / rare["positives"]
  precision = np.array(rare["hits"]) / rare["seen"]
  area = (np.diff(recall, prepend=0) * precision).sum()
  ap = sklearn.metrics.average_precision_score(targets[:, 3], scores[:, 3])
  assert area == pytest.approx(ap)


def test_thinning_is_even_and_keeps_the_best():
  hits = np.arange(1, 5001)
  seen = hits + np.maximum(0, hits - 4321) * 100
  kept = html_report.thinned(hits, seen, 50)
  assert len(kept) <= 50 and {0, 4320, 4999} <= set(kept)
  assert np.diff(kept).max() <= 5000 / 47


def test_bins_are_those_of_scikit_learn(made):
  scores, targets, _, page, _ = made
  for bins, p, y in (
    (page.data["bins"], scores.ravel(), targets.ravel()),
    (page.data["classes"][1]["bins"], scores[:, 1], targets[:, 1]),
  ):
    count, total, positives = np.array(bins).T
    assert count.sum() == len(p) and positives.sum() == y.sum()
    edges = np.linspace(0, 1, 16)
    expected = np.histogram(p, edges)[0]
    np.testing.assert_array_equal(count, expected[expected > 0])
    sums = np.histogram(p, edges, weights=p)[0]
    np.testing.assert_allclose(total, sums[expected > 0], atol=1e-4)


def test_the_hardest_clip_has_the_greatest_loss(made):
  scores, targets, _, page, _ = made
  losses = [
    sklearn.metrics.log_loss(y, p, labels=[0, 1])
    for p, y in zip(np.clip(scores, 1e-7, 1 - 1e-7), targets)
  ]
  worst = int(np.argmax(losses))
  heads, first, *rest = page.regions["Hardest clips"]
  assert first[0] == f"<clip {worst}>"
  assert first[1] == f"{losses[worst]:.4f}"
  assert len(rest) == 49
  top = int(scores[worst].argmax())
  assert first[3].startswith(f"{_NAMES[top]} {scores[worst, top]:.3f}")


def test_what_is_not_known_is_said():
  scores, targets = _problem(200)
  text, page, _ = _page(scores, targets, no_training="There is <none>.")
  assert "There is <none>." in page.texts["section"][0]
  assert "training clips" not in page.regions["Classes"][0]
  # Logits are no probabilities.
  _, page, _ = _page(scores * 9 - 5, targets)
  assert "no probabilities" in page.texts["section"][1]
  assert "bins" not in page.data and "Hardest clips" not in page.regions
  assert "ECE" not in page.regions["Classes"][0]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.float16])
def test_scores_of_other_types(dtype):
  scores, targets = _problem(200)
  scores = (scores > 0.5).astype(dtype)
  _, page, _ = _page(scores, targets)
  _, expected, _ = _page(scores.astype(float), targets)
  assert page.regions == expected.regions
  assert page.data == expected.data


def test_one_class_alone():
  scores, targets = _problem(200)
  _, page, _ = _page(
    scores[:, :1], targets[:, :1], ["Dog"], training_positives=[5]
  )
  assert [row[0] for row in page.regions["Classes"]] == ["class", "Dog"]
  assert len(page.regions["Hardest clips"]) == 51


def test_a_difference_is_shown():
  scores, targets = _problem(500)
  _, page, summary = _page(scores, targets, difference=1 - scores)
  heads, *_, last = page.regions["Averages"]
  assert (targets.any(axis=0) == [True, True, False, False]).all()
  assert last[:2] == ["all, minus <other>", "2 of 4"]
  assert last[2].startswith(f"{summary['difference']['mAP']:+.4f} [")
  heads, first, *_ = page.regions["Classes"]
  assert heads[-1] == "AP minus other's"
  assert first[-1].startswith("+")


def test_bins_make_up_the_calibration_error():
  scores, targets = _problem()
  count, total, hits = metrics.calibration_bins(scores, targets)
  expected = []
  for p, y in zip(scores.T, targets.T):
    place = np.minimum((p * 15).astype(int), 14)
    expected.append(
      sum(
        (place == b).mean() * abs(p[place == b].mean() - y[place == b].mean())
        for b in set(place)
      )
    )
  np.testing.assert_allclose(
    np.abs(total / len(scores) - hits / len(scores)).sum(axis=1), expected
  )
  assert (count.sum(axis=1) == len(scores)).all()
