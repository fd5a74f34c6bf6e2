# SPDX-License-Identifier: Apache-2.0
"""The other side of `tpu_compile.py`, which starts it: audax's, and ResNet-50.

  python benchmarks/tpu_peers.py front_end|resnet18|...|resnet50

Runs with the interpreter that has jax and libtpu, flax and optax. audax's steps
are in float32, as its configurations say, from features to update; its front
end takes patches by a convolution and a complex FFT. ResNet-50 is in bfloat16
with 128 images a core, as in flax's ImageNet example.
"""

from __future__ import annotations

import argparse
import json
import sys

import flax_models
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tpu_compiler
from jax import lax
from jax.sharding import SingleDeviceSharding

_CLIPS = 256
_IMAGES = 128


def _training_step(name: str, core):
  """Lowers forward, backward and update for one core."""
  optimizer = optax.adamw(1e-4, weight_decay=1e-4)
  num_classes, shape, dtype = 527, (_CLIPS, 501, 64, 1), jnp.float32
  if name == "resnet50":
    optimizer = optax.sgd(0.1, momentum=0.9, nesterov=True)
    num_classes, shape, dtype = 1000, (_IMAGES, 224, 224, 3), jnp.bfloat16
  model = flax_models.Classifier(flax_models.MODELS[name](), num_classes)

  def initial():
    variables = dict(model.init(jax.random.key(0), jnp.zeros(shape), False))
    params = variables.pop("params")
    return params, variables, optimizer.init(params)

  def update(state, x, targets):
    params, statistics, moments = state

    def loss(params):
      logits, changed = model.apply(
        {"params": params, **statistics}, x, True, mutable=["batch_stats"]
      )
      losses = optax.sigmoid_binary_cross_entropy(logits, targets)
      return losses.mean(), changed

    gradients, statistics = jax.grad(loss, has_aux=True)(params)
    updates, moments = optimizer.update(gradients, moments, params)
    return optax.apply_updates(params, updates), statistics, moments

  return jax.jit(
    update, in_shardings=core, out_shardings=core, donate_argnums=0
  ).lower(
    jax.eval_shape(initial),
    jax.ShapeDtypeStruct(shape, dtype),
    jax.ShapeDtypeStruct((shape[0], num_classes), jnp.float32),
  )


def _front_end(core):
  """Lowers audax's log-mel, from int16 samples."""
  hz = np.linspace(0, 8000, 513)[:, np.newaxis]
  mels = np.linspace(*(2595 * np.log10(1 + np.array([60, 7800]) / 700)), 66)
  edges = 700 * (10 ** (mels / 2595) - 1)
  left, centre, right = edges[:-2], edges[1:-1], edges[2:]
  filters = np.minimum(
    (hz - left) / (centre - left), (right - hz) / (right - centre)
  )
  filters = np.maximum(0, filters).astype(np.float32)
  window = np.hanning(401)[:-1].astype(np.float32)

  def log_mel(samples):
    waveforms = samples.astype(jnp.float32) / 32768
    padded = jnp.pad(waveforms, [(0, 0), (200, 200)], mode="reflect")
    frames = lax.conv_general_dilated_patches(
      padded[..., None],
      (400,),
      (160,),
      "VALID",
      dimension_numbers=("NTC", "OIT", "NTC"),
    )
    power = jnp.abs(jnp.fft.fft(frames * window, 1024)[..., :513]) ** 2
    bands = jnp.matmul(power, filters, precision=lax.Precision.HIGH)
    return jnp.log(jnp.clip(bands, 1e-8, 1e8))

  samples = jax.ShapeDtypeStruct((_CLIPS, 80000), jnp.int16)
  return jax.jit(log_mel, in_shardings=core, out_shardings=core).lower(samples)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("peer", choices=["front_end", *flax_models.MODELS])
  parser.add_argument("--topology", default="v3:2x2")
  args = parser.parse_args()

  def make(devices):
    core = SingleDeviceSharding(devices[0])
    if args.peer == "front_end":
      lowered = _front_end(core)
    else:
      lowered = _training_step(args.peer, core)
    return lowered.compile().runtime_executable()

  try:
    report = tpu_compiler.measure(make, args.topology)
  except ValueError as e:
    sys.exit(f"tpu_peers: error: {e}")
  report["batch_size"] = _IMAGES if args.peer == "resnet50" else _CLIPS
  print(json.dumps(report))


if __name__ == "__main__":
  main()
