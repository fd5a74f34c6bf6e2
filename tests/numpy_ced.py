# SPDX-License-Identifier: Apache-2.0
"""CED written out in NumPy, float64, on arrays in CED's own names and layouts.

One clip at a time, with the frequency as the image's height, as in PyTorch.
"""

from __future__ import annotations

import math

import numpy as np


def random_arrays(width, depth, num_classes, seed=0) -> dict[str, np.ndarray]:
  """Returns float32 arrays of a checkpoint; the names end as PyTorch's do."""
  shapes = {
    "encoder.patch_embed.proj": (width, 1, 16, 16),
    "outputlayer.1": (num_classes, width),
  }
  norms = {"encoder.init_bn": 64, "encoder.norm": width, "outputlayer.0": width}
  for i in range(depth):
    block = f"encoder.blocks.{i}"
    shapes[f"{block}.attn.qkv"] = (3 * width, width)
    shapes[f"{block}.attn.proj"] = (width, width)
    shapes[f"{block}.mlp.fc1"] = (4 * width, width)
    shapes[f"{block}.mlp.fc2"] = (width, 4 * width)
    norms[f"{block}.norm1"] = norms[f"{block}.norm2"] = width
  rng = np.random.default_rng(seed)
  arrays = {
    "encoder.time_pos_embed": 0.3 * rng.normal(size=(1, width, 1, 63)),
    "encoder.freq_pos_embed": 0.3 * rng.normal(size=(1, width, 4, 1)),
    "encoder.init_bn.running_mean": rng.normal(-30, 10, 64),
    "encoder.init_bn.running_var": rng.uniform(200, 400, 64),
  }
  for name, shape in shapes.items():
    scale = 1.5 / math.sqrt(math.prod(shape[1:]))
    arrays[f"{name}.weight"] = scale * rng.normal(size=shape)
    arrays[f"{name}.bias"] = 0.2 * rng.normal(size=shape[0])
  for name, size in norms.items():
    arrays[f"{name}.weight"] = rng.uniform(0.5, 1.5, size)
    arrays[f"{name}.bias"] = 0.2 * rng.normal(size=size)
  return {name: array.astype(np.float32) for name, array in arrays.items()}


def log_mel(waveform: np.ndarray) -> np.ndarray:
  """Returns decibels [64, num_frames] of a waveform [num_samples]."""
  edges_hz = 700 * (
    10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 66) / 2595) - 1
  )
  bins_hz = np.arange(257) * 16000 / 512
  filters = np.array(
    [
      np.interp(bins_hz, edges_hz[i : i + 3], [0, 1, 0], left=0, right=0)
      for i in range(64)
    ]
  )
  padded = np.pad(waveform.astype(np.float64), 256, mode="reflect")
  num_frames = 1 + len(waveform) // 160
  frames = [padded[160 * t : 160 * t + 512] for t in range(num_frames)]
  window = np.sin(np.pi * np.arange(512) / 512) ** 2
  power = np.abs(np.fft.rfft(np.array(frames) * window)) ** 2
  decibels = 10 * np.log10(np.maximum(filters @ power.T, 1e-10))
  return np.maximum(decibels, decibels.max() - 120)


def forward(arrays, decibels, num_heads) -> tuple[np.ndarray, np.ndarray]:
  """Returns scores [num_classes] and embedding [width] of a clip's log-mel."""

  def affine(name, x):
    return x * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]

  def norm(name, x, epsilon=1e-6):
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)
    return affine(name, x)

  def linear(name, x):
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

  arrays = {name: array.astype(np.float64) for name, array in arrays.items()}
  bn = "encoder.init_bn"
  x = decibels.T - arrays[f"{bn}.running_mean"]
  x = affine(bn, x / np.sqrt(arrays[f"{bn}.running_var"] + 1e-5)).T
  length = min(max(x.shape[1], 16), 1012)
  x = np.pad(x, [(0, 0), (0, -x.shape[1] % length)])
  tokens = [
    _encode(arrays, chunk, num_heads, norm, linear)
    for chunk in np.split(x, x.shape[1] // length, axis=1)
  ]
  embedding = np.concatenate(tokens).mean(axis=0)
  logits = linear("outputlayer.1", norm("outputlayer.0", embedding, 1e-5))
  return 1 / (1 + np.exp(-logits)), embedding


def _encode(arrays, image, num_heads, norm, linear):
  """Returns the tokens [num_tokens, width] of an image [64, num_frames]."""
  kernel = arrays["encoder.patch_embed.proj.weight"]
  width, times = len(kernel), image.shape[1] // 16
  patches = np.zeros([width, 4, times])
  for f in range(4):
    for t in range(times):
      patch = image[16 * f : 16 * f + 16, 16 * t : 16 * t + 16]
      patches[:, f, t] = (kernel[:, 0] * patch).sum(axis=(1, 2))
  patches += arrays["encoder.patch_embed.proj.bias"][:, None, None]
  patches += arrays["encoder.time_pos_embed"][0, :, :, :times]
  patches += arrays["encoder.freq_pos_embed"][0]
  x = patches.reshape(width, -1).T
  depth = sum(name.endswith("attn.qkv.bias") for name in arrays)
  erf = np.vectorize(math.erf)
  for i in range(depth):
    block = f"encoder.blocks.{i}"
    qkv = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x))
    heads = []
    for query, key, value in zip(
      *(np.split(part, num_heads, axis=1) for part in np.split(qkv, 3, axis=1))
    ):
      share = np.exp(query @ key.T / math.sqrt(query.shape[1]))
      heads.append(share / share.sum(axis=1, keepdims=True) @ value)
    x = x + linear(f"{block}.attn.proj", np.concatenate(heads, axis=1))
    hidden = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))
    hidden *= 0.5 * (1 + erf(hidden / math.sqrt(2)))
    x = x + linear(f"{block}.mlp.fc2", hidden)
  return norm("encoder.norm", x)
