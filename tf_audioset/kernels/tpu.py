# SPDX-License-Identifier: Apache-2.0
"""What a TPU computes faster in another way, in bfloat16.

The values are those of TensorFlow's own ops but for rounding. The gains are by
the estimate of the TPU's compiler (benchmarks/tpu_compile.py), for a core of a
TPU v3 and 256 clips of 5 s.

A vector register of a TPU has 8 rows of 128 lanes. XLA lays the activations of
these networks out with the batch in the lanes and the channels in the rows
where the number of channels is not a multiple of 128, and with the channels in
the lanes where it is. Between the two, and around a reshape to a matrix of
positions, it copies; the forms below spare it the copies.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tf_audioset.runtime import tf_internals

# Rows of a vector register.
_ROWS = 8
# Lanes of one, and columns of the matrix unit.
_LANES = 128
# Channels are split in so many where their number is a multiple of `_LANES`.
_SPLIT = 64
# With so many, a depthwise convolution is computed in groups of `_ROWS`.
_FEW_CHANNELS = 144
# Phi(x) is the sigmoid of x times a polynomial in x^2, the highest power first.
# Fitted so that the greatest error of GELU is as small as it can be, 3e-6; that
# of Phi is 7e-6.
_COEFFICIENTS = [
  2.2385376e-6,
  -6.1171093e-5,
  -2.4965327e-4,
  7.2937385e-2,
  1.5956564,
]


def has_depthwise_conv2d(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> bool:
  """Returns whether `depthwise_conv2d` below is faster than TensorFlow's."""
  if x.shape[-1] % _ROWS:
    return False
  return _is_wide(x, kernel, stride) or x.shape[-1] <= _FEW_CHANNELS


def _is_wide(x, kernel, stride):
  """Returns whether most bands are within the kernel's reach of each other."""
  size = kernel.shape[0]
  return stride == 1 and size >= 7 and x.shape[2] <= 6 * size


def depthwise_conv2d(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
  """Computes `tf.nn.depthwise_conv2d` with "SAME" padding.

  A matrix unit has nothing to sum over in a depthwise convolution, so it is
  given products with zeros, in one of two forms.

  Large kernels and few bands: 8 channels of all bands, which fill rows of
  registers, are a vector of which a convolution over time alone makes the like.
  Its matrices hold the kernel's taps where two bands are within reach of each
  other in the same channel, and zeros elsewhere. ConvNeXt-Tiny's step takes 221
  ms in place of 372.

  Few channels: a convolution in groups of 8 channels, whose matrices are
  diagonal. XLA leaves many such depthwise convolutions, and the gradients of
  their inputs, to the vector unit: that of EfficientNet-B0's first block takes
  2.5 ms in place of 5.2, the gradient of its fourth's (5x5, stride 2) 2.2 in
  place of 4.2. With 240 channels both forms are slower.

  Args:
    x: bfloat16 [batch, num_frames, num_bands, channels], all but the batch
      known, channels a multiple of 8.
    kernel: [size, size, channels, 1] of the same type.
    stride: Of frames and bands.

  Returns:
    [batch, out_frames, out_bands, channels] of the same type.
  """
  if _is_wide(x, kernel, stride):
    return _banded_conv2d(x, kernel)
  strides = [1, stride, stride, 1]

  @tf.custom_gradient
  def convolution(x, kernel):
    # [size, size, 8, channels], diagonal for each group of 8 channels.
    groups = x.shape[-1] // _ROWS
    diagonal = tf.tile(tf.eye(_ROWS, dtype=x.dtype), [1, groups])
    matrices = tf.reshape(kernel, [*kernel.shape[:2], 1, -1]) * diagonal

    def gradients(dy):
      dx = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x),
        filter=matrices,
        out_backprop=dy,
        strides=strides,
        padding="SAME",
      )
      # XLA has a fast form of the kernel's gradient, which sums products.
      dkernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=x,
        filter_sizes=kernel.shape,
        out_backprop=dy,
        strides=strides,
        padding="SAME",
      )
      return dx, dkernel

    return tf.nn.conv2d(x, matrices, strides, "SAME"), gradients

  return convolution(x, kernel)


def _banded_conv2d(x, kernel):
  """Convolves over time, 8 channels of all bands with each other."""
  num_frames, num_bands, channels = x.shape[1:]
  groups, width = channels // _ROWS, num_bands * _ROWS
  x = tf.reshape(x, [-1, num_frames, num_bands, groups, _ROWS])
  x = tf.transpose(x, [0, 1, 3, 2, 4])
  x = tf.reshape(x, [-1, num_frames, 1, groups * width])
  x = tf.nn.conv2d(x, _banded(kernel, num_bands), 1, "SAME")
  x = tf.reshape(x, [-1, num_frames, groups, num_bands, _ROWS])
  x = tf.transpose(x, [0, 1, 3, 2, 4])
  return tf.reshape(x, [-1, num_frames, num_bands, channels])


