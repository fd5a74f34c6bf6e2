# SPDX-License-Identifier: Apache-2.0
"""JAX's side of `benchmarks/benchmark.py`, which starts it.

Imports nothing of tf_audioset: it may run with another interpreter that has
jax, flax and optax. The three models in flax, as audax has them, without
dropping: a little less work than ours.
"""

from __future__ import annotations

import argparse
import functools

import benchmark_worker
import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn


class _ConvNorm(nn.Module):
  channels: int
  size: int = 1
  stride: int = 1
  groups: int = 1
  activation: object = None

  @nn.compact
  def __call__(self, x, train):
    x = nn.Conv(
      self.channels,
      (self.size, self.size),
      self.stride,
      use_bias=False,
      feature_group_count=self.groups,
    )(x)
    x = nn.BatchNorm(not train, momentum=0.9)(x)
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


_MODELS = {
  "resnet18": ResNet18,
  "efficientnet_b0": EfficientNetB0,
  "convnext_tiny": ConvNeXtTiny,
}


class _Classifier(nn.Module):
  backbone: nn.Module
  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    return nn.Dense(self.num_classes)(self.backbone(x, train))


def _training(args, arrays):
  features = jnp.asarray(arrays["features"])[..., None]
  targets = jnp.asarray(arrays["targets"])
  model = _Classifier(_MODELS[args.model](), args.num_classes)
  variables = model.init(jax.random.key(0), features[:1], False)
  statistics, params = flax.core.pop(variables, "params")
  optimizer = optax.adamw(1e-4, weight_decay=1e-4)
  state = (params, statistics, optimizer.init(params))

  @functools.partial(jax.jit, donate_argnums=0)
  def update(state):
    params, statistics, moments = state

    def loss(params):
      logits, changed = model.apply(
        {"params": params, **statistics},
        features,
        True,
        mutable=["batch_stats"],
      )
      losses = optax.sigmoid_binary_cross_entropy(logits, targets)
      return losses.mean(), changed

    gradients, statistics = jax.grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(gradients, moments, params)
    return optax.apply_updates(params, updates), statistics, moments

  def step():
    nonlocal state
    state = jax.block_until_ready(update(state))

  return {"step from features": step}


def _frontends(arrays, data):
  """As audax does it: patches of a convolution and a complex, float32 FFT."""
  waveforms = jnp.asarray(arrays["waveforms"])
  filterbank = jnp.asarray(arrays["filterbank"])
  window = 0.5 - 0.5 * jnp.cos(2 * jnp.pi * jnp.arange(400) / 400)

  def log_mel(frames, fft):
    power = jnp.abs(fft(frames * window, 1024)[..., :513]) ** 2
    return jnp.log(jnp.clip(power @ filterbank, 1e-8, 1e8))

  @jax.jit
  def as_audax(waveforms):
    padded = jnp.pad(waveforms, [(0, 0), (200, 200)], mode="reflect")
    frames = jax.lax.conv_general_dilated_patches(
      padded[..., None],
      (400,),
      (160,),
      "VALID",
      dimension_numbers=("NTC", "OIT", "NTC"),
    )
    return log_mel(frames, jnp.fft.fft)

  @jax.jit
  def with_rfft(waveforms):
    padded = jnp.pad(waveforms, [(0, 0), (200, 200)], mode="reflect")
    starts = jnp.arange(0, padded.shape[1] - 400 + 1, 160)
    frames = padded[:, starts[:, None] + jnp.arange(400)]
    return log_mel(frames, jnp.fft.rfft)

  return benchmark_worker.checked(
    {
      "audax's way: log-mel": lambda: np.asarray(as_audax(waveforms)),
      "rfft in JAX: log-mel": lambda: np.asarray(with_rfft(waveforms)),
    },
    data,
  )


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("what", choices=("training", "frontend"))
  parser.add_argument("--model")
  parser.add_argument("--num_classes", type=int)
  parser.add_argument("--data")
  args = parser.parse_args()
  with np.load(args.data) as arrays:
    if args.what == "training":
      functions = _training(args, arrays)
    else:
      functions = _frontends(arrays, args.data)
  benchmark_worker.serve(
    functions, f"jax {jax.__version__}, flax {flax.__version__}"
  )


if __name__ == "__main__":
  main()
