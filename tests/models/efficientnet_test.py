# SPDX-License-Identifier: Apache-2.0
"""EfficientNet against the one of keras.applications, weights copied."""

import numpy as np
import tensorflow as tf
from keras.src.applications import imagenet_utils

from tests.models import norms, sizes
from tf_audioset.models import efficientnet

_EPSILON = 1e-3  # keras.applications'.


def _norms(model):
  """Each convolution with its batch norm."""
  parts = [model.stem, model.head]
  for block in model.blocks:
    if block.expand is not None:
      parts.append(block.expand)
    parts += [block.depthwise, block.project]
  return [(part.conv, part.norm) for part in parts]


def _pad_for(model, size):
  """Makes keras.applications' model one for features of a size.

  It pads explicitly, by sizes that it knows only when it is built.
  """
  for layer in model.layers:
    if not isinstance(layer, tf.keras.layers.ZeroPadding2D):
      continue
    padded = model.get_layer(layer.name.replace("_pad", ""))
    layer.padding = imagenet_utils.correct_pad(
      tf.keras.Input([*size, 1]), padded.kernel_size
    )
    size = [-(-length // 2) for length in size]


def test_b0_gives_the_features_of_keras_applications():
  keras_model = tf.keras.applications.EfficientNetB0(
    include_top=False,
    weights=None,
    input_shape=(None, None, 3),
    pooling="avg",
  )
  # After its preprocessing (a rescaling, a normalisation, a rescaling), which
  # is not part of the architecture.
  body = tf.keras.Model(
    keras_model.get_layer("stem_conv_pad").input, keras_model.output
  )
  model = efficientnet.EfficientNet("b0", batch_norm_epsilon=_EPSILON)
  model(tf.zeros([1, 32, 32, 3]))
  rng = np.random.default_rng(0)
  norms.randomise(_norms(model), epsilon=_EPSILON)
  for block in model.blocks:
    for bias in (block.squeeze.bias, block.excite.bias):
      bias.assign(rng.uniform(-0.5, 0.5, bias.shape))
  for ours, theirs in (
    (model.trainable_variables, body.trainable_variables),
    (model.non_trainable_variables, body.non_trainable_variables),
  ):
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs):
      assert our.shape == their.shape, (our.name, their.name)
      their.assign(our)
  for size in sizes.USED:
    features = rng.normal(size=[2, *size, 3]).astype(np.float32)
    _pad_for(body, size)
    expected = body(features, training=False).numpy()
    assert expected.std() > 1e-3
    actual = model(features).numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std())


def test_squeeze_and_excitation_without_bias_lacks_only_the_biases():
  names = []
  for se_bias in (True, False):
    model = efficientnet.EfficientNet("b0", 0.0, se_bias)
    model(tf.zeros([1, 32, 32, 1]))
    names.append([v.name.split("/")[-1] for v in model.trainable_variables])
  # Two convolutions in each of 16 blocks.
  assert len(names[0]) - len(names[1]) == 32
  assert "bias:0" in names[0] and "bias:0" not in names[1]
