# SPDX-License-Identifier: Apache-2.0
"""The interface of the kernels: each operation in the form `choice` finds best.

Where there is no faster form, it is TensorFlow's plain one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_audioset.kernels import choice, cpu, tpu

# Below, oneDNN's filter gradients are as fast: channels in bfloat16, and the
# size of a depthwise kernel.
_MIN_CPU_CHANNELS = 128
_MIN_CPU_DEPTHWISE_SIZE = 5


def conv2d(
  x: tf.Tensor,
  kernel: tf.Tensor,
  strides: Sequence[int],
  padding: str,
  *,
  training: bool,
) -> tf.Tensor:
  """Returns `tf.nn.conv2d(x, kernel, strides, padding)`.

  Args:
    x: float [batch, num_frames, num_bands, in_channels].
    kernel: Of the same type, [height, width, in_channels, out_channels].
    strides: Of frames and bands, alike.
    padding: "SAME" or "VALID".
    training: Whether a gradient will be wanted.
  """
  if (
    _engine(x, training) == choice.CPU
    and x.dtype == tf.bfloat16
    and min(kernel.shape[2:]) >= _MIN_CPU_CHANNELS
  ):
    return cpu.conv2d(x, kernel, strides[0], padding)
  return tf.nn.conv2d(x, kernel, strides, padding)


def depthwise_conv2d(
  x: tf.Tensor, kernel: tf.Tensor, stride: int, *, training: bool
) -> tf.Tensor:
  """Returns `tf.nn.depthwise_conv2d` of "SAME" padding.

  Args:
    x: float [batch, num_frames, num_bands, channels].
    kernel: Of the same type, [size, size, channels, 1].
    stride: Of frames and bands.
    training: Whether a gradient will be wanted.
  """
  engine = _engine(x, training)
  if engine == choice.TPU and tpu.has_depthwise_conv2d(x, kernel, stride):
    return tpu.depthwise_conv2d(x, kernel)
  if engine == choice.CPU and (
    kernel.shape[0] >= _MIN_CPU_DEPTHWISE_SIZE or stride > 1
  ):
    return cpu.depthwise_conv2d(x, kernel, stride)
  return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")


def positions(x: tf.Tensor, *, training: bool) -> tf.Tensor:
  """Returns `x` in the shape in which a `dense` is fastest.

  Args:
    x: float [batch, num_frames, num_bands, channels].
    training: Whether a gradient will be wanted.

  Returns:
    [batch * num_frames * num_bands, channels], of whose product a CPU makes
    bias and GELU in one go; on a TPU `x`, which a reshape would copy.
  """
  if _engine(x, training) == choice.TPU:
    return x
  return tf.reshape(x, [-1, x.shape[-1]])


def dense(
  x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, *, training: bool
) -> tf.Tensor:
  """Returns `x @ kernel + bias`.

  Args:
    x: float [..., in_channels], from `positions`.
    kernel: Of the same type, [in_channels, out_channels].
    bias: Of the same type, [out_channels].
    training: Whether a gradient will be wanted.
  """
  if x.shape.rank == 4 and _engine(x, training) == choice.TPU:
    return tpu.dense(x, kernel, bias)
  return cpu.add_bias(tf.matmul(x, kernel), bias, training=training)


def scales_weights(x: tf.Tensor, *, training: bool) -> bool:
  """Returns whether a factor of each output belongs into a layer's weights.

  In training that saves a TPU the layer's outputs without the factor, which the
  gradient of the factor would need. Elsewhere it saves nothing.

  Args:
    x: The layer's inputs.
    training: Whether a gradient will be wanted.
  """
  return not training or _engine(x, training) == choice.TPU


def layer_norm(
  x: tf.Tensor,
  gamma: tf.Tensor,
  beta: tf.Tensor,
  epsilon: float,
  plain: Callable[[tf.Tensor], tf.Tensor],
  *,
  training: bool,
) -> tf.Tensor:
  """Returns a layer norm over the last axis.

  Args:
    x: float [..., channels].
    gamma: Factors, float32 [channels].
    beta: Offsets, float32 [channels].
    epsilon: Added to the variance.
    plain: Of `x`: the norm in its plain form, Keras's.
    training: Whether a gradient will be wanted.
  """
  engine = _engine(x, training)
  if engine == choice.TPU:
    return tpu.layer_norm(x, gamma, beta, epsilon)
  if engine == choice.CPU:
    return cpu.layer_norm(x, gamma, beta, epsilon)
  return plain(x)


def _engine(x, training):
  engine = choice.engine(x.dtype, training)
  # The forms for a TPU reshape to known lengths.
  if engine == choice.TPU and not x.shape[1:].is_fully_defined():
    return choice.REFERENCE
  return engine
