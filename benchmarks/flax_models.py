# SPDX-License-Identifier: Apache-2.0
"""The peers' networks in flax.

The three networks are as audax has them, without dropping and augmentation: a
little less work than ours. ResNet-50 is as in flax's ImageNet example, whose
speed on a TPU v3-8 is published.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn


class _ConvNorm(nn.Module):
  channels: int
  size: int = 1
  stride: int = 1
  groups: int = 1
  activation: object = None
  dtype: object = jnp.float32

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(
      self.channels,
      (self.size, self.size),
      self.stride,
      use_bias=False,
      feature_group_count=self.groups,
      dtype=self.dtype,
    )(x)
    x = nn.BatchNorm(not train, momentum=0.9, dtype=self.dtype)(x)
    return self.activation(x) if self.activation else x


class ResNet18(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = _ConvNorm(64, 7, 2, activation=nn.relu)(x, train)
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    for stage in range(4):
      for block in range(2):
        channels, stride = 64 << stage, 2 if stage and not block else 1
        y = _ConvNorm(channels, 3, stride, activation=nn.relu)(x, train)
        y = _ConvNorm(channels, 3)(y, train)
        if stride != 1:
          x = _ConvNorm(channels, 1, stride)(x, train)
        x = nn.relu(x + y)
    return x.mean((1, 2))


class ResNet50(nn.Module):
  """In bfloat16, for images [batch, 224, 224, 3]."""

  @nn.compact
  def __call__(self, x, train):
    def conv_norm(x, *args, **kwargs):
      return _ConvNorm(*args, dtype=jnp.bfloat16, **kwargs)(x, train)

    x = conv_norm(x, 64, 7, 2, activation=nn.relu)
    x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    for stage, num_blocks in enumerate((3, 4, 6, 3)):
      for block in range(num_blocks):
        channels, stride = 64 << stage, 2 if stage and not block else 1
        y = conv_norm(x, channels, activation=nn.relu)
        y = conv_norm(y, channels, 3, stride, activation=nn.relu)
        y = conv_norm(y, 4 * channels)
        if x.shape != y.shape:
          x = conv_norm(x, 4 * channels, 1, stride)
        x = nn.relu(x + y)
    return x.mean((1, 2))


class EfficientNetB0(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    x = _ConvNorm(32, 3, 2, activation=nn.silu)(x, train)
    for expansion, size, first_stride, channels, num_blocks in (
      (1, 3, 1, 16, 1),
      (6, 3, 2, 24, 2),
      (6, 5, 2, 40, 2),
      (6, 3, 2, 80, 3),
      (6, 5, 1, 112, 3),
      (6, 5, 2, 192, 4),
      (6, 3, 1, 320, 1),
    ):
      for block in range(num_blocks):
        stride = 1 if block else first_stride
        inner = x.shape[-1] * expansion
        y = x
        if expansion > 1:
          y = _ConvNorm(inner, activation=nn.silu)(y, train)
        y = _ConvNorm(inner, size, stride, inner, nn.silu)(y, train)
        gate = y.mean((1, 2), keepdims=True)
        gate = nn.silu(nn.Dense(x.shape[-1] // 4)(gate))
        y = y * nn.sigmoid(nn.Dense(inner)(gate))
        y = _ConvNorm(channels)(y, train)
        x = x + y if x.shape == y.shape else y
    return _ConvNorm(1280, activation=nn.silu)(x, train).mean((1, 2))


class ConvNeXtTiny(nn.Module):
  @nn.compact
  def __call__(self, x, train):
    for stage, num_blocks in enumerate((3, 3, 9, 3)):
      channels, size = 96 << stage, 2 if stage else 4
      if stage:
        x = nn.LayerNorm()(x)
      x = nn.Conv(channels, (size, size), size)(x)
      if not stage:
        x = nn.LayerNorm()(x)
      for block in range(num_blocks):
        y = nn.Conv(channels, (7, 7), feature_group_count=channels)(x)
        y = nn.Dense(4 * channels)(nn.LayerNorm()(y))
        y = nn.Dense(channels)(nn.gelu(y, approximate=False))
        scale = self.param(
          f"scale{stage}_{block}", nn.initializers.constant(1e-6), (channels,)
        )
        x = x + y * scale
    return nn.LayerNorm()(x.mean((1, 2)))


MODELS = {
  "resnet18": ResNet18,
  "efficientnet_b0": EfficientNetB0,
  "convnext_tiny": ConvNeXtTiny,
  "resnet50": ResNet50,
}


class Classifier(nn.Module):
  """A backbone and a linear head; float32 logits."""

  backbone: nn.Module
  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    embedding = self.backbone(x, train)
    return nn.Dense(self.num_classes)(embedding).astype(jnp.float32)
