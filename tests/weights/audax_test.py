# SPDX-License-Identifier: Apache-2.0
"""audax's checkpoints give audax's logits, or are refused."""

import gzip
import json

import gin
import msgpack
import numpy as np
import pytest
import tensorflow as tf

from tests import command, reference
from tests.models import sizes
from tf_audioset import experiment  # noqa: F401
from tf_audioset.data import labels  # noqa: F401
from tf_audioset.models import tagger  # noqa: F401
from tf_audioset.runtime import gin_config  # noqa: F401
from tf_audioset.serving import export, exported_tagger  # noqa: F401
from tf_audioset.weights import audax, pretrained  # noqa: F401

_FILES = {"resnet18": "ResNet18", "efficientnet_b0": "efficientnet_b0"}


def _tagger(model, num_classes=527):
  gin_config.load([f"gin/audax/{model}.gin"])
  built = gin.get_configurable(tagger.Tagger)(num_classes=num_classes)
  built(tf.zeros([1, 16000]))
  return built


@pytest.fixture(name="checkpoint", params=_FILES, scope="module")
def _checkpoint(request, tmp_path_factory):
  """Model, path of its checkpoint, and the logits expected of it."""
  name = _FILES[request.param]
  path = tmp_path_factory.mktemp("audax") / f"{name}.msgpack"
  packed = reference.golden(f"audax_{name}.msgpack.gz")
  path.write_bytes(gzip.decompress(packed.read_bytes()))
  with np.load(reference.golden(f"audax_{name}_expected.npz")) as file:
    return request.param, str(path), dict(file)


def test_the_logits_are_audaxs(checkpoint):
  model, path, expected = checkpoint
  ours = _tagger(model)
  audax.assign(audax.read_checkpoint(path), ours, model)
  with np.load(reference.golden("frontend.npz")) as file:
    golden = dict(file)

  def check(logits, seconds):
    wanted = expected[f"logits_{seconds}s"]
    np.testing.assert_allclose(logits, wanted, atol=1e-3 * wanted.std())

  # From the waveform; there is none of 10 s, so also from the log-mel.
  check(ours(golden["waveform_5s"]), 5)
  for seconds in (5, 10):
    log_mel = golden[f"log_mel_{seconds}s"][..., np.newaxis]
    check(ours.head(ours.backbone(log_mel)), seconds)


def test_the_tool_exports_what_predict_takes(checkpoint, tmp_path):
  model, path, expected = checkpoint
  out = command.succeed(
    "tools/import_weights.py",
    "--format=audax",
    f"--checkpoint={path}",
    f"--model={model}",
    f"--saved_model={tmp_path / 'model'}",
    f"--checkpoint_out={tmp_path / 'start'}",
  )
  assert "arrays" in out
  loaded = exported_tagger.ExportedTagger(str(tmp_path / "model"))
  assert loaded.classes == labels.ClassList.audioset()
  with np.load(reference.golden("frontend.npz")) as file:
    waveform = file["waveform_5s"].astype(np.float32) / 32768
  scores = loaded.score(waveform)[0].astype(np.float64)
  wanted = expected["logits_5s"]
  expit = 1 / (1 + np.exp(-wanted.astype(np.float64)))
  # A score has a quarter of the logit's error, at most.
  np.testing.assert_allclose(scores, expit, atol=1e-3 * wanted.std() / 4)
  # And both are a starting point for any classes.
  arrays = audax.read_checkpoint(path)
  whole = _tagger(model)
  audax.assign(arrays, whole, model)
  for place in ("start", "model"):
    started = _tagger(model, num_classes=3)
    pretrained.load(
      str(tmp_path / place), started, labels.ClassList.from_names("abc")
    )
    for variable, value in zip(
      started.backbone.variables, whole.backbone.variables
    ):
      np.testing.assert_array_equal(variable, value)


def _random_arrays(model):
  """What audax's tree of the model holds, with random values."""
  name = _FILES.get(model, model)
  with open(reference.golden(f"audax_{name}_tree.json")) as file:
    tree = json.load(file)
  rng = np.random.default_rng(0)
  arrays = {}
  for path, shape in tree.items():
    fan_in = np.prod(shape[:-1]) if len(shape) > 1 else 4
    values = rng.normal(size=shape) / np.sqrt(fan_in)
    if path.endswith(("/scale", "/gamma", "/var")):
      values = 1 + 0.1 * values
    arrays[path] = values.astype(np.float32)
  return arrays


@pytest.mark.parametrize("model", audax.MODELS)
def test_every_array_of_audaxs_tree_has_its_variable(model):
  arrays = _random_arrays(model)
  ours = _tagger(model)
  audax.assign(arrays, ours, model)
  sums = sorted(float(np.sum(v, dtype=np.float64)) for v in ours.variables)
  expected = sorted(float(np.sum(a, dtype=np.float64)) for a in arrays.values())
  np.testing.assert_allclose(sums, expected, rtol=1e-6, atol=1e-6)


