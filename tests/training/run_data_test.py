# SPDX-License-Identifier: Apache-2.0
"""Which clips train and validate, and whether they can."""

import dataclasses

import numpy as np
import pytest

from tests import toy
from tf_audioset.data import labels, prepared
from tf_audioset.training import losses, run_data


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("records")
  toy.write_dataset(folder)
  return folder


def _choose(folder, **changes):
  values = {
    "training_split": "train",
    "validation_split": "eval",
    "holdout_percent": 0,
    "training_percent": 100,
  }
  return run_data.choose(str(folder), **{**values, **changes})


def test_the_line_says_which_clips_validate(folder):
  buckets = prepared.find_split(str(folder), "train").index.bucket
  data = _choose(folder)
  assert (data.training.num_clips, data.validation.num_clips) == (24, 10)
  assert data.about == "10 clips of split eval"
  data = _choose(folder, holdout_percent=30, training_percent=50)
  held_out, used = (buckets < 30).sum(), (buckets >= 50).sum()
  assert (data.training.num_clips, data.validation.num_clips) == (
    used,
    held_out,
  )
  assert data.about == (
    f"{held_out} clips of split train, held out by a hash of their ids "
    "(train.holdout_percent = 30); split eval is not used"
  )
  data = _choose(folder, holdout_percent=30, validation_split="none")
  assert data.about.endswith("(train.holdout_percent = 30)")
  data = _choose(folder, validation_split="train")
  assert data.about == "24 clips of split train, which is trained on"


def test_a_missing_split_is_told_with_ways_out(folder, tmp_path):
  with pytest.raises(ValueError) as error:
    _choose(folder, validation_split="test")
  assert str(error.value) == (
    f"{folder}: there is no split 'test' to validate on; there are ['eval', "
    "'train']. Prepare it (tools/make_tfrecords.py --split=test), name another "
    "with train.validation_split, or hold out clips of 'train': "
    "--gin_bindings='train.holdout_percent = 10'."
  )
  with pytest.raises(ValueError, match="no split 'tain'; there are .*eval"):
    _choose(folder, training_split="tain")
  with pytest.raises(ValueError, match="no prepared data"):
    _choose(tmp_path)
  # audax's have folders.
  (tmp_path / "train").mkdir()
  first = "train-00000-of-00003.tfrecord"
  (tmp_path / "train" / "a.tfrec").symlink_to(folder / first)
  with pytest.raises(ValueError, match="no split 'eval' to validate on; .*'tr"):
    _choose(tmp_path)
  with pytest.raises(ValueError, match=r"no split 'none'; there are \['train"):
    _choose(tmp_path, training_split="none")


def test_a_percentage_that_takes_no_clip_names_the_least_that_does(folder):
  buckets = prepared.find_split(str(folder), "train").index.bucket
  low, high = int(buckets.min()), int(buckets.max())
  for changes, fitting, message in (
    (
      {"holdout_percent": low},
      {"holdout_percent": low + 1},
      f"train.holdout_percent = {low} holds out no clip of the 24 of split "
      "train: which are taken follows from a hash of their ids. Here the least "
      f"that holds out one is {low + 1}.",
    ),
    (
      {"holdout_percent": high + 1},
      {"holdout_percent": high},
      f"train.holdout_percent = {high + 1} leaves no clip of the 24 of split "
      "train: which are taken follows from a hash of their ids. Here the most "
      f"that leaves one to train on is {high}.",
    ),
    (
      {"training_percent": 99 - high},
      {"training_percent": 100 - high},
      f"train.training_percent = {99 - high} takes no clip of the 24 of split "
      "train: which are taken follows from a hash of their ids. Here the least "
      f"that takes one is {100 - high}.",
    ),
  ):
    with pytest.raises(ValueError) as error:
      _choose(folder, **changes)
    assert str(error.value) == message
    assert _choose(folder, **fitting).training.num_clips


def _labelled(of_training, of_validation, names=("A", "B", "C")):
  """Data of clips with such labels, that are in the table alone."""

  class Split(prepared.Split):
    def clips(self):
      builder = prepared.ClipTableBuilder()
      for i, found in enumerate(self.codec):  # In place of a file.
        builder.add(f"clip{i}", 16000, found, i)
      return builder.build()

  classes = labels.ClassList.from_names(names)
  splits = [
    Split([f"{name}.tfrecord"], len(found), "", classes, None, codec=found)
    for name, found in (("train", of_training), ("eval", of_validation))
  ]
  return run_data.RunData(*splits, about="")


