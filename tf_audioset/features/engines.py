# SPDX-License-Identifier: Apache-2.0
"""Chooses how the Fourier transform is computed.

  fft     In float64, the rest in float32, for CPUs and GPUs: within 2e-6 of a
          log unit of float64 throughout, where a float32 FFT leaves 0.03 in
          faint narrow bands. XLA has no float64 FFT.
  matmul  Products with the DFT matrix, which suit a TPU's matrix unit: within
          5e-5 of a log unit of the other where the mel power is at least 1e-4,
          5e-4 where it is at least 1e-6, and 3e-3 below.
  fft32   In float32, for TFLite, which has neither a float64 FFT nor what
          matmul needs.
  auto    matmul in what is built for XLA, and so for a TPU's cores; fft
          elsewhere, on a TPU's host too: its exports are for any machine.

An engine is called with waveforms, int16 or float32 [batch, num_samples], with
a `Stft`, and with filters, float64 [num_bins, num_bands], or None for the bins
themselves. It returns the powers, float32 [batch, num_frames, num_bands].
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from tf_audioset.features import fft, matmul
from tf_audioset.runtime import tf_internals
from tf_audioset.runtime.errors import UserError

_ENGINES = {
  "fft": fft.Fft(tf.float64),
  "matmul": matmul.power,
  "fft32": fft.Fft(tf.float32),
}
ENGINES = ("auto", *_ENGINES)


def check_name(name: str) -> str:
  """Returns the name of an engine.

  Raises:
    UserError: If there is none of that name.
  """
  if name not in ENGINES:
    raise UserError(f"engine {name!r}: allowed are {ENGINES}.")
  return name


def choose(name: str) -> Callable[..., tf.Tensor]:
  """Returns the engine of a name; "auto" is decided by the graph being built.

  Raises:
    UserError: If there is none of that name.
  """
  if check_name(name) == "auto":
    # It is not the machine that decides: a TPU's host also makes exports.
    name = "matmul" if tf_internals.in_xla() else "fft"
  return _ENGINES[name]
