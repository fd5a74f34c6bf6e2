# SPDX-License-Identifier: Apache-2.0
"""The layers that the architectures are made of.

They are Keras's own but for two things: they are given their weights in
float32 and cast them to the type they compute in, and they compute through
`kernels.ops`, which knows a faster form of some operations. Each can be folded
for inference, see `folding.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_audioset.kernels import ops

# float [batch, out_frames, out_bands, channels] to [batch, channels], or, of
# frames, to [batch, out_frames, channels]; see `heads.py`.
Pool = Callable[[tf.Tensor], tf.Tensor]


class Backbone(tf.keras.Model):
  """A network that tells its arguments, so that it can be built again."""

  def __init__(self, name: str, **arguments):
    """Keeps the arguments.

    Args:
      name: Of the layer.
      **arguments: Those of the constructor.
    """
    super().__init__(name=name)
    self._arguments = arguments

  def get_config(self) -> dict:
    """Returns the arguments of the constructor."""
    return dict(self._arguments)


class Layer(tf.keras.layers.Layer):
  """A layer that casts its float32 weights itself."""

  def add_weight(self, *args, **kwargs) -> tf.Variable:
    """Adds a weight as Keras does, which otherwise would cast it."""
    kwargs["experimental_autocast"] = False
    return super().add_weight(*args, **kwargs)

  def cast(self, weight: tf.Variable) -> tf.Tensor:
    """Returns a weight in the type that the layer computes in."""
    return tf.cast(tf.convert_to_tensor(weight), self.compute_dtype)

  def fold(self) -> None:
    """Replaces the weights by such of the type that the layer computes in."""
    for name, weight in list(vars(self).items()):
      if isinstance(weight, tf.Variable):
        self.set_weight(name, self.cast(weight))

  def set_weight(self, name: str, value: tf.Tensor) -> None:
    """Replaces the weight of an attribute by one that is not trained."""
    setattr(self, name, tf.Variable(value, trainable=False, name=name))


class Conv2D(Layer, tf.keras.layers.Conv2D):
  """A convolution, NHWC, without dilation or groups."""

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    y = ops.conv2d(
      x,
      self.cast(self.kernel),
      self.strides,
      self.padding.upper(),
      training=training,
    )
    if self.use_bias:
      y = ops.add_bias(y, self.cast(self.bias), training=training)
    return y


class DepthwiseConv2D(Layer, tf.keras.layers.DepthwiseConv2D):
  """A depthwise convolution, NHWC, "same", one filter a channel."""

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    y = ops.depthwise_conv2d(
      x,
      self.cast(self.depthwise_kernel),
      self.strides[0],
      training=training,
    )
    if self.use_bias:
      y = ops.add_bias(y, self.cast(self.bias), training=training)
    return y


class ConvNorm(tf.keras.layers.Layer):
  """A convolution without bias, and the batch norm that follows it."""

  def __init__(
    self, conv: Conv2D | DepthwiseConv2D, momentum: float, epsilon: float
  ):
    """Builds the norm.

    Args:
      conv: The convolution.
      momentum: Share of the old running statistics that stays.
      epsilon: Added to the variance.
    """
    super().__init__()
    self.conv = conv
    self.norm = tf.keras.layers.BatchNormalization(
      momentum=momentum, epsilon=epsilon
    )

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    if self.norm is None:
      return self.conv(x, training=training)
    if training and self._is_one(x):
      return self._conv_norm(x)
    return self.norm(self.conv(x, training=training), training=training)

  def _is_one(self, x):
    """Returns whether the two are computed as one operation."""
    if not self.norm.built or isinstance(self.conv, DepthwiseConv2D):
      return False
    stride = self.conv.strides[0]
    return ops.has_conv_norm(x, self.conv.kernel, stride, training=True)

  def _conv_norm(self, x):
    norm = self.norm
    y, mean, variance = ops.conv_norm(
      x, self.conv.cast(self.conv.kernel), norm.gamma, norm.beta, norm.epsilon
    )
    # As Keras does: the variance that is recorded is the unbiased one.
    num_positions = tf.cast(tf.size(x) // x.shape[-1], tf.float32)
    variance *= num_positions / (num_positions - 1)
    for recorded, value in (
      (norm.moving_mean, mean),
      (norm.moving_variance, variance),
    ):
      recorded.assign_sub((recorded - value) * (1 - norm.momentum))
    return y

  def fold(self) -> None:
    """Multiplies the kernel by the norm's factors; its offsets are the bias."""
    scale = self.norm.gamma / tf.sqrt(
      self.norm.moving_variance + self.norm.epsilon
    )
    if isinstance(self.conv, DepthwiseConv2D):
      kernel = self.conv.depthwise_kernel * scale[:, tf.newaxis]
      self.conv.set_weight("depthwise_kernel", kernel)
    else:
      self.conv.set_weight("kernel", self.conv.kernel * scale)
    bias = self.norm.beta - self.norm.moving_mean * scale
    self.conv.set_weight("bias", bias)
    self.conv.use_bias = True
    self.norm = None


class Dense(Layer, tf.keras.layers.Dense):
  """A dense layer over the last axis, with its activation in one operation."""

  def __init__(self, units: int, gelu: str | None = None, **kwargs):
    """Builds the layer.

    Args:
      units: Channels of its outputs.
      gelu: "exact" or "tanh", the GELU of its outputs; None: no activation.
      **kwargs: Of Keras's layer.
    """
    super().__init__(units, **kwargs)
    self._gelu = gelu

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return ops.dense(
      x,
      self.cast(self.kernel),
      self.cast(self.bias),
      gelu=self._gelu,
      training=training,
    )


class LayerNorm(Layer, tf.keras.layers.LayerNormalization):
  """A layer norm over the last axis, computed in float32."""

  def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    return ops.layer_norm(
      x, self.gamma, self.beta, self.epsilon, training=training
    )

  def fold(self) -> None:
    """Leaves factors and offsets in float32."""
