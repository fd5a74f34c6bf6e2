# SPDX-License-Identifier: Apache-2.0
"""What a CPU computes faster in another way, when it trains.

The values are those of TensorFlow's own ops but for rounding. On a GPU, under
XLA (a TPU) and outside of training, these are TensorFlow's own ops.

  depthwise convolutions  oneDNN, which TensorFlow takes, is slow at the filter
                          gradient of kernels above 3x3. It has no explicit
                          padding, so that asking for that leaves it out. In
                          bfloat16 it is slow at the input gradient of strided
                          ones: they are made in float32.
  convolutions            oneDNN is slow as well at the filter gradient of many
                          channels in bfloat16: here it is a product for each
                          tap. Of a width of 2, all is in products.
  biases                  In bfloat16 TensorFlow sums their gradients in that,
                          which loses most of a sum of thousands. A product
                          has sums in float32, and is quicker.
  elementwise functions,  XLA makes one pass over memory of what are many ops.
  gates, layer norms
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

# Up to this width of what it makes, a convolution is quicker as a product.
_NARROW = 2
# Below, oneDNN's filter gradients are as fast: channels in bfloat16, and the
# size of a depthwise kernel.
_MIN_CHANNELS = 128
_MIN_DEPTHWISE_SIZE = 5


def elementwise(function: Callable, x: tf.Tensor) -> tf.Tensor:
  """Computes `function(x)`, and its gradient, in one pass over memory each.

  Args:
    function: Of a float32 tensor, each element by itself. The same object for
      the same function, which is compiled once.
    x: float.

  Returns:
    Of the type of `x`.
  """
  forward, backward = _compiled(function)

  @tf.custom_gradient
  def both(x):
    return forward(x), lambda gradient: backward(x, gradient)

  return both(x)


def gated(function: Callable, x: tf.Tensor, gate: Callable) -> tf.Tensor:
  """Computes `y * gate(mean)` of `y = function(x)` and its mean.

  The gradient of `x` is made in one pass, too.

  Args:
    function: As of `elementwise`.
    x: float [batch, height, width, channels], all but the batch known.
    gate: [batch, 1, 1, channels] to the same, of the type of `x`.

  Returns:
    Of the type and shape of `x`.
  """
  forward, backward = _compiled(function)
  num_positions = x.shape[1] * x.shape[2]

  @tf.custom_gradient
  def activation(x):
    y = forward(x)

    def gradients(of_product, of_mean):
      of_mean = tf.cast(of_mean, tf.float32) / num_positions
      return backward(x, of_product, factor, of_mean)

    mean = tf.reduce_mean(tf.cast(y, tf.float32), axis=[1, 2], keepdims=True)
    return (y, tf.cast(mean, y.dtype)), gradients

  @tf.custom_gradient
  def product(y, factor):
    def gradients(of_product):
      of_factor = tf.reduce_sum(of_product * y, axis=[1, 2], keepdims=True)
      # The first is not yet that of y: `activation` multiplies it.
      return of_product, of_factor

    return y * factor, gradients

  y, mean = activation(x)
  factor = gate(mean)
  return product(y, factor)


@functools.cache  # XLA compiles each once for a shape, and not once a layer.
def _compiled(function):
  """An elementwise function and its gradient: of `x` and that of the result,
  which may still lack a factor and an offset.
  """
  if function is tf.nn.silu:
    function = _silu

  @tf.function(jit_compile=True, autograph=False)
  def forward(x):
    return tf.cast(function(tf.cast(x, tf.float32)), x.dtype)

  @tf.function(jit_compile=True, autograph=False)
  def backward(x, gradient, factor=1.0, offset=0.0):
    wide = tf.cast(x, tf.float32)
    with tf.GradientTape() as tape:
      tape.watch(wide)
      y = function(wide)
    gradient = tf.cast(gradient, tf.float32) * tf.cast(factor, tf.float32)
    gradient += offset
    return tf.cast(tape.gradient(y, wide, gradient), x.dtype)

  return forward, backward


def _silu(x):
  """Computes `tf.nn.silu`. XLA's tanh is quicker than its exponential."""
  half = x / 2
  return half + half * tf.tanh(half)


