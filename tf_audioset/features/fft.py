# SPDX-License-Identifier: Apache-2.0
"""Powers of frames by a fast Fourier transform, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_audioset.features import stft as stft_lib
from tf_audioset.runtime.errors import UserError

# A CPU transforms so many frames at a time: their data stay in a core's cache.
_PIECE_FRAMES = 256
# At most so many pieces are worked on at once.
_PARALLEL_PIECES = 8


class Fft:
  """Transforms windowed frames with TensorFlow's real FFT."""

  def __init__(self, dtype: tf.DType):
    """Makes an engine that transforms in `dtype`, float64 or float32."""
    self._dtype = dtype

  def __call__(
    self,
    waveform: tf.Tensor,
    stft: stft_lib.Stft,
    filters: np.ndarray | None = None,
  ) -> tf.Tensor:
    """Computes powers; see `engines`.

    Raises:
      UserError: If it is for TFLite, which has no FFT of this length.
    """
    if self._is_for_tflite and stft.fft_samples & (stft.fft_samples - 1):
      raise UserError(
        f"FFT of {stft.fft_samples} samples: TFLite has only powers of two."
      )
    padded = tf.pad(
      stft_lib.to_float(waveform),
      [[0, 0], [stft.edge, stft.edge]],
      mode="REFLECT",
    )

    def transform(samples):
      frames = tf.signal.frame(samples, stft.window_samples, stft.hop_samples)
      spectrum = tf.signal.rfft(
        tf.cast(frames, self._dtype) * tf.constant(stft.window, self._dtype),
        [stft.fft_samples],
      )
      # Squared in float32, which takes less time and loses nothing.
      spectrum = tf.cast(spectrum, tf.complex64)
      power = tf.square(tf.math.real(spectrum)) + tf.square(
        tf.math.imag(spectrum)
      )
      if filters is None:
        return power
      return _banded_matmul(power, filters, self._bands_together)

    if self._is_for_tflite or tf.config.list_logical_devices("GPU"):
      return transform(padded)
    return _piecewise(transform, padded, stft)

  @property
  def _is_for_tflite(self) -> bool:
    return self._dtype == tf.float32

  @property
  def _bands_together(self) -> int:
    """Returns the number of bands that are summed by one product.

    32 at a time are quick. Two at a time have fewer than 1024 constants:
    TFLite's int8 takes in every constant of more, and with it rounds what it is
    multiplied by, of which the faint bands would be lost.
    """
    return 2 if self._is_for_tflite else 32


def _piecewise(
  transform: Callable[[tf.Tensor], tf.Tensor],
  samples: tf.Tensor,
  stft: stft_lib.Stft,
) -> tf.Tensor:
  """Computes `transform(samples)` in pieces of a few frames.

  Each operation on the whole would go through the memory and be shared by the
  cores, which then wait for one another: a step's front end took 23 % more CPU
  time that way.

  Args:
    transform: Samples float32 [n] to frames float32 [m, num_bands].
    samples: float32 [batch, num_samples].
    stft: Where the frames are in `samples`, whose edges are already there.

  Returns:
    float32 [batch, num_frames, num_bands].
  """
  batch, num_samples = stft_lib.sizes(samples)
  num_frames = stft.num_frames(num_samples - 2 * stft.edge)
  num_pieces = -(-num_frames // _PIECE_FRAMES)
  piece_frames = -(-num_frames // num_pieces)
  hops = piece_frames * stft.hop_samples
  piece_samples = hops + stft.window_samples - stft.hop_samples
  missing = (num_pieces - 1) * hops + piece_samples - num_samples
  samples = tf.pad(samples, [[0, 0], [0, tf.maximum(missing, 0)]])

  def transform_piece(index):
    begin = [index // num_pieces, index % num_pieces * hops]
    return transform(tf.slice(samples, begin, [1, piece_samples])[0])

  pieces = tf.map_fn(
    transform_piece,
    tf.range(batch * num_pieces),
    fn_output_signature=tf.float32,
    # Eagerly TensorFlow warns of it.
    parallel_iterations=None if tf.executing_eagerly() else _PARALLEL_PIECES,
  )
  shape = [batch, num_pieces * piece_frames, pieces.shape[-1]]
  return tf.reshape(pieces, shape)[:, :num_frames]


def _banded_matmul(power, filters, num_together):
  """Computes `power @ filters`, some bands at a time, of the bins they have."""
  products = []
  for bands in np.array_split(
    filters, -(-filters.shape[1] // num_together), axis=1
  ):
    bins = stft_lib.range_with_weight(bands)
    products.append(
      tf.matmul(
        power[..., bins.start : bins.stop],
        tf.constant(bands[bins], tf.float32),
      )
    )
  return tf.concat(products, axis=-1)
