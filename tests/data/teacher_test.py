# SPDX-License-Identifier: Apache-2.0
"""Tables of teachers' scores: what is kept, mixed into targets, and refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests import toy
from tf_audioset.data import labels, prepared
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import service as data_service
from tf_audioset.data import teacher as teacher_lib

_NUM_CLIPS = 24


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  toy.write_dataset(folder, num_samples=4000, num_train=_NUM_CLIPS)
  return folder


@pytest.fixture(name="split", scope="module")
def _split(folder):
  return prepared.find_split(str(folder), "train")


def _scores(num_clips=_NUM_CLIPS, num_classes=3):
  """Scores from 1e-6 to 1 - 1e-6 in the order of the clips."""
  logits = np.random.default_rng(0).uniform(-13, 13, [num_clips, num_classes])
  return 1 / (1 + np.exp(-logits))


def _write(folder, split, scores, top_k=0):
  folder.mkdir(exist_ok=True)
  plan = teacher_lib.Plan.of(split, ["digest"], top_k)
  for number, (first, end) in enumerate(plan.parts):
    teacher_lib.write_part(str(folder), plan, number, scores[first:end])
  return teacher_lib.write_info(str(folder), plan, ["it"])


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
  monkeypatch.setattr(teacher_lib, "PART_CLIPS", 10)


def _targets(split, num_steps=6, **parameters):
  """Targets of some steps, and the rows of their clips in the table."""
  workers = parameters.pop("workers", ())
  pipeline = pipeline_lib.Pipeline(crop_seconds=0.2, **parameters)
  batches = pipeline.training(
    split, num_classes=3, batch_size=8, seed=1, workers=workers
  )
  ids = pipeline.training_ids(split, batch_size=8 * num_steps, seed=1, step=0)
  rows = {c.decode(): i for i, c in enumerate(teacher_lib.whole_ids(split))}
  targets = [x[1] for x in batches.take(num_steps).as_numpy_iterator()]
  return np.concatenate(targets), [rows[clip_id] for clip_id in ids]


def _labels(split):
  has = np.zeros([len(teacher_lib.whole_ids(split)), 3])
  table = prepared.ClipTable.read(split.clips_file)
  for row in range(len(table)):
    has[row, table.labels_of(row)] = 1
  return has


@pytest.mark.parametrize("weight", [None, 0.5, 1.0])
def test_targets_are_labels_and_scores_in_their_shares(tmp_path, split, weight):
  scores = _scores()
  assert _write(tmp_path, split, scores) == 1
  targets, rows = _targets(split, teacher=f"{tmp_path}/", teacher_weight=weight)
  share = 0.9 if weight is None else weight
  expected = (1 - share) * _labels(split) + share * scores
  np.testing.assert_allclose(targets, expected[rows], rtol=0.01, atol=1e-8)


def test_of_the_best_the_others_get_their_mean(tmp_path, split):
  scores = _scores()
  _write(tmp_path, split, scores, top_k=1)
  targets, rows = _targets(split, teacher=str(tmp_path), teacher_weight=1.0)
  kept = scores.copy()
  for row in kept:
    others = np.arange(3) != row.argmax()
    row[others] = row[others].mean()
  np.testing.assert_allclose(targets, kept[rows], rtol=0.01, atol=1e-8)


def test_scores_of_0_and_1_stay_finite(tmp_path, split):
  scores = np.eye(3)[np.arange(_NUM_CLIPS) % 3]
  _write(tmp_path, split, scores)
  targets, rows = _targets(split, teacher=str(tmp_path), teacher_weight=1.0)
  np.testing.assert_allclose(targets, scores[rows], atol=1e-6)


@pytest.mark.parametrize("top_k", [0, 2])
def test_clips_without_scores_keep_their_labels(
  tmp_path, split, monkeypatch, top_k
):
  scores = _scores()
  scores[[3, 17]] = np.nan
  assert _write(tmp_path, split, scores, top_k) == 22 / 24
  line = "22 of the 24 training clips, 91.7%, have .*; at least 99% are needed"
  with pytest.raises(ValueError, match=line):
    _targets(split, teacher=str(tmp_path))
  monkeypatch.setattr(teacher_lib, "MIN_COVERAGE", 0.9)
  targets, rows = _targets(split, teacher=str(tmp_path))
  has = _labels(split)
  for target, row in zip(targets, rows):
    if row in (3, 17):
      np.testing.assert_array_equal(target, has[row])
    elif not top_k:
      expected = 0.1 * has[row] + 0.9 * scores[row]
      np.testing.assert_allclose(target, expected, rtol=0.01, atol=1e-8)


def test_a_part_of_the_split_finds_its_scores(tmp_path, split):
  scores = _scores()
  _write(tmp_path, split, scores)
  part = split.part(20, 100).part(30, 90)
  assert part.num_clips < 20
  targets, rows = _targets(part, teacher=str(tmp_path))
  expected = 0.1 * _labels(split) + 0.9 * scores
  np.testing.assert_allclose(targets, expected[rows], rtol=0.01, atol=1e-8)


def test_validation_has_the_labels(tmp_path, split):
  _write(tmp_path, split, _scores())
  batches = pipeline_lib.Pipeline(
    crop_seconds=0.2, teacher=str(tmp_path)
  ).centre_crops(split, num_classes=3, batch_size=8)
  found = np.concatenate([x[2] for x in batches.as_numpy_iterator()])
  np.testing.assert_array_equal(found, _labels(split))


def test_a_replaced_clip_has_the_targets_of_the_one_in_its_place(tmp_path):
  toy.write_dataset(tmp_path, num_samples=4000, broken="train7")
  split = prepared.find_split(str(tmp_path), "train")
  scores = _scores()
  _write(tmp_path / "table", split, scores)
  targets, rows = _targets(
    split, teacher=str(tmp_path / "table"), max_bad_records=9
  )
  expected = 0.1 * _labels(split) + 0.9 * scores
  bad = teacher_lib.whole_ids(split).tolist().index(b"train7")
  for i, (target, row) in enumerate(zip(targets, rows)):
    others = rows[i // 8 * 8 :][:8]
    allowed = others if row == bad else [row]
    assert any(
      np.allclose(target, expected[other], rtol=0.01, atol=1e-8)
      for other in allowed
      if other != bad
    )
  assert bad in rows


def test_processes_of_the_service_have_the_same_targets(tmp_path, split):
  _write(tmp_path, split, _scores())
  alone, _ = _targets(split, teacher=str(tmp_path))
  served, _ = _targets(
    split, teacher=str(tmp_path), workers=data_service.start(1)
  )
  np.testing.assert_array_equal(served, alone)


def test_too_many_scores_for_the_service_are_refused(
  tmp_path, split, monkeypatch
):
  _write(tmp_path, split, _scores())
  monkeypatch.setattr(pipeline_lib, "_MAX_SERVICE_BYTES", 100)
  with pytest.raises(ValueError, match="--data_service: .* --top_k=20"):
    _targets(split, teacher=str(tmp_path), workers=["nowhere"])


def _truncate(path):
  path.write_bytes(path.read_bytes()[:-20])


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _second_part(table):
  return sorted(table.glob("*.npz"))[1]


_DAMAGE = {
  "no table": (
    lambda table: (table / "teacher.json").unlink(),
    "is no table of scores, as it has no teacher.json",
  ),
  "truncated": (
    lambda table: _truncate(_second_part(table)),
    "-00001-of-00003.npz: .* bytes, where teacher.json says .* a broken copy",
  ),
  "one bit": (
    lambda table: _flip(_second_part(table)),
    "-00001-of-00003.npz: .* is missing or broken",
  ),
  "a part is missing": (
    lambda table: _second_part(table).unlink(),
    "-00001-of-00003.npz: this part of the table is missing",
  ),
  "not JSON": (
    lambda table: _truncate(table / "teacher.json"),
    "teacher.json: not the description of a table",
  ),
}


@pytest.mark.parametrize("damage", _DAMAGE)
def test_a_damaged_table_is_refused(tmp_path, split, damage):
  _write(tmp_path, split, _scores())
  change, message = _DAMAGE[damage]
  change(tmp_path)
  with pytest.raises(ValueError, match=message):
    teacher_lib.Teacher(str(tmp_path), split)


def test_a_table_of_other_clips_or_classes_is_refused(tmp_path, folder, split):
  _write(tmp_path / "table", split, _scores())

  def refused(message, **dataset):
    other = tmp_path / "other"
    other.mkdir()
    toy.write_dataset(other, num_samples=1000, **dataset)
    if not dataset:
      toy.rename_class(other, "Noise", "Rain")
    with pytest.raises(ValueError, match=message):
      teacher_lib.Teacher(
        str(tmp_path / "table"), prepared.find_split(str(other), "train")
      )
    shutil.rmtree(other)

  refused("are for other classes")
  refused(
    r"are of other clips \(24\) than those of the split \(30\)", num_train=30
  )
  # The same clips, divided into shards otherwise, are in another order.
  refused("or in another order, as after a new preparation", num_shards=2)
  (tmp_path / "third").mkdir()
  toy.write_dataset(tmp_path / "third", num_samples=1000)
  again = prepared.find_split(str(tmp_path / "third"), "train")
  teacher_lib.Teacher(str(tmp_path / "table"), again)  # The same order.


def test_data_without_ids_has_no_teacher(split):
  with pytest.raises(ValueError, match="which this data does not have"):
    teacher_lib.whole_ids(dataclasses.replace(split, clips_file=""))


@pytest.mark.parametrize(
  ("parameters", "message"),
  [
    ({"teacher_weight": 0.9}, "Pipeline.teacher names no table"),
    ({"teacher": "x", "teacher_weight": 0.0}, "teacher_weight is 0.0; allowed"),
    ({"teacher": "x", "teacher_weight": 1.1}, "teacher_weight is 1.1; allowed"),
  ],
)
def test_bad_weights_are_refused(parameters, message):
  with pytest.raises(ValueError, match=message):
    pipeline_lib.Pipeline(**parameters)


def test_a_table_is_read_once(tmp_path, split, monkeypatch):
  _write(tmp_path, split, _scores())
  pipeline = pipeline_lib.Pipeline(teacher=str(tmp_path))
  (line,) = pipeline.remarks(split)
  assert "teacher: it; 24 of 24 training clips have scores, all of 3" in line
  shutil.rmtree(tmp_path)
  assert pipeline.fixed(split)["teacher"].endswith(", weight 0.9")


def test_what_the_description_says(tmp_path, split):
  _write(tmp_path, split, _scores(), top_k=2)
  content = json.loads((tmp_path / "teacher.json").read_text())
  assert content["teachers"] == ["digest"] and content["names"] == ["it"]
  assert content["coverage"] == 1 and content["top_k"] == 2
  assert content["num_clips"] == 24 and content["num_classes"] == 3
  sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.npz"))]
  assert content["num_bytes"] == sizes and len(sizes) == 3
  classes = labels.ClassList.from_names(toy.NAMES)
  assert len(classes) == content["num_classes"]
