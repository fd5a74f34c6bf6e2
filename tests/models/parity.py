# SPDX-License-Identifier: Apache-2.0
"""What the comparisons of models with their references have in common."""

import itertools

import numpy as np

# Crops of 1, 5 and 10 s, centred or as audax aligns frames (504), and the
# numbers of mel bands in use. Most are odd, or become so on the way, so that it
# matters where a strided layer pads.
SIZES = tuple(itertools.product((101, 501, 504, 1001), (64, 80, 128)))


def randomise(pairs, *, epsilon: float) -> None:
  """Sets weights and statistics to values that hide nothing.

  Args:
    pairs: Each convolution with its batch norm. A channel's variance is from a
      hundredth of epsilon to 10,000 times epsilon, so that epsilon matters.
    epsilon: The norms'.
  """
  rng = np.random.default_rng(0)
  for convolution, norm in pairs:
    kernel = convolution.trainable_variables[0]
    channels = norm.gamma.shape
    scale = np.sqrt(epsilon) * 10 ** rng.uniform(-1, 2, channels)
    is_depthwise = "depthwise" in kernel.name
    kernel.assign(kernel * (scale[:, np.newaxis] if is_depthwise else scale))
    norm.moving_mean.assign(scale * rng.uniform(-0.5, 0.5, channels))
    norm.moving_variance.assign(scale**2 * rng.uniform(0.5, 1.5, channels))
    norm.gamma.assign(rng.uniform(0.5, 1.5, channels))
    norm.beta.assign(rng.uniform(-0.5, 0.5, channels))
