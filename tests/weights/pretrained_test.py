# SPDX-License-Identifier: Apache-2.0
"""Weights come from wherever a user has them, and only into their model."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests import toy
from tf_audioset import features
from tf_audioset.data import labels
from tf_audioset.models import resnet, tagger
from tf_audioset.serving import export
from tf_audioset.training import losses
from tf_audioset.weights import pretrained

_CLASSES = labels.ClassList(("/m/a", "/m/b", "/m/c"), ("A", "B", "C"))
_OTHERS = labels.ClassList(("/m/a", "/m/c", "/m/b"), ("A", "C", "B"))


def _tagger(seed, num_classes=3, **options):
  tf.keras.utils.set_random_seed(seed)
  model = tagger.Tagger(
    num_classes,
    frontend=features.LogMel(),
    backbone=resnet.ResNet(**{"depth": 18, "width": 4, **options}),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, 8000]))
  return model


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory):
  """A tagger and a work directory as training leaves it."""
  folder = tmp_path_factory.mktemp("run")
  model = _tagger(1)
  for i, variable in enumerate(model.variables):
    variable.assign_add(tf.random.stateless_normal(variable.shape, [i, 0]))
  rows = {"classes": _CLASSES.to_json()}
  (folder / "run.json").write_text(json.dumps(rows))
  optimizer = tf.keras.optimizers.SGD(momentum=0.9)
  optimizer.build(model.trainable_variables)
  checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
  for name, step in (("checkpoints", 7), ("best", 5)):
    tf.train.CheckpointManager(checkpoint, folder / name, 1).save(step)
  export.export(
    model,
    str(folder / "saved_model" / "1"),
    classes=_CLASSES,
    min_samples=8000,
    padding="repeat",
  )
  return model, folder


_PLACES = {
  "": "best/ckpt-5",
  "/": "best/ckpt-5",
  "checkpoints": "checkpoints/ckpt-7",
  "checkpoints/ckpt-7": "checkpoints/ckpt-7",
  "saved_model": "saved_model/1/variables/variables",
  "saved_model/1": "saved_model/1/variables/variables",
}


@pytest.mark.parametrize(("place", "found"), _PLACES.items())
def test_weights_are_found(source, place, found):
  expected, folder = source
  for classes, new in ((_CLASSES, ""), (_OTHERS, "; the head is new")):
    model = _tagger(2)
    drawn = [v.numpy() for v in model.head.variables]
    line = pretrained.load(f"{folder}/{place}".rstrip("/"), model, classes)
    assert line == f"starting from {folder / found}, of 3 classes{new}"
    for actual, wanted in zip(
      model.backbone.variables, expected.backbone.variables
    ):
      np.testing.assert_array_equal(actual, wanted)
    head = drawn if new else [v.numpy() for v in expected.head.variables]
    for actual, wanted in zip(model.head.variables, head):
      np.testing.assert_array_equal(actual, wanted)


def test_without_a_class_list_the_number_of_classes_decides(source, tmp_path):
  path = tf.train.Checkpoint(model=source[0]).save(str(tmp_path / "ckpt"))
  assert pretrained.load(path, _tagger(2), _OTHERS).endswith("of 3 classes")
  two = labels.ClassList.from_names(["A", "B"])
  line = pretrained.load(path, _tagger(2, num_classes=2), two)
  assert line.endswith("of 3 classes; the head is new")


def test_replicas_and_mixed_precision_are_no_matter(source):
  expected, folder = source
  with toy.precision("mixed_bfloat16"):
    with toy.two_replicas().scope():
      model = _tagger(2)
    pretrained.load(str(folder), model, _CLASSES)
  for actual, wanted in zip(model.variables, expected.variables):
    for value in toy.two_replicas().experimental_local_results(actual):
      np.testing.assert_array_equal(value.numpy(), wanted.numpy())


@pytest.mark.parametrize("place", ["checkpoints", "saved_model"])
@pytest.mark.parametrize(
  ("other", "message"),
  [
    (
      {"width": 8},
      r"backbone/stem/kernel has the shape \[7, 7, 1, 8\] in the model and "
      r"\[7, 7, 1, 4\] there",
    ),
    ({"depth": 34}, r"backbone/blocks/2/\S+ has the shape"),
    ({"depth": 50}, r"backbone/blocks/0/\S+ has the shape"),
  ],
)
def test_the_first_variable_that_differs_is_named(
  source, place, other, message
):
  model = _tagger(2, **other)
  before = [v.numpy() for v in model.variables]
  with pytest.raises(ValueError, match=message) as error:
    pretrained.load(str(source[1] / place), model, _CLASSES)
  assert "\n" not in str(error.value)
  np.testing.assert_equal([v.numpy() for v in model.variables], before)


def test_what_the_model_lacks_is_named(tmp_path):
  model = _tagger(1)
  model.backbone.more = tf.Variable([1.0, 2.0])
  path = tf.train.Checkpoint(model=model).save(str(tmp_path / "ckpt"))
  with pytest.raises(
    ValueError, match=r"has no model/backbone/more, of the shape \[2\] there"
  ):
    pretrained.load(path, _tagger(2), _CLASSES)


@pytest.mark.parametrize("place", ["none", "", "folder", "other", "ckpt-1"])
def test_what_holds_no_weights_is_told(tmp_path, place):
  (tmp_path / "folder").mkdir()
  tf.saved_model.save(tf.Module(), str(tmp_path / "other"))
  (tmp_path / "ckpt-1.index").write_bytes(b"?")
  with pytest.raises(
    ValueError, match="no weights to start from|checkpoint cannot be read"
  ) as error:
    pretrained.load(str(tmp_path / place), _tagger(2), _CLASSES)
  assert str(tmp_path / place) in str(error.value)
