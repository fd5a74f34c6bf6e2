# SPDX-License-Identifier: Apache-2.0
"""Networks of images give the features of those that they were taken from."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from tests import command, reference, toy
from tests.weights import weight_files_test
from tf_audioset import features
from tf_audioset.data import labels
from tf_audioset.models import convnext, efficientnet, resnet, tagger, vit
from tf_audioset.runtime.errors import UserError
from tf_audioset.serving import exported_tagger
from tf_audioset.training import losses
from tf_audioset.weights import images, pretrained, weight_files

# Even in every stage, for which keras.applications pads where it is built for
# any size; timm's golden features are of 513 x 65, odd in every stage.
_SIZE = (512, 64)
_BACKBONES = {
  "resnet18": functools.partial(resnet.ResNet, 18),
  "tf_efficientnet_b0": functools.partial(
    efficientnet.EfficientNet, "b0", batch_norm_epsilon=1e-3
  ),
  "convnext_tiny": functools.partial(convnext.ConvNeXt, "tiny"),
}


def _built(name):
  backbone = _BACKBONES[name]()
  backbone(tf.zeros([1, 101, 64, 1]))
  return backbone


def _golden(name):
  """Timm's features and the embedding that it makes of them."""
  with np.load(reference.golden("timm_expected.npz")) as golden:
    x = golden["x_513x65"].astype(np.float32)
    return x.transpose(0, 3, 2, 1), golden[f"timm_{name}_embedding_513x65"]


def _assert_close(actual, expected):
  np.testing.assert_allclose(actual, expected, atol=1e-3 * expected.std())


@pytest.mark.parametrize("name", _BACKBONES)
def test_files_of_timm_start_a_tagger(name):
  path = str(reference.golden(f"timm_{name}.safetensors.gz"))
  classes = labels.ClassList.from_names(toy.NAMES)
  model = tagger.Tagger(
    len(classes),
    frontend=features.LogMel(),
    backbone=_BACKBONES[name](),
    loss=losses.MultiLabel(),
  )
  model(tf.zeros([1, 16000]))
  head = model.head.kernel.numpy()
  said = pretrained.load(path, model, classes, config_gin="a.b = 1")
  assert said == f"starting from {path}, trained on images; the head is new"
  np.testing.assert_array_equal(model.head.kernel, head)
  x, expected = _golden(name)
  _assert_close(model.backbone(x).numpy(), expected)


def test_torchvisions_convnext_is_timms(tmp_path):
  arrays = weight_files.read(
    str(reference.golden("timm_convnext_tiny.safetensors.gz"))
  )
  renamed = {}
  for name, value in arrays.items():
    # As torchvision/models/convnext.py puts its layers in sequences.
    place = name.replace("stem.", "features.0.")
    place = place.replace("head.norm.", "classifier.0.")
    place = place.replace("head.fc.", "classifier.2.")
    place = re.sub(
      r"stages\.(\d)\.downsample",
      lambda found: f"features.{2 * int(found[1])}",
      place,
    )
    place = re.sub(
      r"stages\.(\d)\.blocks\.(\d)",
      lambda found: f"features.{2 * int(found[1]) + 1}.{found[2]}",
      place,
    )
    for timms, theirs in (
      (".conv_dw", ".block.0"),
      (".norm", ".block.2"),
      (".mlp.fc1", ".block.3"),
      (".mlp.fc2", ".block.5"),
    ):
      place = re.sub(rf"(features\.\d\.\d){timms}", rf"\1{theirs}", place)
    if place.endswith(".gamma"):
      place = place.replace(".gamma", ".layer_scale")
      value = value.reshape([-1, 1, 1])
    renamed[place] = value
  assert all(name.startswith(("features.", "classifier.")) for name in renamed)
  path = tmp_path / "convnext.safetensors"
  path.write_bytes(weight_files_test.safetensors(renamed))
  backbone = _built("convnext_tiny")
  images.load(str(path), backbone)
  x, expected = _golden("convnext_tiny")
  _assert_close(backbone(x).numpy(), expected)


def _randomise(model):
  """Other norms and layer scales than those at the start, which hide much."""
  rng = np.random.default_rng(0)
  for v in model.variables:
    if v.shape.rank == 1 and "normalization/" not in v.name:
      v.assign(rng.uniform(0.5, 1.5, v.shape))


@pytest.mark.parametrize("name", ["tf_efficientnet_b0", "convnext_tiny"])
def test_keras_applications_without_top(name, tmp_path):
  if name == "convnext_tiny":
    theirs = body = tf.keras.applications.ConvNeXtTiny(
      include_top=False,
      include_preprocessing=False,
      weights=None,
      input_shape=(None, None, 3),
      pooling="avg",
    )
  else:
    theirs = tf.keras.applications.EfficientNetB0(
      include_top=False,
      weights=None,
      input_shape=(None, None, 3),
      pooling="avg",
    )
    body = tf.keras.Model(
      theirs.get_layer("stem_conv_pad").input, theirs.output
    )
  _randomise(theirs)
  path = str(tmp_path / f"{name}_notop.h5")
  theirs.save_weights(path)
  backbone = _built(name)
  images.load(path, backbone)
  x = np.random.default_rng(1).normal(size=[1, *_SIZE, 1]).astype(np.float32)
  # A grey image, whose height is the frequency.
  grey = np.repeat(x.transpose(0, 2, 1, 3), 3, axis=-1)
  _assert_close(backbone(x).numpy(), body(grey, training=False).numpy())


