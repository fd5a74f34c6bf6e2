# SPDX-License-Identifier: Apache-2.0
"""JAX's side of `benchmarks/benchmark.py`, which starts it.

Imports nothing of tf_audioset: it may run with another interpreter that has
jax, flax and optax. The models are those of `benchmarks/flax_models.py`.
"""

from __future__ import annotations

import argparse
import functools

import benchmark_worker
import flax
import flax_models
import jax
import jax.numpy as jnp
import numpy as np
import optax


def _training(args, arrays):
  features = jnp.asarray(arrays["features"])[..., None]
  targets = jnp.asarray(arrays["targets"])
  backbone = flax_models.MODELS[args.model]()
  model = flax_models.Classifier(backbone, args.num_classes)
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