def _banded(kernel, num_bands):
  """Makes the matrices of the convolution over time.

  Args:
    kernel: [size, size, channels, 1].
    num_bands: Of the input.

  Returns:
    Of the same type, [size, 1, num_bands * 8, channels / 8 * num_bands * 8].
  """
  size, _, channels, _ = kernel.shape
  groups = channels // _ROWS
  bands = np.arange(num_bands)
  # [band in, band out, tap]; out of the kernel's reach, all taps are zero.
  reach = tf.one_hot(
    bands[:, np.newaxis] - bands + (size - 1) // 2, size, dtype=tf.float32
  )
  # In float32, so that the gradient's sums over bands are.
  kernel = tf.cast(kernel, tf.float32)
  matrices = tf.einsum(
    "iok,tkgc->tigoc", reach, tf.reshape(kernel, [size, size, groups, _ROWS])
  )
  matrices = tf.reshape(
    matrices, [size, num_bands, 1, groups, num_bands * _ROWS]
  )
  same_channel = tf.tile(tf.eye(_ROWS), [1, num_bands])
  matrices *= same_channel[:, tf.newaxis]
  matrices = tf.cast(matrices, tf.bfloat16)
  return tf.reshape(matrices, [size, 1, num_bands * _ROWS, -1])


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
  """Computes `x @ kernel + bias` at each position, without reshaping.

  Reshaping to such a matrix and back costs copies: ConvNeXt-Tiny's blocks take
  264 ms without and 313 with it. Where both sides are multiples of 128
  channels, XLA would put them in the lanes, against the depthwise convolutions'
  layout; it does not if it sees the narrow side split (9.2 to 7.6 ms for a
  block of the third stage).

  Args:
    x: bfloat16 [batch, num_frames, num_bands, in_channels], all but the batch
      known.
    kernel: Of the same type, [in_channels, out_channels].
    bias: Of the same type, [out_channels].

  Returns:
    Of the same type, [batch, num_frames, num_bands, out_channels].
  """
  in_channels, out_channels = kernel.shape
  if in_channels % _LANES or out_channels % _LANES:
    x = tf.nn.conv2d(x, kernel[tf.newaxis, tf.newaxis], 1, "VALID")
    return tf.nn.bias_add(x, bias)
  if in_channels < out_channels:
    kernel = tf.reshape(kernel, [-1, _SPLIT, out_channels])
    return tf.nn.bias_add(tf.einsum("btfsc,sco->btfo", _split(x), kernel), bias)
  kernel = tf.reshape(kernel, [in_channels, -1, _SPLIT])
  x = tf.einsum("btfi,isc->btfsc", x, kernel)
  return _joined(x + tf.reshape(bias, [-1, _SPLIT]))