def _changed_file(tmp_path, change):
  """Writes timm's ResNet18 but for a change; returns the path."""
  golden = reference.golden("timm_resnet18.safetensors.gz")
  arrays = weight_files.read(str(golden))
  change(arrays)
  path = tmp_path / "resnet.safetensors"
  path.write_bytes(weight_files_test.safetensors(arrays))
  return str(path)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda a: a.pop("layer2.0.conv1.weight"), "no layer2.0.conv1.weight"),
    (
      lambda a: a.update({"layer5.weight": np.zeros(3, np.float32)}),
      "no place for layer5.weight",
    ),
    (
      lambda a: a.update({"bn1.weight": np.zeros(3, np.float32)}),
      r"bn1.weight has the shape \[3\] in our layout; resnet needs \[64\]",
    ),
    (
      lambda a: a.update({f"x{i}": np.zeros(1, np.float32) for i in range(9)}),
      "no place for x0, x1, x2, x3, x4 and 4 more",
    ),
    (
      lambda a: a.update({"bn1.weight": np.full(64, np.nan, np.float32)}),
      "bn1.weight holds numbers that are not finite",
    ),
  ],
)
def test_arrays_that_do_not_fit_are_named(change, message, tmp_path):
  path = _changed_file(tmp_path, change)
  with pytest.raises(UserError, match=message) as error:
    images.load(path, _built("resnet18"))
  assert "\n" not in str(error.value)


def test_networks_that_take_no_images_are_told():
  with pytest.raises(UserError, match="not for ViT; tools/import_weights.py"):
    images.load("ced.safetensors", vit.ViT("tiny", depth=1))


@pytest.mark.parametrize(
  ("backbone", "message"),
  [
    (efficientnet.EfficientNet("b0"), "epsilon = 0.001.* bind it to 0.001"),
    (
      # As audax's, whose squeeze and excitation have no biases.
      efficientnet.EfficientNet("b0", se_bias=False, batch_norm_epsilon=1e-3),
      "EfficientNet.se_bias = True, and it is False here",
    ),
    (
      convnext.ConvNeXt(approximate_gelu=True),
      "ConvNeXt.approximate_gelu = False, and it is True here",
    ),
    (convnext.ConvNeXt(final_norm=False), "ConvNeXt.final_norm = True"),
  ],
)
def test_other_arguments_than_these_networks_have_are_told(backbone, message):
  with pytest.raises(UserError, match=message):
    images.load("weights.pth", backbone)


def test_a_config_of_another_architecture_is_refused(tmp_path):
  # It has all names and shapes of ours, but pads otherwise.
  (tmp_path / "config.json").write_text('{"architecture": "efficientnet_b0"}')
  message = "of 'efficientnet_b0', not of a tf_efficientnet_b0"
  with pytest.raises(UserError, match=message):
    images.load(
      str(tmp_path / "model.safetensors"),
      efficientnet.EfficientNet("b0", batch_norm_epsilon=1e-3),
    )


def _import(path, source, out, run=command.succeed):
  return run(
    "tools/import_weights.py",
    f"--format={source}",
    "--model=efficientnet_b0",
    f"--checkpoint={path}",
    f"--saved_model={out / 'model'}",
    f"--checkpoint_out={out / 'start'}",
  )


def test_the_importer_makes_a_start_with_a_new_head(tmp_path):
  path = reference.golden("timm_tf_efficientnet_b0.safetensors.gz")
  out = _import(path, "timm", tmp_path)
  assert f"arrays of {path} to {tmp_path / 'model'}" in out
  assert "warning: the head is new" in out
  expected = _built("tf_efficientnet_b0")
  images.load(str(path), expected)
  exported = exported_tagger.ExportedTagger(str(tmp_path / "model"))
  waveform = np.random.default_rng(0).normal(0, 0.1, [1, 80000])
  waveform = waveform.astype(np.float32)
  log_mel = features.LogMel()(waveform)[..., np.newaxis]
  embedding = exported.score(waveform)[1]
  _assert_close(embedding, expected(log_mel).numpy())
  for place in ("start", "model"):
    started = tagger.Tagger(
      2,
      frontend=features.LogMel(),
      backbone=_built("tf_efficientnet_b0"),
      loss=losses.MultiLabel(),
    )
    started(tf.zeros([1, 16000]))
    classes = labels.ClassList.from_names("ab")
    pretrained.load(str(tmp_path / place), started, classes)
    for variable, value in zip(started.backbone.variables, expected.variables):
      np.testing.assert_array_equal(variable, value)


def test_the_importer_tells_one_format_from_the_other(tmp_path):
  path = reference.golden("timm_tf_efficientnet_b0.safetensors.gz")
  error = _import(path, "keras", tmp_path, command.fail)
  assert f"{path} has the names of timm's weights" in error
  assert not (tmp_path / "model").exists()
