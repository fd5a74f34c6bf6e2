# SPDX-License-Identifier: Apache-2.0
"""Every architecture: parameter counts, any input size, gradients, XLA."""

import numpy as np
import pytest
import tensorflow as tf

from tf_audioset.models import convnext, efficientnet, resnet

_SEED = tf.constant([1, 2])


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


@pytest.mark.parametrize(
  ("depth", "torchvision"),
  [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160)],
)
def test_resnet_has_torchvisions_parameters(depth, torchvision):
  # As published for 3 channels and 1000 classes.
  model = resnet.ResNet(depth)
  assert _num_trainable(model, 3) + _head(model, 1000) == torchvision


@pytest.mark.parametrize("variant", ["b0", "b1", "b2", "b3", "b4"])
def test_efficientnet_has_the_parameters_of_keras_applications(variant):
  keras_model = getattr(
    tf.keras.applications, f"EfficientNet{variant.upper()}"
  )(include_top=False, weights=None, input_shape=(32, 32, 3))
  expected = sum(int(np.prod(v.shape)) for v in keras_model.trainable_variables)
  assert _num_trainable(efficientnet.EfficientNet(variant), 3) == expected


@pytest.mark.parametrize("variant", ["tiny", "small"])
def test_convnext_has_the_parameters_of_keras_applications(variant):
  keras_model = getattr(
    tf.keras.applications, f"ConvNeXt{variant.capitalize()}"
  )(include_top=False, weights=None, input_shape=(32, 32, 3))
  expected = sum(int(np.prod(v.shape)) for v in keras_model.trainable_variables)
  # Keras ends in a layer norm of its own when it has no top.
  assert _num_trainable(convnext.ConvNeXt(variant), 3) == expected


_SMALL = [
  lambda: resnet.ResNet(18, width=8),
  lambda: resnet.ResNet(50, width=4),
  lambda: efficientnet.EfficientNet("b0"),
  lambda: convnext.ConvNeXt("tiny"),
]
_NAMES = ["resnet18", "resnet50", "efficientnet", "convnext"]


@pytest.mark.parametrize("make", _SMALL, ids=_NAMES)
def test_any_size_of_input_gives_a_finite_embedding(make):
  model = make()
  for num_frames, num_bands in ((32, 32), (101, 64), (77, 128)):
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


def test_xla_agrees_on_the_forward_pass_in_training():
  model = resnet.ResNet(18, width=8)
  features = tf.random.stateless_normal([4, 64, 32, 1], _SEED)
  expected = model(features, training=True)
  compiled = tf.function(
    lambda x: model(x, training=True, seed=_SEED), jit_compile=True
  )
  np.testing.assert_allclose(compiled(features), expected, atol=1e-4)


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
  ],
)
def test_an_unknown_variant_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()
