# SPDX-License-Identifier: Apache-2.0
"""Every architecture: parameter counts, any input size, gradients, XLA."""

import pathlib

import gin
import numpy as np
import pytest
import tensorflow as tf

from tests import command, toy
from tf_audioset import experiment  # noqa: F401
from tf_audioset.models import convnext, efficientnet, resnet, vit
from tf_audioset.runtime import gin_config  # noqa: F401

_SEED = tf.constant([1, 2])
_ROOT = command.ROOT


def _num_trainable(model, channels=1):
  model(tf.zeros([1, 32, 32, channels]))
  return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def _head(model, num_classes=527):
  return (model.embedding_size + 1) * num_classes


@pytest.mark.parametrize(
  ("make", "expected"),
  [
    (resnet.ResNet, 11_440_591),
    (efficientnet.EfficientNet, 4_682_059),
    (convnext.ConvNeXt, 28_222_319),
  ],
)
def test_parameters_of_the_published_models(make, expected):
  model = make()
  assert _num_trainable(model) + _head(model) == expected


# For 3 channels and 1000 classes, by the authors or torchvision.
_PUBLISHED = {
  "gin/resnet18.gin": 11_689_512,
  "gin/sizes/resnet34.gin": 21_797_672,
  "gin/sizes/resnet50.gin": 25_557_032,
  "gin/sizes/resnet101.gin": 44_549_160,
  "gin/sizes/resnet152.gin": 60_192_808,
  "gin/sizes/resnet200.gin": 64_673_832,
  "gin/efficientnet_b0.gin": 5_288_548,
  "gin/sizes/efficientnet_b1.gin": 7_794_184,
  "gin/sizes/efficientnet_b2.gin": 9_109_994,
  "gin/sizes/efficientnet_b3.gin": 12_233_232,
  "gin/sizes/efficientnet_b4.gin": 19_341_616,
  "gin/sizes/efficientnet_b5.gin": 30_389_784,
  "gin/sizes/efficientnet_b6.gin": 43_040_704,
  "gin/sizes/efficientnet_b7.gin": 66_347_960,
  "gin/convnext_tiny.gin": 28_589_128,
  "gin/sizes/convnext_small.gin": 50_223_688,
  "gin/sizes/convnext_base.gin": 88_591_464,
  "gin/sizes/convnext_large.gin": 197_767_336,
  "gin/sizes/convnext_xlarge.gin": 350_196_968,
}


@pytest.mark.parametrize("gin_file", _PUBLISHED)
def test_every_size_has_the_published_parameters(gin_file, monkeypatch):
  add_weight = tf.keras.layers.Layer.add_weight

  def add_zeros(self, *args, **kwargs):
    # Only the shapes matter, and 350 million random numbers take a while.
    return add_weight(self, *args, **{**kwargs, "initializer": "zeros"})

  monkeypatch.setattr(tf.keras.layers.Layer, "add_weight", add_zeros)
  gin_config.load([gin_file])
  families = {
    "res": resnet.ResNet,
    "eff": efficientnet.EfficientNet,
    "con": convnext.ConvNeXt,
  }
  family = families[pathlib.Path(gin_file).name[:3]]
  model = gin.get_configurable(family)()
  assert _num_trainable(model, 3) + _head(model, 1000) == _PUBLISHED[gin_file]


def test_every_size_has_a_published_count():
  sizes = {str(p.relative_to(_ROOT)) for p in _ROOT.glob("gin/sizes/*.gin")}
  assert sizes < _PUBLISHED.keys()


def _expected_std(name, shape):
  """Standard deviation of initial weights: He et al. 2015, by the fan-out, or
  of a normal distribution of 0.02 that is cut off at twice that (ConvNeXt).
  """
  if "convnext" in name:
    return 0.02 * 0.87962566
  size, _, in_channels, out_channels = shape
  fan_out = size**2 * (1 if "depthwise" in name else out_channels)
  return np.sqrt(2 / fan_out)


@pytest.mark.parametrize(
  "make", [resnet.ResNet, efficientnet.EfficientNet, convnext.ConvNeXt]
)
def test_initial_weights(make):
  tf.keras.utils.set_random_seed(1)
  model = make()
  model(tf.zeros([1, 32, 32, 1]))
  constants = {"gamma": 1, "moving_variance": 1, "layer_scale": 1e-6}
  for v in model.variables:
    value = v.numpy()
    if v.shape.rank == 1:
      name = v.name.split("/")[-1].removesuffix(":0")
      np.testing.assert_array_equal(
        value, np.float32(constants.get(name, 0)), err_msg=v.name
      )
      continue
    name = f"{model.name}/{v.name}"
    # Five standard errors of the estimate.
    limit = 5 / np.sqrt(2 * value.size)
    assert value.std() == pytest.approx(
      _expected_std(name, value.shape), rel=limit
    ), v.name
    if model.name == "convnext":
      assert 0.035 < np.abs(value).max() <= 0.04


_SMALL = [
  lambda: resnet.ResNet(18, width=8),
  lambda: resnet.ResNet(50, width=4),
  lambda: efficientnet.EfficientNet("b0"),
  lambda: convnext.ConvNeXt("tiny"),
  lambda: vit.ViT("tiny", depth=2),
]
_NAMES = ["resnet18", "resnet50", "efficientnet", "convnext", "vit"]


# The transformer takes any number of frames, see tests/ced_test.py, but has a
# table of its bands.
@pytest.mark.parametrize("make", _SMALL[:-1], ids=_NAMES[:-1])
def test_any_size_of_input_gives_a_finite_embedding(make):
  model = make()
  for num_frames, num_bands in ((32, 32), (101, 64), (77, 128), (40, 224)):
    features = tf.random.stateless_normal([2, num_frames, num_bands, 1], _SEED)
    embedding = model(features).numpy()
    assert embedding.shape == (2, model.embedding_size)
    assert np.isfinite(embedding).all()


