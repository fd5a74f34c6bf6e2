# SPDX-License-Identifier: Apache-2.0
"""The operations that the models are made of: the one way to the kernels.

Each has the form that `choice` finds fastest for what is being built. Where
there is none, and with `kernels.engine = 'reference'` always, it is the plain
one, which stands here. All forms have the same values but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from tf_audioset.kernels import choice, cpu, inference, tpu


def conv2d(
  x: tf.Tensor,
  kernel: tf.Tensor,
  strides: Sequence[int],
  padding: str,
  *,
  training: bool,
) -> tf.Tensor:
  """Computes a convolution.

  Args:
    x: float [batch, num_frames, num_bands, in_channels].
    kernel: [height, width, in_channels, out_channels] of the same type.
    strides: Of frames and bands, alike.
    padding: "SAME" or "VALID".
    training: Whether a gradient will be wanted.

  Returns:
    [batch, out_frames, out_bands, out_channels] of the same type.
  """
  engine = choice.engine(x, training=training)
  if engine == choice.CPU and cpu.has_conv2d(x, kernel):
    return cpu.conv2d(x, kernel, strides[0], padding)
  if engine == choice.INFERENCE and x.shape[1:3] == kernel.shape[:2] == (1, 1):
    return inference.conv2d_of_a_point(x, kernel)
  return tf.nn.conv2d(x, kernel, strides, padding)


def has_conv_norm(
  x: tf.Tensor, kernel: tf.Tensor, stride: int, *, training: bool
) -> bool:
  """Returns whether a convolution and its norm have a faster form in one."""
  engine = choice.engine(x, training=training)
  return (
    training and engine == choice.TPU and tpu.has_conv_norm(x, kernel, stride)
  )


def conv_norm(
  x: tf.Tensor,
  kernel: tf.Tensor,
  gamma: tf.Tensor,
  beta: tf.Tensor,
  epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Computes a 1x1 convolution and its batch norm; see `tpu.conv_norm`."""
  return tpu.conv_norm(x, kernel, gamma, beta, epsilon)


def depthwise_conv2d(
  x: tf.Tensor, kernel: tf.Tensor, stride: int, *, training: bool
) -> tf.Tensor:
  """Computes a depthwise convolution with "SAME" padding.

  Args:
    x: float [batch, num_frames, num_bands, channels].
    kernel: [size, size, channels, 1] of the same type.
    stride: Of frames and bands.
    training: Whether a gradient will be wanted.

  Returns:
    [batch, out_frames, out_bands, channels] of the same type.
  """
  engine = choice.engine(x, training=training)
  if engine == choice.TPU and tpu.has_depthwise_conv2d(x, kernel, stride):
    return tpu.depthwise_conv2d(x, kernel, stride)
  if engine == choice.CPU and cpu.has_depthwise_conv2d(kernel, stride):
    return cpu.depthwise_conv2d(x, kernel, stride)
  return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")


def add_bias(x: tf.Tensor, bias: tf.Tensor, *, training: bool) -> tf.Tensor:
  """Adds a number to each channel.

  Args:
    x: float [..., channels].
    bias: [channels] of the same type.
    training: Whether a gradient will be wanted.

  Returns:
    Like `x`.
  """
  engine = choice.engine(x, training=training)
  if engine == choice.CPU:
    return cpu.add_bias(x, bias)
  if engine == choice.INFERENCE:
    return inference.add_bias(x, bias)
  return tf.nn.bias_add(x, bias)


def dense(
  x: tf.Tensor,
  kernel: tf.Tensor,
  bias: tf.Tensor,
  *,
  gelu: str | None = None,
  training: bool,
) -> tf.Tensor:
  """Computes `x @ kernel + bias`, and its GELU if that is wanted.

  Args:
    x: float [..., in_channels].
    kernel: [in_channels, out_channels] of the same type.
    bias: [out_channels] of the same type.
    gelu: As `kind` of the function `gelu`, or None.
    training: Whether a gradient will be wanted.

  Returns:
    [..., out_channels] of the same type.
  """

  def activated(y):
    return y if gelu is None else _gelu(y, gelu, training=training)

  if choice.engine(x, training=training) == choice.TPU and x.shape.rank == 4:
    return activated(tpu.dense(x, kernel, bias))
  # As a matrix, of whose product TensorFlow makes bias and GELU in one go.
  rows = tf.reshape(x, [-1, x.shape[-1]])
  y = add_bias(tf.matmul(rows, kernel), bias, training=training)
  return tf.reshape(activated(y), [*_sizes(x)[:-1], kernel.shape[-1]])


