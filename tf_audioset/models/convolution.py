# SPDX-License-Identifier: Apache-2.0
"""Convolutions, and the batch norm that follows one."""

from __future__ import annotations

import tensorflow as tf

from tf_audioset.kernels import cpu, ops
from tf_audioset.models import weights


class Conv2D(weights.FullPrecision, tf.keras.layers.Conv2D):
  """Keras's, NHWC, without dilation or groups."""

  def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    kernel = weights.cast(self.kernel, inputs.dtype)
    outputs = self.convolve(inputs, kernel, training)
    if self.use_bias:
      bias = weights.cast(self.bias, outputs.dtype)
      outputs = cpu.add_bias(outputs, bias, training=training)
    return outputs

  def convolve(
    self, x: tf.Tensor, kernel: tf.Tensor, training: bool = False
  ) -> tf.Tensor:
    """`x` with `kernel`, both of the compute type; without bias."""
    if self.kernel_size == (1, 1) and x.shape[1:3] == (1, 1):
      # A convolution would take longer to be set up.
      y = tf.matmul(
        tf.reshape(x, [-1, x.shape[-1]]), tf.reshape(kernel, kernel.shape[2:])
      )
      return tf.reshape(y, [-1, 1, 1, self.filters])
    padding = self.padding.upper()
    return ops.conv2d(x, kernel, self.strides, padding, training=training)

  def scaled_kernel(self, scale: tf.Tensor) -> tf.Tensor:
    """float32; `scale` has a number for each output channel."""
    return self.kernel * scale


def normed(
  convolution: tf.keras.layers.Layer,
  norm: tf.keras.layers.BatchNormalization,
  x: tf.Tensor,
  training: bool,
) -> tf.Tensor:
  """`norm(convolution(x))`; outside of training as one convolution.

  There, the norm multiplies each channel by a number and adds one: the kernel
  is multiplied instead, in float32, and the other is its bias.

  Args:
    convolution: `Conv2D` or `depthwise.DepthwiseConv2D`, without a bias.
    norm: Over its channels, with factors and offsets.
    x: float [batch, height, width, in_channels].
    training: Whether the norm uses, and records, the batch's statistics.

  Returns:
    Of the layers' compute type, [batch, out_height, out_width, channels].
  """
  if training:
    return norm(convolution(x, training=True), training=True)
  if not norm.built:
    norm(convolution(x))  # Builds both.
  x = tf.cast(x, convolution.compute_dtype)

  def scale():
    return norm.gamma / tf.sqrt(norm.moving_variance + norm.epsilon)

  # In the place of the norm's; the convolution's is the kernel without.
  kernel = weights.ready(
    norm.gamma, lambda: tf.cast(convolution.scaled_kernel(scale()), x.dtype)
  )
  bias = weights.ready(
    norm.beta, lambda: tf.cast(norm.beta - norm.moving_mean * scale(), x.dtype)
  )
  if x.dtype == tf.float32:
    # With a bias of known shape, which a variable's is not in an export, a CPU
    # makes SiLU in one go, too. In bfloat16 oneDNN can take longer for it.
    bias = tf.ensure_shape(bias, bias.shape)
  return tf.nn.bias_add(convolution.convolve(x, kernel), bias)