def layer_norm(
  x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tf.Tensor:
  """Computes a layer norm over the last axis, in float32.

  Args:
    x: float [..., channels].
    gamma: Factors, float32 [channels].
    beta: Offsets, float32 [channels].
    epsilon: Added to the variance.

  Returns:
    Of the type of `x`.
  """

  @tf.custom_gradient
  def norm(rows, gamma, beta):
    mean, variance = tf.nn.moments(
      tf.cast(rows, tf.float32), axes=[1], keepdims=True
    )
    scale = tf.math.rsqrt(variance + epsilon)

    def gradients(dy):
      of_gamma = _of_factors(rows, mean, scale, dy)
      of_beta = tf.cast(dy, tf.float32)
      # A mean over channels is quickest as a product, too.
      share = gamma[:, tf.newaxis] / rows.shape[1]
      of_rows = _of_normalised(
        rows, mean, scale, gamma, dy, of_beta @ share, of_gamma @ share
      )
      return of_rows, _sum_of_rows(of_gamma), _sum_of_rows(of_beta)

    return _normalised(rows, mean, scale, gamma, beta), gradients

  y = norm(tf.reshape(x, [-1, x.shape[-1]]), gamma, beta)
  return tf.reshape(y, tf.shape(x))


@tf.function(jit_compile=True, autograph=False)
def _normalised(x, mean, scale, gamma, beta):
  y = (tf.cast(x, tf.float32) - mean) * scale * gamma + beta
  return tf.cast(y, x.dtype)


@tf.function(jit_compile=True, autograph=False)
def _of_factors(x, mean, scale, dy):
  """Computes the gradient of the factors before its sum over rows."""
  return tf.cast(dy, tf.float32) * (tf.cast(x, tf.float32) - mean) * scale


@tf.function(jit_compile=True, autograph=False)
def _of_normalised(x, mean, scale, gamma, dy, mean_of_beta, mean_of_gamma):
  """Subtracts from the rows' gradient what changes mean and variance."""
  normalised = (tf.cast(x, tf.float32) - mean) * scale
  gradient = tf.cast(dy, tf.float32) * gamma
  gradient -= mean_of_beta + normalised * mean_of_gamma
  return tf.cast(gradient * scale, x.dtype)


def add_bias(x: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
  """Computes `tf.nn.bias_add`, with a gradient that is summed in float32.

  Args:
    x: float [..., channels].
    bias: Of the same type, [channels].
  """

  @tf.custom_gradient
  def addition(x, bias):
    def gradients(dy):
      return dy, _sum_of_rows(tf.reshape(dy, [-1, dy.shape[-1]]))

    return tf.nn.bias_add(x, bias), gradients

  return addition(x, bias)


def _sum_of_rows(rows):
  """Sums [num_rows, channels] to [channels], as a product."""
  num_rows = rows.shape[0] or tf.shape(rows)[0]
  return tf.squeeze(tf.ones([1, num_rows], rows.dtype) @ rows, axis=0)


def has_conv2d(x: tf.Tensor, kernel: tf.Tensor) -> bool:
  """Returns whether `conv2d` below is faster than TensorFlow's."""
  return x.dtype == tf.bfloat16 and min(kernel.shape[2:]) >= _MIN_CHANNELS


def conv2d(
  x: tf.Tensor, kernel: tf.Tensor, stride: int, padding: str
) -> tf.Tensor:
  """Computes `tf.nn.conv2d` in the ways described above.

  Args:
    x: float [batch, height, width, in_channels], all but the batch known.
    kernel: Of the same type, [size, size, in_channels, out_channels].
    stride: In both directions.
    padding: "SAME" or "VALID".
  """
  size, _, in_channels, out_channels = kernel.shape
  is_narrow = _out_length(x.shape[2], size, stride, padding) <= _NARROW

  @tf.custom_gradient
  def convolution(x, kernel):
    def gradients(dy):
      if is_narrow and stride == 1 and size % 2 and padding == "SAME":
        turned = tf.transpose(tf.reverse(kernel, [0, 1]), [0, 1, 3, 2])
        dx = _as_product(dy, turned, stride, padding)
      else:
        dx = tf.raw_ops.Conv2DBackpropInput(
          input_sizes=tf.shape(x),
          filter=kernel,
          out_backprop=dy,
          strides=[1, stride, stride, 1],
          padding=padding,
        )
      dy = tf.reshape(dy, [-1, out_channels])
      dkernel = [
        tf.matmul(tf.reshape(tap, [-1, in_channels]), dy, transpose_a=True)
        for tap in _taps(x, size, stride, padding)
      ]
      return dx, tf.reshape(tf.stack(dkernel), kernel.shape)

    compute = _as_product if is_narrow else tf.nn.conv2d
    return compute(x, kernel, stride, padding), gradients

  return convolution(x, kernel)


def _as_product(x, kernel, stride, padding):
  """Computes `tf.nn.conv2d` as the product of all taps and the kernel."""
  taps = tf.concat(_taps(x, kernel.shape[0], stride, padding), axis=-1)
  matrix = tf.reshape(kernel, [-1, kernel.shape[-1]])
  y = tf.matmul(tf.reshape(taps, [-1, taps.shape[-1]]), matrix)
  return tf.reshape(y, [-1, *taps.shape[1:3], kernel.shape[-1]])


def _taps(x, size, stride, padding):
  """Returns what each tap of a kernel is multiplied with.

  Args:
    x: [batch, height, width, in_channels].
    size: Of the kernel; its taps are in the order of its rows.
    stride: In both directions.
    padding: "SAME" or "VALID".

  Returns:
    A list of [batch, out_height, out_width, in_channels].
  """
  if size == stride == 1:
    return [x]
  lengths, paddings = [], []
  for length in x.shape[1:3]:
    out_length = _out_length(length, size, stride, padding)
    before, after = _padding(length, out_length, size, stride, padding)
    # A whole number of strides, so that a tap is a slice of a reshaped tensor.
    after += -(before + length + after) % stride
    lengths.append(out_length)
    paddings.append([before, after])
  x = tf.pad(x, [[0, 0], *paddings, [0, 0]])
  height, width = x.shape[1:3]
  x = tf.reshape(
    x, [-1, height // stride, stride, width // stride, stride, x.shape[-1]]
  )
  taps = []
  for i in range(size):
    for j in range(size):
      (row, i_rest), (column, j_rest) = divmod(i, stride), divmod(j, stride)
      rows = slice(row, row + lengths[0])
      columns = slice(column, column + lengths[1])
      taps.append(x[:, rows, i_rest, columns, j_rest])
  return taps


def has_depthwise_conv2d(kernel: tf.Tensor, stride: int) -> bool:
  """Returns whether `depthwise_conv2d` below is faster than TensorFlow's."""
  return kernel.shape[0] >= _MIN_DEPTHWISE_SIZE or stride > 1


def depthwise_conv2d(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
  """Computes `tf.nn.depthwise_conv2d`, with the gradients described above.

  Args:
    x: float [batch, height, width, channels], all but the batch known.
    kernel: Of the same type, [size, size, channels, 1].
    stride: In both directions.
  """
  strides = [1, stride, stride, 1]

  @tf.custom_gradient
  def convolution(x, kernel):
    def gradients(dy):
      dtype = tf.float32 if stride > 1 else x.dtype
      dx = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
        input_sizes=tf.shape(x),
        filter=tf.cast(kernel, dtype),
        out_backprop=tf.cast(dy, dtype),
        strides=strides,
        padding="SAME",
      )
      paddings = [
        _padding(x.shape[axis], dy.shape[axis], kernel.shape[0], stride, "SAME")
        for axis in (1, 2)
      ]
      # In bfloat16, its sums over all positions would be, too.
      dkernel = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
        input=tf.cast(x, tf.float32),
        filter_sizes=kernel.shape,
        out_backprop=tf.cast(dy, tf.float32),
        strides=strides,
        padding="EXPLICIT",
        explicit_paddings=[0, 0, *paddings[0], *paddings[1], 0, 0],
      )
      return tf.cast(dx, x.dtype), tf.cast(dkernel, kernel.dtype)

    return tf.nn.depthwise_conv2d(x, kernel, strides, "SAME"), gradients

  return convolution(x, kernel)


def _out_length(length, size, stride, padding):
  """Positions of a kernel along an axis, as TensorFlow has it."""
  return -(-(length if padding == "SAME" else length - size + 1) // stride)


def _padding(length, out_length, size, stride, padding):
  """Returns the padding before and after, as TensorFlow has it."""
  if padding == "VALID":
    return 0, 0
  total = max(0, (out_length - 1) * stride + size - length)
  return total // 2, total - total // 2