def gelu(x: tf.Tensor, kind: str, *, training: bool) -> tf.Tensor:
  """Computes GELU, x times the normal distribution function of x.

  Args:
    x: float.
    kind: "exact", or "tanh" for the approximation, which is off by up to 5e-4.
    training: Whether a gradient will be wanted.

  Returns:
    Like `x`.

  Reference: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.
  """
  engine = choice.engine(x, training=training)
  if engine == choice.TPU and kind == "exact":
    return tpu.gelu(x)
  plain = _tanh_gelu if kind == "tanh" else tf.nn.gelu
  return cpu.elementwise(plain, x) if engine == choice.CPU else plain(x)


_gelu = gelu


def _tanh_gelu(x):
  return tf.nn.gelu(x, approximate=True)


def silu(x: tf.Tensor, *, training: bool) -> tf.Tensor:
  """Computes x times its sigmoid.

  Args:
    x: float.
    training: Whether a gradient will be wanted.

  Returns:
    Like `x`.
  """
  if choice.engine(x, training=training) == choice.CPU:
    return cpu.elementwise(tf.nn.silu, x)
  return tf.nn.silu(x)


def gated_silu(
  x: tf.Tensor, gate: Callable[[tf.Tensor], tf.Tensor], *, training: bool
) -> tf.Tensor:
  """Computes `y * gate(mean(y))` of `y = silu(x)`: squeeze and excitation.

  Args:
    x: float [batch, num_frames, num_bands, channels].
    gate: [batch, 1, 1, channels] to the same, of the type of `x`.
    training: Whether a gradient will be wanted.

  Returns:
    Like `x`.

  Reference: Hu et al., "Squeeze-and-Excitation Networks", 2018.
  """
  if choice.engine(x, training=training) == choice.CPU:
    return cpu.gated(tf.nn.silu, x, gate)
  y = tf.nn.silu(x)
  return y * gate(mean(y, keepdims=True))


def mean(x: tf.Tensor, *, keepdims: bool = False) -> tf.Tensor:
  """Averages over frames and bands, in float32.

  In bfloat16 a sum of thousands loses most of them.

  Args:
    x: float [batch, num_frames, num_bands, channels].
    keepdims: Whether the averaged axes stay, with length 1.

  Returns:
    [batch, channels] or [batch, 1, 1, channels], of the type of `x`.
  """
  result = tf.reduce_mean(
    tf.cast(x, tf.float32), axis=[1, 2], keepdims=keepdims
  )
  return tf.cast(result, x.dtype)


def layer_norm(
  x: tf.Tensor,
  gamma: tf.Tensor,
  beta: tf.Tensor,
  epsilon: float,
  *,
  training: bool,
) -> tf.Tensor:
  """Computes a layer norm over the last axis, in float32.

  Args:
    x: float [..., channels].
    gamma: Factors, float32 [channels].
    beta: Offsets, float32 [channels].
    epsilon: Added to the variance.
    training: Whether a gradient will be wanted.

  Returns:
    Like `x`.

  Reference: Ba et al., "Layer Normalization", 2016.
  """
  engine = choice.engine(x, training=training)
  if engine == choice.TPU:
    return tpu.layer_norm(x, gamma, beta, epsilon)
  if engine == choice.CPU:
    return cpu.layer_norm(x, gamma, beta, epsilon)
  if engine == choice.INFERENCE:
    return inference.layer_norm(x, gamma, beta, epsilon)
  wide = tf.cast(x, tf.float32)
  centre, variance = tf.nn.moments(wide, axes=[-1], keepdims=True)
  y = (wide - centre) / tf.sqrt(variance + epsilon) * gamma + beta
  return tf.cast(y, x.dtype)


def _sizes(x):
  """Returns the lengths of the axes: numbers where they are known."""
  shape = tf.shape(x)
  return [n or shape[i] for i, n in enumerate(x.shape)]
