# SPDX-License-Identifier: Apache-2.0
"""Weights come from wherever a user has them, and only into their model."""

import functools
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


# As an earlier version would have written it: not all that LogMel has now.
_CONFIG = """
# Parameters for LogMel:
LogMel.engine = 'auto'
LogMel.num_mels = %bands
LogMel.upper_hz = 7800.0
bands = 64
Pipeline.crop_seconds = 5.0
Pipeline.padding = 'repeat'
ResNet.batch_norm_epsilon = 1e-05
ResNet.batch_norm_momentum = 0.9
Tagger.backbone = @ResNet()
Tagger.frontend = @LogMel()
train.seed = 1
"""


@pytest.fixture(name="source", scope="module")
def _source(tmp_path_factory):
  """A tagger and a work directory as training leaves it."""
  folder = tmp_path_factory.mktemp("run")
  model = _tagger(1)
  for i, variable in enumerate(model.variables):
    variable.assign_add(tf.random.stateless_normal(variable.shape, [i, 0]))
  rows = {"classes": _CLASSES.to_json()}
  (folder / "run.json").write_text(json.dumps(rows))
  (folder / "config.gin").write_text(_CONFIG)
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
    config_gin=_CONFIG,
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


_PLACES_WITH_CONFIG = ["", "checkpoints/ckpt-7", "saved_model"]


@functools.cache
def _other():
  return _tagger(2)


def _load(path, here, **options):
  """What `load` says, and whether it set a model's weights."""
  model = _other()
  before = np.zeros(model.variables[0].shape)
  model.variables[0].assign(before)
  try:
    line = pretrained.load(
      str(path), model, _CLASSES, config_gin=here, **options
    )
  finally:
    has_changed = np.any(model.variables[0].numpy() != before)
  return line, has_changed


@pytest.mark.parametrize(
  ("old", "new", "difference"),
  [
    ("%bands", "128", "LogMel.num_mels is 64 there and 128 here"),
    ("7800.0", "8000.0", "LogMel.upper_hz is 7800.0 there and 8000.0 here"),
    (
      "Pipeline.padding = 'repeat'",
      "Pipeline.padding = 'zero'",
      "Pipeline.padding is repeat there and zero here",
    ),
    (
      "train.seed",
      "LogMel.area_normalised = True\ntrain.seed",
      "LogMel.area_normalised is False there and True here",
    ),
    (
      "@LogMel()",
      "@LogSpectrogram()",
      "Tagger.frontend is @LogMel() there and @LogSpectrogram() here",
    ),
    ("1e-05", "0.001", "ResNet.batch_norm_epsilon is 1e-05 there and 0.001 "),
  ],
)
def test_weights_of_another_front_end_are_taken_only_if_insisted(
  source, old, new, difference
):
  path = source[1]
  here = _CONFIG.replace(old, new)
  assert here != _CONFIG
  with pytest.raises(ValueError) as error:
    _load(path, here)
  assert difference in str(error.value)
  assert str(error.value).startswith(str(path))
  assert "--allow_other_features" in str(error.value)
  assert str(error.value).count(" there and ") == 1
  line, has_changed = _load(path, here, allow_other_features=True)
  assert f"warning: trained on other features: {difference}" in line
  assert has_changed


@pytest.mark.parametrize("place", _PLACES_WITH_CONFIG)
def test_what_makes_no_other_features_may_differ(source, place):
  here = (
    _CONFIG.replace("'auto'", "'matmul'")
    .replace("train.seed = 1", "train.seed = 2")
    .replace("5.0", "2.0")
    .replace("0.9", "0.99")
    .replace("%bands", "64")
  ) + "LogMel.area_normalised = False\nLogMel.hop_samples = 160\n"
  line, has_changed = _load(source[1] / place, here)
  assert "warning" not in line and has_changed
  with pytest.raises(ValueError, match="num_mels is 64 there and 32 here"):
    _load(source[1] / place, _CONFIG.replace("%bands", "32"))


def test_a_base_whose_front_end_is_not_known_is_told(source, tmp_path):
  path = tf.train.Checkpoint(model=source[0]).save(str(tmp_path / "a" / "ckpt"))
  line, _ = _load(path, _CONFIG)
  assert "warning: which front end these weights were trained with" in line
  (tmp_path / "a" / "config.gin").write_text(_CONFIG)  # As import_audax does.
  assert "warning" not in _load(path, _CONFIG)[0]
  with pytest.raises(ValueError, match="num_mels is 64 there and 32 here"):
    _load(path, _CONFIG.replace("%bands", "32"))


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
      r"backbone/stem/conv/kernel has the shape \[7, 7, 1, 8\] in the model "
      r"and \[7, 7, 1, 4\] there",
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