def layer_norm(
  x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tf.Tensor:
  """Returns a layer norm over the last axis, computed in float32.

  Mean and mean of squares are summed at once, so that XLA joins both with what
  makes `x`: it saves one of three passes, 5 ms of ConvNeXt-Tiny's step. The
  variance, their difference, loses (mean / deviation)^2 / 2^24 of itself.

  Args:
    x: bfloat16 [batch, num_frames, num_bands, channels] or [batch, channels],
      all but the batch known.
    gamma: Factors, float32 [channels].
    beta: Offsets, float32 [channels].
    epsilon: Added to the variance.

  Returns:
    Of the type and shape of `x`.
  """
  is_split = x.shape.rank == 4 and not x.shape[-1] % _LANES
  wide = tf.cast(_split(x) if is_split else x, tf.float32)
  axes = [-2, -1] if is_split else [-1]
  mean = tf.reduce_mean(wide, axes, keepdims=True)
  mean_square = tf.reduce_mean(tf.square(wide), axes, keepdims=True)
  variance = tf.maximum(mean_square - tf.square(mean), 0.0)
  gamma, beta = (
    tf.reshape(v, wide.shape[-2:] if is_split else [-1]) for v in (gamma, beta)
  )
  y = (wide - mean) * tf.math.rsqrt(variance + epsilon) * gamma + beta
  y = tf.cast(y, x.dtype)
  return _joined(y) if is_split else y


def _split(x):
  """Reshapes [..., channels] to [..., channels / 64, 64]."""
  return tf.reshape(x, [-1, *x.shape[1:-1], x.shape[-1] // _SPLIT, _SPLIT])


def _joined(x):
  """Undoes `_split`."""
  return tf.reshape(x, [-1, *x.shape[1:-2], x.shape[-2] * x.shape[-1]])


@tf.custom_gradient
def gelu(x: tf.Tensor) -> tf.Tensor:
  """Computes GELU: the exact one, not the approximation by tanh.

  It has half of the operations of `tf.nn.gelu`, which takes an erf, and less
  error: `tf.nn.gelu` rounds the erf and constants to bfloat16.

  Args:
    x: bfloat16.

  Returns:
    Like `x`.
  """

  def gradient(dy):
    wide, distribution = _widened(x)
    density = tf.exp(-0.5 * tf.square(wide) - 0.5 * np.log(2 * np.pi))
    slope = distribution + wide * density
    return tf.cast(tf.cast(dy, tf.float32) * slope, x.dtype)

  wide, distribution = _widened(x)
  # Stored, since XLA would compute it again in two products: 1.7 of 47 ms that
  # two blocks of ConvNeXt-Tiny's first stage take.
  y = tf_internals.optimization_barrier(tf.cast(wide * distribution, x.dtype))
  return y, gradient


def _widened(x):
  """Returns x and Phi(x) in float32."""
  x = tf.cast(x, tf.float32)
  return x, tf.sigmoid(x * tf.math.polyval(_COEFFICIENTS, tf.square(x)))


def has_conv_norm(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> bool:
  """Returns whether `conv_norm` below is faster than its two parts."""
  height, width, in_channels, out_channels = kernel.shape
  return height == width == stride == 1 and out_channels > 2 * in_channels


def conv_norm(
  x: tf.Tensor,
  kernel: tf.Tensor,
  gamma: tf.Tensor,
  beta: tf.Tensor,
  epsilon: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Computes a widening 1x1 convolution and its batch norm in training.

  The gradient of the convolution's outputs z = x W, which the batch norm makes
  of that of its own, dy, is never written. It is s (dy - a - z b), with numbers
  s, a and b for each channel, so that the gradients of x and W need products of
  dy, and products of x with itself, which has a sixth of the channels.
  EfficientNet-B0's step took 143 ms with this and with the first block's
  depthwise convolution as above, in place of 160.

  Args:
    x: bfloat16 [batch, num_frames, num_bands, in_channels].
    kernel: [1, 1, in_channels, out_channels] of the same type.
    gamma: Factors, float32 [out_channels].
    beta: Offsets, float32 [out_channels].
    epsilon: Added to the variance.

  Returns:
    [batch, num_frames, num_bands, out_channels] of the type of `x`, and the
    batch's mean and biased variance, float32 [out_channels].

  Reference: Ioffe and Szegedy, "Batch Normalization", 2015, section 3.
  """

  @tf.custom_gradient
  def compute(x, kernel, gamma, beta):
    z = tf.nn.conv2d(x, kernel, 1, "SAME")
    wide = tf.cast(z, tf.float32)
    mean = tf.reduce_mean(wide, [0, 1, 2])
    mean_square = tf.reduce_mean(tf.square(wide), [0, 1, 2])
    variance = tf.maximum(mean_square - tf.square(mean), 0.0)
    rate = tf.math.rsqrt(variance + epsilon)
    y = (wide - mean) * (gamma * rate) + beta

    def gradients(dy, *_):
      wide_dy = tf.cast(dy, tf.float32)
      normalised = (tf.cast(z, tf.float32) - mean) * rate
      dbeta = tf.reduce_sum(wide_dy, [0, 1, 2])
      dgamma = tf.reduce_sum(wide_dy * normalised, [0, 1, 2])
      num_positions = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
      scale = gamma * rate
      # dz = scale * dy - offset - slope * z
      slope = scale * rate * dgamma / num_positions
      offset = scale * dbeta / num_positions - slope * mean
      w = tf.cast(kernel[0, 0], tf.float32)

      wide_x = tf.cast(x, tf.float32)
      dx = _product(wide_dy, tf.transpose(w * scale))
      dx -= _product(wide_x, tf.matmul(w * slope, w, transpose_b=True))
      dx -= tf.linalg.matvec(w, offset)
      sum_x = tf.reduce_sum(wide_x, [0, 1, 2])
      dw = _outer_sums(wide_x, wide_dy) * scale
      dw -= sum_x[:, tf.newaxis] * offset
      dw -= tf.matmul(_outer_sums(wide_x, wide_x), w) * slope
      dkernel = tf.cast(dw, kernel.dtype)[tf.newaxis, tf.newaxis]
      return tf.cast(dx, x.dtype), dkernel, dgamma, dbeta

    return (tf.cast(y, x.dtype), mean, variance), gradients

  return compute(x, kernel, gamma, beta)


def _product(x, matrix):
  """Multiplies the channels of each position by a matrix.

  A TPU rounds the factors of float32 products to bfloat16, and sums in float32.
  """
  return tf.nn.conv2d(x, matrix[tf.newaxis, tf.newaxis], 1, "SAME")


def _outer_sums(x, y):
  """Sums the outer products of the channels over all positions."""
  sums = tf.raw_ops.Conv2DBackpropFilter(
    input=x,
    filter_sizes=[1, 1, x.shape[-1], y.shape[-1]],
    out_backprop=y,
    strides=[1, 1, 1, 1],
    padding="SAME",
  )
  return sums[0, 0]
