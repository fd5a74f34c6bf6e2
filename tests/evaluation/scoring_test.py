# SPDX-License-Identifier: Apache-2.0
"""Every clip is scored once; files of scores; clips found by their ids."""

import dataclasses
import hashlib

import numpy as np
import pytest
import sklearn.metrics
import tensorflow as tf

from tests import toy
from tf_audioset import features
from tf_audioset.data import pipeline as pipeline_lib
from tf_audioset.data import prepared
from tf_audioset.evaluation import scoring
from tf_audioset.models import tagger
from tf_audioset.training import losses


@pytest.fixture(name="split", scope="module")
def _split(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  toy.write_dataset(folder)
  return prepared.find_split(str(folder), "train")  # 24 clips.


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
  return model, scoring.Evaluator(
    strategy,
    model,
    pipeline_lib.Pipeline(crop_seconds=0.5),
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
  result, thresholds, f1, loss = evaluator.evaluate(
    lambda done, total: seen.append((done, total))
  )
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
  # The thresholds are of the scores, and none would have a greater F1.
  scores = tf.sigmoid(logits).numpy()
  assert loss == pytest.approx(
    -np.log(np.where(targets, scores, 1 - scores)).mean(), rel=1e-5
  )
  for c in range(3):
    actual = sklearn.metrics.f1_score(
      targets[:, c], scores[:, c] >= thresholds[c]
    )
    possible = [
      sklearn.metrics.f1_score(targets[:, c], scores[:, c] >= threshold)
      for threshold in scores[:, c]
    ]
    assert actual == pytest.approx(f1[c]) == pytest.approx(max(possible))


def test_clips_that_are_not_in_the_shards_are_told(split, monkeypatch):
  """Their rows come as fill, as after a shard that changed under the run."""
  one = tf.distribute.OneDeviceStrategy("/cpu:0")
  centre_crops = pipeline_lib.Pipeline.centre_crops

  def some(*args, **kwargs):
    return centre_crops(*args, **kwargs).take(2)

  monkeypatch.setattr(pipeline_lib.Pipeline, "centre_crops", some)
  _, evaluator = _evaluator(split, one, 8)
  with pytest.raises(ValueError, match="8 of 24 clips"):
    evaluator.evaluate(lambda done, total: None)


def _scores(ids=("a", "ü", "b")):
  scores = np.arange(2.0 * len(ids)).reshape(len(ids), 2)
  return scoring.Scores(np.array(ids), np.array(["/m/x", "/m/y"]), scores)


def test_a_file_of_scores_holds_them(tmp_path):
  path = str(tmp_path / "scores.npz")
  (tmp_path / "scores.npz").write_bytes(_scores().content())
  with np.load(path) as arrays:
    assert sorted(arrays) == ["ids", "mids", "scores"]
  read = scoring.Scores.read(path)
  assert list(read.ids) == ["a", "ü", "b"]
  assert list(read.mids) == ["/m/x", "/m/y"]
  np.testing.assert_array_equal(read.scores, [[0, 1], [2, 3], [4, 5]])
  expected = hashlib.sha256("a\nb\nü".encode()).hexdigest()
  assert read.ids_sha256() == expected


def test_ids_may_be_bytes(tmp_path):
  path = str(tmp_path / "scores.npz")
  np.savez(path, ids=["ü".encode()], mids=[b"/m/x"], scores=[[1.0]])
  assert list(scoring.Scores.read(path).ids) == ["ü"]


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    (None, "not a file of scores"),
    (b"PK", "not a file of scores"),
    ({"ids": ["a"], "scores": [[1.0]]}, "mids"),
    ({"ids": ["a"], "mids": ["x"], "scores": [[1.0, 2.0]]}, r"\(1, 2\)"),
    ({"ids": ["a", "a"], "mids": ["x"], "scores": [[1.0], [2.0]]}, "1 diff"),
    ({"ids": [{}], "mids": ["x"], "scores": [[1.0]]}, "not a file of scores"),
    (
      {"ids": ["a", "b"], "mids": ["x"], "scores": [[1.0], [np.nan]]},
      "scores.npz: 1 of 2 clips have a non-finite score, the first is b",
    ),
  ],
)
def test_what_is_no_file_of_scores_is_refused(tmp_path, arrays, message):
  path = tmp_path / "scores.npz"
  if isinstance(arrays, bytes):
    path.write_bytes(arrays)
  elif arrays:
    np.savez(path, **arrays)
  with pytest.raises(ValueError, match=message):
    scoring.Scores.read(str(path))


def test_clips_are_found_by_their_ids():
  places, rows = _scores().rows_of(["b", "lost", "a"], 0.5, "FILE")
  assert list(places) == [0, 2]
  assert list(rows) == [2, 0]
  assert list(_scores().take(rows).ids) == ["b", "a"]


@pytest.mark.parametrize("min_coverage", [0.0, 0.99])
def test_too_few_clips_are_refused(min_coverage):
  with pytest.raises(ValueError, match="0 of 1 .* FILE.*'a'; 'Ya' is not"):
    _scores().rows_of(["Ya"], min_coverage, "FILE")


def test_clips_without_ids_cannot_be_found():
  nameless = _scores(ids=("", ""))
  with pytest.raises(ValueError, match="2 clips have 1 different"):
    nameless.content()
  with pytest.raises(ValueError, match="2 clips have 1 different"):
    nameless.rows_of(["a"], 0, "FILE")


def test_labels_are_read_without_the_audio(tmp_path):
  toy.write_dataset(tmp_path, broken="train3")
  split = prepared.find_split(str(tmp_path), "train")
  ids, targets = scoring.read_labels(split, 3)
  assert sorted(ids) == sorted(f"train{i}" for i in range(24))
  for clip_id, row in zip(ids, targets):
    index = int(clip_id[len("train") :])
    present = [0] if index == 3 else toy.clip(index, 16000)[1]
    assert list(np.flatnonzero(row)) == present


def test_a_digest_follows_names_and_contents(tmp_path):
  def digest(*files):
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    (folder / "sub").mkdir(parents=True)
    for name, content in files:
      (folder / name).write_text(content)
    return scoring.sha256_of(str(folder))

  one = digest(("a", "1"), ("sub/b", "2"))
  assert one == digest(("sub/b", "2"), ("a", "1"))
  assert one != digest(("a", "1"), ("sub/b", "3"))
  assert one != digest(("a", "1"), ("sub/c", "2"))
  file = tmp_path / "file"
  file.write_text("1")
  expected = hashlib.sha256(b"1").hexdigest()
  assert scoring.sha256_of(str(file)) == expected


def test_clips_of_each_class_are_counted_with_a_table_and_without(tmp_path):
  toy.write_dataset(tmp_path)
  split = prepared.find_split(str(tmp_path), "train")
  expected = [sum(c in toy.clip(i, 0)[1] for i in range(24)) for c in range(4)]
  for one in (split, dataclasses.replace(split, clips_file="")):
    seen = []
    counts = scoring.count_positives(one, 4, seen.append)
    assert counts.tolist() == expected and sum(seen) == 24
  with pytest.raises(ValueError, match="label 2, where the classes are 2"):
    scoring.count_positives(split, 2, seen.append)
