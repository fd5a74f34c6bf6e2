# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions, in the way that is quickest where they run."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_audioset.kernels import cpu
from tf_audioset.models import weights

# Below, oneDNN's filter gradients and a TPU's vector unit are as fast.
_MIN_KERNEL = 5
# Columns of a TPU's matrix unit.
_COLUMNS = 128


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
    stride = self.strides[0]
    large = self.kernel_size[0] >= _MIN_KERNEL
    if large and stride == 1 and x.dtype == tf.bfloat16 and cpu.in_xla():
      return by_products(x, kernel)
    if (large or stride > 1) and cpu.applies(training):
      return cpu.depthwise_conv2d(x, kernel, stride)
    return tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")

  def scaled_kernel(self, scale: tf.Tensor) -> tf.Tensor:
    """float32; `scale` has a number for each channel."""
    return self.depthwise_kernel * scale[:, tf.newaxis]


def by_products(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """`tf.nn.depthwise_conv2d(x, kernel, [1, 1, 1, 1], "SAME")`.

  A TPU's matrix unit has nothing to sum over in a depthwise convolution, whose
  channels are apart, so that the vector unit has to do it. But each channel is
  linear in itself: some frames of all bands are those frames and the ones that
  the kernel reaches, times a matrix with the kernel's taps, and zeros where it
  does not reach. For kernels of 5 x 5 and above the matrix unit is quicker with
  the zeros than the vector unit without.

  Args:
    x: float [batch, num_frames, num_bands, channels], all but the batch known.
    kernel: Of the same type, [size, size, channels, 1], size odd.

  Returns:
    Of the shape and type of `x`.
  """
  size = kernel.shape[0]
  num_frames, num_bands, channels = x.shape[1:]
  frames_out = max(min(_COLUMNS // num_bands, num_frames), size - 1)
  num_tiles = -(-num_frames // frames_out)
  frames_in = frames_out + size - 1
  before = size // 2
  after = (num_tiles + 1) * frames_out - num_frames - before
  x = tf.pad(x, [[0, 0], [before, after], [0, 0], [0, 0]])
  x = tf.reshape(x, [-1, num_tiles + 1, frames_out, num_bands, channels])
  tiles = tf.concat([x[:, :-1], x[:, 1:, : size - 1]], axis=2)
  tiles = tf.reshape(tiles, [-1, frames_in * num_bands, channels])
  # A tap for each input and output; those out of reach are of no row.
  frame = np.arange(frames_in)[:, np.newaxis] - np.arange(frames_out)
  band = np.arange(num_bands)[:, np.newaxis] - np.arange(num_bands) + size // 2
  frame, band = frame[:, np.newaxis, :, np.newaxis], band[:, np.newaxis]
  within = (frame >= 0) & (frame < size) & (band >= 0) & (band < size)
  taps = np.where(within, frame * size + band, -1)
  taps = tf.one_hot(taps.ravel(), size * size, axis=0, dtype=x.dtype)
  matrices = tf.matmul(
    tf.reshape(kernel, [size * size, channels]), taps, transpose_a=True
  )
  y = tf.matmul(
    tf.transpose(tiles, [2, 0, 1]),
    tf.reshape(matrices, [channels, frames_in * num_bands, -1]),
  )
  y = tf.reshape(
    tf.transpose(y, [1, 2, 0]),
    [-1, num_tiles * frames_out, num_bands, channels],
  )
  return y[:, :num_frames]
