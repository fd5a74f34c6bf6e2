# SPDX-License-Identifier: Apache-2.0
"""Batch norms in which epsilon and statistics matter."""

import numpy as np


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
