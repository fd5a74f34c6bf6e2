# SPDX-License-Identifier: Apache-2.0
"""The layer of depthwise convolutions."""

from __future__ import annotations

import tensorflow as tf

from tf_audioset.kernels import cpu, ops
from tf_audioset.models import weights


class DepthwiseConv2D(weights.FullPrecision, tf.keras.layers.DepthwiseConv2D):
  """Keras's, NHWC, "same", one filter a channel, without dilation."""

  def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    kernel = weights.cast(self.depthwise_kernel, inputs.dtype)
    outputs = self.convolve(inputs, kernel, training)
    if self.use_bias:
      bias = weights.cast(self.bias, outputs.dtype)
      outputs = cpu.add_bias(outputs, bias, training=training)
    return outputs

  def convolve(
    self, x: tf.Tensor, kernel: tf.Tensor, training: bool = False
  ) -> tf.Tensor:
    """`x` with `kernel`, both of the compute type; without bias."""
    return ops.depthwise_conv2d(x, kernel, self.strides[0], training=training)

  def scaled_kernel(self, scale: tf.Tensor) -> tf.Tensor:
    """float32; `scale` has a number for each channel."""
    return self.depthwise_kernel * scale[:, tf.newaxis]