def _check(data, loss, needs_metrics=False):
  return run_data.check_labels(data, loss, needs_metrics=needs_metrics)


def test_one_label_a_clip_is_checked_where_the_loss_needs_it():
  good = _labelled([[0], [1], [2]], [[0], [1]])
  assert _check(good, losses.MultiClass()) == []
  for what, several in (
    ("training", _labelled([[0], [1, 2], [0, 1], [2]], [[0], [1]])),
    ("validation", _labelled([[0], [1], [2]], [[0], [1, 2], [0, 1], [2]])),
  ):
    assert _check(several, losses.MultiLabel()) == []
    with pytest.raises(ValueError) as error:
      _check(several, losses.MultiClass())
    found = f"2 of the 4 {what} clips have several labels (such as clip1: B, C)"
    assert str(error.value) == (
      f"Tagger.loss = @MultiClass() is for one label a clip, but {found}: give "
      "Tagger.loss = @MultiLabel(); or MultiClass.several_labels = 'share', "
      "with which a clip is each of its labels in equal shares."
    )
    assert _check(several, losses.MultiClass(several_labels="share")) == [
      f"{found}: with MultiClass each counts as an equal share"
    ]
  bare = _labelled([[0], [1], [2], []], [[0], [1]])
  assert _check(bare, losses.MultiLabel()) == []
  (line,) = _check(bare, losses.MultiClass())
  assert line.startswith("warning: 1 of the 4 training clips have no label")


@pytest.mark.parametrize(
  ("found", "names", "have"),
  [
    ([[0], [0]], ["A"], r"have the same labels \(A\)"),
    ([[0, 2], [0, 2]], ["A", "B", "C"], r"have the same labels \(A, C\)"),
    ([[], []], ["A", "B"], "have no label"),
    ([[1]], ["A", "B"], r"have the same labels \(B\)"),
  ],
)
def test_data_from_which_nothing_is_learnt_is_refused(found, names, have):
  data = _labelled(found, [[0], []], names)
  with pytest.raises(
    ValueError,
    match=f"nothing to learn: all {len(found)} training clips {have}. At least "
    "one class needs clips with it and clips without it: add clips of other s",
  ):
    _check(data, losses.MultiLabel())


def test_one_class_is_learnt_with_clips_without_it_by_the_fitting_loss():
  data = _labelled([[0], []], [[0], []], ["A"])
  assert _check(data, losses.MultiLabel()) == []
  with pytest.raises(ValueError, match="there is nothing to learn"):
    _check(data, losses.MultiClass())


def test_a_validation_that_measures_nothing_is_told():
  data = _labelled([[0], [1], [0, 1]], [[0], [0]], ["A", "B", "C"])
  lines = _check(data, losses.MultiLabel())
  assert lines == [
    "warning: 1 of 3 classes have no training clip: C",
    "warning: mAP will be nan: no class has positive and negative clips among "
    "the 2 validation clips: validate on more clips, of several classes "
    "(train.validation_split, train.holdout_percent)",
  ]
  with pytest.raises(ValueError, match="'best': no checkpoint can be the best"):
    _check(data, losses.MultiLabel(), needs_metrics=True)


def test_a_label_that_is_no_class_is_told():
  data = _labelled([[0], [5]], [[0], [1]])
  with pytest.raises(ValueError, match="train.tfrecord: .*label 5, .* has 3"):
    _check(data, losses.MultiLabel())


def test_without_tables_the_first_clips_are_looked_at(folder, monkeypatch):
  data = _choose(folder)
  data = run_data.RunData(
    *(
      dataclasses.replace(split, clips_file="")
      for split in (data.training, data.validation)
    ),
    about="",
  )
  several = sum(len(toy.clip(i, 0)[1]) > 1 for i in range(24))
  assert _check(data, losses.MultiLabel()) == []
  with pytest.raises(ValueError, match=f"{several} of the 24 training clips"):
    _check(data, losses.MultiClass())
  monkeypatch.setattr(run_data, "_NUM_SAMPLED", 2)
  first = [len(toy.clip(i, 0)[1]) > 1 for i in (0, 3)]  # Of the first shard.
  assert np.sum(first)
  with pytest.raises(ValueError, match=f"{sum(first)} of the first 2 training"):
    _check(data, losses.MultiClass())
  # The labels of two clips do not tell those of all.
  assert _check(data, losses.MultiLabel(), needs_metrics=True) == []
