# SPDX-License-Identifier: Apache-2.0
"""ResNet against the same network written with tf.nn and explicit padding."""

import numpy as np
import pytest
import tensorflow as tf

from tests.models import norms, sizes
from tf_audioset.models import resnet

_SEED = tf.constant([1, 2])
_EPSILON = 1e-5
_MOMENTUM = 0.9


def _norms(model):
  """Each convolution with its batch norm."""
  parts = [model.stem]
  for block in model.blocks:
    parts += block.convs
    if block.projection is not None:
      parts.append(block.projection)
  return [(part.conv, part.norm) for part in parts]


def _same(x, size, stride):
  """Pads with zeros as "same" is defined: the odd one at the end."""
  padding = [[0, 0]]
  for length in x.shape[1:3]:
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    padding.append([total // 2, total - total // 2])
  return tf.pad(x, [*padding, [0, 0]])


class _Reference:
  """The forward pass; kernels and norms each in the order of their use."""

  def __init__(self, model, training):
    trainable = [tf.constant(v) for v in model.trainable_variables]
    self.kernels = [v for v in trainable if v.shape.rank == 4]
    self.scales = [v for v in trainable if v.shape.rank == 1]
    self.statistics = [tf.constant(v) for v in model.non_trainable_variables]
    self.new_statistics = []
    self.training = training
    self.shapes = []

  def conv(self, x, stride):
    kernel = self.kernels.pop(0)
    x = _same(x, kernel.shape[0], stride)
    return tf.nn.conv2d(x, kernel, stride, "VALID")

  def norm(self, x):
    gamma, beta = self.scales.pop(0), self.scales.pop(0)
    mean, variance = self.statistics.pop(0), self.statistics.pop(0)
    if self.training:
      count = np.prod(x.shape[:3])
      batch_mean = tf.reduce_mean(x, [0, 1, 2])
      batch_variance = tf.reduce_mean((x - batch_mean) ** 2, [0, 1, 2])
      # Keras records the unbiased variance in its fused kernel.
      unbiased = batch_variance * count / (count - 1)
      self.new_statistics.append(
        (
          _MOMENTUM * mean + (1 - _MOMENTUM) * batch_mean,
          _MOMENTUM * variance + (1 - _MOMENTUM) * unbiased,
        )
      )
      mean, variance = batch_mean, batch_variance
    return (x - mean) / tf.sqrt(variance + _EPSILON) * gamma + beta

  def __call__(self, x, blocks_a_stage, bottleneck):
    x = tf.pad(x, [[0, 0], [3, 3], [3, 3], [0, 0]])
    x = tf.nn.conv2d(x, self.kernels.pop(0), 2, "VALID")
    x = tf.nn.relu(self.norm(x))
    x = tf.nn.max_pool2d(_same(x, 3, 2), 3, 2, "VALID")
    for stage, num_blocks in enumerate(blocks_a_stage):
      for i in range(num_blocks):
        stride = 2 if stage and not i else 1
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        shortcut = x
        for j, s in enumerate(strides):
          x = self.norm(self.conv(x if not j else tf.nn.relu(x), s))
        if not i and (stage or bottleneck):
          shortcut = self.norm(self.conv(shortcut, stride))
        x = tf.nn.relu(x + shortcut)
      self.shapes.append(tuple(x.shape))
    return tf.reduce_mean(x, [1, 2])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
  ("depth", "blocks_a_stage"), [(18, (2, 2, 2, 2)), (50, (3, 4, 6, 3))]
)
def test_it_equals_the_network_of_explicit_operations(
  depth, blocks_a_stage, training
):
  model = resnet.ResNet(depth, width=8)
  model(tf.zeros([1, 32, 32, 2]))
  norms.randomise(_norms(model), epsilon=_EPSILON)
  for size in sizes.USED:
    features = tf.random.stateless_normal([3, *size, 2], _SEED)
    reference = _Reference(model, training)
    expected = reference(features, blocks_a_stage, depth >= 50).numpy()
    assert not reference.kernels + reference.scales + reference.statistics
    widen = 4 if depth >= 50 else 1
    assert reference.shapes == [
      (3, *(-(-length // (4 << i)) for length in size), (8 << i) * widen)
      for i in range(4)
    ]
    actual = model(features, training=training).numpy()
    # Dividing by the spread of few values, 50 times, magnifies the rounding.
    tolerance = (1e-3 if training else 1e-4) * expected.std()
    np.testing.assert_allclose(actual, expected, atol=tolerance)
    new = iter(model.non_trainable_variables)
    for mean, variance in reference.new_statistics:
      limit = 1e-3 * np.sqrt(variance).max()
      np.testing.assert_allclose(next(new), mean, atol=limit)
      np.testing.assert_allclose(next(new), variance, rtol=1e-3)