@pytest.mark.parametrize("make", _SMALL, ids=_NAMES)
def test_every_parameter_gets_a_gradient(make):
  model = make()
  features = tf.random.stateless_normal([4, 64, 32, 1], _SEED)
  weights = tf.random.stateless_normal([model.embedding_size], _SEED)
  with tf.GradientTape() as tape:
    embedding = model(features, training=True, seed=_SEED)
    loss = tf.reduce_sum(embedding * weights)
  gradients = tape.gradient(loss, model.trainable_variables)
  assert len(gradients) == len(model.trainable_variables) > 20
  for variable, gradient in zip(model.trainable_variables, gradients):
    assert gradient is not None, variable.name
    assert np.isfinite(gradient.numpy()).all(), variable.name


# A few small blocks of each kind: to compile them all takes minutes.
@pytest.mark.parametrize(
  "jit_compile", [True, False], ids=["as on a TPU", "as on a CPU"]
)
@pytest.mark.parametrize(
  ("module", "table", "shortened", "make"),
  [
    (
      resnet,
      "_STAGES",
      {18: ((1, 1), False)},
      lambda: resnet.ResNet(18, width=8),
    ),
    (
      efficientnet,
      "_STAGES",
      ((1, 3, 1, 16, 1), (6, 5, 2, 24, 2)),
      lambda: efficientnet.EfficientNet("b0", stochastic_depth_rate=0.5),
    ),
    (
      convnext,
      "_VARIANTS",
      {"tiny": ((1, 2), (8, 16))},
      lambda: convnext.ConvNeXt("tiny", stochastic_depth_rate=0.5),
    ),
    (
      vit,
      "_VARIANTS",
      {"tiny": (16, 2)},
      # In two chunks.
      lambda: vit.ViT(
        "tiny", depth=2, max_frames=48, stochastic_depth_rate=0.5
      ),
    ),
  ],
  ids=["resnet", "efficientnet", "convnext", "vit"],
)
def test_training_forward_and_backward_are_tensorflows(
  monkeypatch, module, table, shortened, make, jit_compile
):
  """Eagerly, each op is TensorFlow's own."""
  monkeypatch.setattr(module, table, shortened)
  model = make()
  # Odd, so that a rest is left out or padded.
  features = tf.random.stateless_normal([8, 69, 33, 1], _SEED)
  model(features)

  def gradients(features, seed):
    with tf.GradientTape() as tape:
      embedding = model(features, training=True, seed=seed)
      loss = tf.reduce_sum(embedding**2 + embedding)
    return tape.gradient(loss, model.trainable_variables)

  eager = gradients(features, _SEED)
  compiled = tf.function(gradients, jit_compile=jit_compile)(features, _SEED)
  # A shift before a batch norm has a gradient of 0, and only noise to compare.
  noise = 1e-4 * max(np.abs(b).max() for b in eager)
  for variable, a, b in zip(model.trainable_variables, compiled, eager):
    tolerance = 1e-2 * np.abs(b).max() + noise
    np.testing.assert_allclose(a, b, atol=tolerance, err_msg=variable.name)


@pytest.mark.parametrize("make", _SMALL, ids=_NAMES)
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(make):
  features = tf.random.stateless_normal([4, 64, 32, 1], _SEED)
  exact = make()
  expected = exact(features).numpy()
  with toy.precision("mixed_bfloat16"):
    model = make()
    model(features)
    for variable, value in zip(model.variables, exact.variables):
      variable.assign(value)
    embedding = model(features)
  assert embedding.dtype == tf.bfloat16
  assert {v.dtype for v in model.variables} == {tf.float32}
  actual = tf.cast(embedding, tf.float32).numpy()
  # 8 bits of mantissa, through some dozens of layers.
  assert np.abs(actual - expected).max() < 0.1 * np.abs(expected).max()


def test_a_transformer_refuses_other_bands_than_it_was_built_for():
  model = vit.ViT(depth=1)
  model(tf.zeros([1, 16, 64, 1]))
  with pytest.raises(ValueError, match="8 patches in frequency.*built for 4"):
    model(tf.zeros([1, 16, 128, 1]))


def test_evaluation_is_deterministic_and_training_follows_the_seed():
  model = efficientnet.EfficientNet(stochastic_depth_rate=0.9)
  features = tf.random.stateless_normal([4, 64, 32, 1], _SEED)
  np.testing.assert_array_equal(model(features), model(features))
  one, same, other = (
    model(features, training=True, seed=seed).numpy()
    for seed in (_SEED, _SEED, _SEED + 1)
  )
  np.testing.assert_array_equal(one, same)
  assert np.any(one != other)
  with pytest.raises(ValueError, match="needs a seed"):
    model(features, training=True)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: resnet.ResNet(19), "depth is 19.*18, 34"),
    (lambda: efficientnet.EfficientNet("b9"), "'b9'.*b0"),
    (lambda: convnext.ConvNeXt("huge"), "'huge'.*tiny"),
    (lambda: vit.ViT("huge"), "'huge'.*tiny"),
    (lambda: vit.ViT(depth=0), "depth is 0; at least 1"),
    (lambda: vit.ViT(max_frames=15), "patch_size is 16; allowed is 1 to"),
    (lambda: vit.ViT()(tf.zeros([1, 32, 8, 1])), "features of 8 bands"),
  ],
)
def test_an_unknown_variant_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