def _convnext_of_operations(arrays, features):
  """The logits of audax's ConvNeXt, of which there is no checkpoint here."""

  def at(path, name):
    return arrays[f"params/{path}/{name}"]

  def conv(path, x, stride):
    x = tf.nn.conv2d(x, at(path, "kernel"), stride, "VALID")
    return x + at(path, "bias")

  def norm(path, x):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    x = (x - mean) / tf.sqrt(variance + 1e-6)
    return x * at(path, "scale") + at(path, "bias")

  def dense(path, x):
    return x @ at(path, "kernel") + at(path, "bias")

  x = norm("encoder/LayerNorm_0", conv("encoder/Conv_0", features, 4))
  for s, num_blocks in enumerate((3, 3, 9, 3)):
    stage = f"encoder/ConvNeXtStage_{s}"
    if s:
      x = conv(f"{stage}/Conv_0", norm(f"{stage}/LayerNorm_0", x), 2)
    for b in range(num_blocks):
      block = f"{stage}/ConvNeXtBlock_{b}"
      # A product of one input channel with one filter, for each channel.
      kernel = np.transpose(at(f"{block}/Conv_0", "kernel"), (0, 1, 3, 2))
      y = tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")
      y = norm(f"{block}/LayerNorm_0", y + at(f"{block}/Conv_0", "bias"))
      y = dense(f"{block}/Mlp_0/Dense_0", y)
      cubic = y + 0.044715 * y * y * y
      y = y * 0.5 * (1 + tf.tanh((2 / np.pi) ** 0.5 * cubic))
      x += dense(f"{block}/Mlp_0/Dense_1", y) * at(block, "gamma")
  return dense("fc", tf.reduce_mean(x, axis=[1, 2]))


def test_convnext_is_audaxs_written_out():
  arrays = _random_arrays("convnext_tiny")
  ours = _tagger("convnext_tiny")
  audax.assign(arrays, ours, "convnext_tiny")
  rng = np.random.default_rng(1)
  for size in sizes.USED:
    features = rng.normal(size=[1, *size, 1]).astype(np.float32)
    expected = _convnext_of_operations(arrays, features).numpy()
    actual = ours.head(ours.backbone(features)).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std())


def _pack(tree):
  def default(array):
    content = (array.shape, array.dtype.name, array.tobytes())
    return msgpack.ExtType(1, msgpack.packb(content))

  return msgpack.packb(tree, default=default)


def _packed(path, num_classes=527, **more):
  kernel = np.zeros([512, num_classes], np.float32)
  fc = {"kernel": kernel, "bias": kernel[0]}
  path.write_bytes(_pack({"step": 1, "params": {"fc": fc, **more}}))
  return path


def test_frozen_and_half_precision_arrays_are_read(tmp_path):
  path = tmp_path / "frozen.msgpack"
  half = np.arange(3, dtype=tf.bfloat16.as_numpy_dtype)
  path.write_bytes(
    _pack(
      {
        "params": {
          "fc": {"bias": np.float32([1, 2])},
          "encoder": {"bias": np.float32([4])},
        },
        "frozen_params": {"encoder": {"gamma": half}},
        "opt_state": {"0": {"mu": np.zeros(9, np.float32)}},
        "batch_stats": {"encoder": {"mean": np.float32([3])}},
      }
    )
  )
  arrays = audax.read_checkpoint(str(path))
  assert {name: a.astype(float).tolist() for name, a in arrays.items()} == {
    "params/fc/bias": [1, 2],
    "params/encoder/bias": [4],
    "params/encoder/gamma": [0, 1, 2],
    "batch_stats/encoder/mean": [3],
  }


def test_what_is_no_checkpoint_is_refused(tmp_path):
  whole = _packed(tmp_path / "whole.msgpack").read_bytes()
  contents = {
    "half": (whole[: len(whole) // 2], "not a whole file in flax's msgpack"),
    "noise": (bytes(range(256)), "in no known format of weights"),
    "other": (_pack({"weights": {"a": np.zeros(1)}}), "it holds no params"),
  }
  for name, (content, message) in contents.items():
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
      audax.read_checkpoint(str(tmp_path / name))
    assert "\n" not in str(error.value)
  with pytest.raises(ValueError, match="none: cannot be read"):
    audax.read_checkpoint(str(tmp_path / "none"))


def test_a_wrong_checkpoint_is_one_line(tmp_path):
  _packed(tmp_path / "few.msgpack", num_classes=50)
  _packed(tmp_path / "other.msgpack")

  def refuse(name):
    return command.fail(
      "tools/import_weights.py",
      "--format=audax",
      f"--checkpoint={tmp_path / name}",
      "--model=resnet18",
      f"--saved_model={tmp_path / 'model'}",
    )

  assert "50 classes, but AudioSet has 527" in refuse("few.msgpack")
  error = refuse("other.msgpack")
  assert "other.msgpack: not the checkpoint of a resnet18: without" in error
  assert "batch_stats/encoder/ResNetBlock_0/BatchNorm_0/mean" in error
  assert not (tmp_path / "model").exists()


def test_left_over_and_misshapen_arrays_are_named():
  ours = _tagger("resnet18", num_classes=3)
  arrays = {
    path: variable.numpy()
    for path, variable in {
      **audax._resnet(ours.backbone),
      **audax._dense("fc", ours.head),
    }.items()
  }
  audax.assign(arrays, ours, "resnet18")
  with pytest.raises(ValueError, match="with params/more"):
    audax.assign(
      {**arrays, "params/more": arrays["params/fc/bias"]}, ours, "resnet18"
    )
  with pytest.raises(ValueError, match=r"fc/kernel of shape \(3, 512\)"):
    audax.assign(
      {**arrays, "params/fc/kernel": arrays["params/fc/kernel"].T},
      ours,
      "resnet18",
    )
