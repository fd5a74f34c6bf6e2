# SPDX-License-Identifier: Apache-2.0
"""Waveform to log-mel or log spectrogram, on the device, never below float32.

Two alignments of the frames:

  centred  The clip is reflect-padded by half a window on both sides, so frame
           t is centred on sample t * hop, with a periodic Hann window. librosa
           and torchaudio do this: 501 frames for 5 s.
  audax    The clip is reflect-padded by half an FFT on both sides and the
           frames of `window_samples` start there, with a symmetric Hann
           window: 504 frames for 5 s. audax's published checkpoints were
           trained with this.

Three engines compute the Fourier transform:

  fft     In float64, the rest in float32: within 2e-6 of a log unit of float64
          throughout, where a float32 FFT leaves 0.03 in faint narrow bands.
  matmul  A product with the windowed DFT matrix in fixed point, exact on any
          machine, a TPU's matrix unit included: within 1e-3 of the other. XLA
          compiles no float64 FFT.
  fft32   In float32, for TFLite, which has neither a float64 FFT nor what
          matmul needs.

"auto" takes matmul in what is built for a TPU's cores and fft elsewhere, on a
TPU's host too: what is exported there is for any machine.
"""

from __future__ import annotations

import gin
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_audioset.kernels import cpu
from tf_audioset.runtime.errors import UserError

ALIGNMENTS = ("centred", "audax")
ENGINES = ("auto", "fft", "matmul", "fft32")
MEL_SCALES = ("htk", "slaney")
# Mels for a factor of e: 27 for the factor 6.4 that takes 1000 to 6400 Hz.
_SLANEY_SLOPE = 27 / np.log(6.4)


def hz_to_mel(frequency_hz: npt.ArrayLike, scale: str = "htk") -> np.ndarray:
  """Hertz to mel, float64.

  Args:
    frequency_hz: Any shape.
    scale: "htk", 2595 log10(1 + f / 700) (O'Shaughnessy 1987); or "slaney",
      linear up to 1000 Hz, 15 mel, and logarithmic above (Slaney, "Auditory
      Toolbox", 1998).

  Raises:
    UserError: If the scale is unknown.
  """
  frequency_hz = np.asarray(frequency_hz, np.float64)
  if scale == "htk":
    return 2595.0 * np.log10(1.0 + frequency_hz / 700.0)
  if scale != "slaney":
    raise UserError(f"mel_scale {scale!r}: allowed are {MEL_SCALES}.")
  octaves = np.log(np.maximum(frequency_hz, 1000.0) / 1000.0)
  return np.minimum(frequency_hz, 1000.0) * 3 / 200 + octaves * _SLANEY_SLOPE


def mel_to_hz(mel: npt.ArrayLike, scale: str = "htk") -> np.ndarray:
  """The inverse of `hz_to_mel`."""
  mel = np.asarray(mel, np.float64)
  if scale == "htk":
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
  above = np.maximum(mel - 15.0, 0.0)
  return np.minimum(mel, 15.0) * 200 / 3 * np.exp(above / _SLANEY_SLOPE)


def mel_filterbank(
  *,
  num_mels: int,
  fft_samples: int,
  sample_rate_hz: int,
  lower_hz: float,
  upper_hz: float,
  mel_scale: str = "htk",
  area_normalised: bool = False,
) -> np.ndarray:
  """Triangular filters, evenly spaced on a mel scale.

  Args:
    num_mels: Number of filters.
    fft_samples: Length of the Fourier transform.
    sample_rate_hz: Samples per second.
    lower_hz: Lower edge of the lowest filter.
    upper_hz: Upper edge of the highest filter.
    mel_scale: One of `MEL_SCALES`, see `hz_to_mel`.
    area_normalised: Whether each triangle has area 1 (over Hz), as Slaney's
      have, and not peak 1.

  Returns:
    float64 [fft_samples // 2 + 1, num_mels].

  Raises:
    UserError: If the band edges are not 0 <= lower < upper <= Nyquist, there
      is no filter, or the scale is unknown.
  """
  if num_mels < 1:
    raise UserError(f"num_mels is {num_mels}; at least 1 is needed.")
  nyquist_hz = sample_rate_hz / 2
  if not 0 <= lower_hz < upper_hz <= nyquist_hz:
    raise UserError(
      f"mel band edges {lower_hz} to {upper_hz} Hz: allowed is 0 <= lower < "
      f"upper <= {nyquist_hz} Hz, half the sample rate."
    )
  lowest, highest = hz_to_mel([lower_hz, upper_hz], mel_scale)
  edges_hz = mel_to_hz(np.linspace(lowest, highest, num_mels + 2), mel_scale)
  left, centre, right = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
  num_bins = fft_samples // 2 + 1
  # Of an odd length, the last bin is not at half the sample rate.
  highest_hz = nyquist_hz * 2 * (num_bins - 1) / fft_samples
  bins_hz = np.linspace(0.0, highest_hz, num_bins)[:, np.newaxis]
  rising = (bins_hz - left) / (centre - left)
  falling = (right - bins_hz) / (right - centre)
  filters = np.maximum(0.0, np.minimum(rising, falling))
  return filters * 2 / (right - left) if area_normalised else filters


@tf.autograph.experimental.do_not_convert  # Half a second for nothing.
def power_spectrogram(
  waveform: tf.Tensor,
  *,
  window_samples: int = 400,
  hop_samples: int = 160,
  fft_samples: int = 1024,
  alignment: str = "centred",
  engine: str = "auto",
  filters: np.ndarray | None = None,
) -> tf.Tensor:
  """Squared magnitude of the short-time Fourier transform.

  Args:
    waveform: float32 [batch, num_samples], longer than half a window (half an
      FFT for "audax"), which the reflection needs.
    window_samples: Length of the Hann window.
    hop_samples: Distance between frames.
    fft_samples: Length that the windowed frame is zero-padded to.
    alignment: One of `ALIGNMENTS`, see the module's docstring.
    engine: One of `ENGINES`, see the module's docstring.
    filters: float64 [fft_samples // 2 + 1, num_bands], as of `mel_filterbank`:
      the sums of bins that are wanted in place of the bins.

  Returns:
    float32 [batch, num_frames, fft_samples // 2 + 1], or num_bands, num_frames
    = 1 + (num_samples + 2 * edge - window_samples) // hop_samples, where edge
    is window_samples // 2 (centred) or fft_samples // 2 (audax).

  Raises:
    UserError: If `alignment` or `engine` is unknown, or the window is longer
      than the FFT, or than the 1638 samples that "matmul" sums exactly;
      or if "fft32" has an FFT that is no power of two.
  """
  if alignment not in ALIGNMENTS:
    raise UserError(f"alignment {alignment!r}: allowed are {ALIGNMENTS}.")
  if engine == "fft32" and fft_samples & (fft_samples - 1):
    raise UserError(
      f"FFT of {fft_samples} samples: TFLite has only powers of two."
    )
  if window_samples > fft_samples:
    raise UserError(
      f"window of {window_samples} samples: allowed is at most the "
      f"{fft_samples} samples of the FFT."
    )
  centred = alignment == "centred"
  edge = (window_samples if centred else fft_samples) // 2
  sample = np.arange(window_samples)
  window = 0.5 - 0.5 * np.cos(
    2 * np.pi * sample / (window_samples if centred else window_samples - 1)
  )
  padded = tf.pad(waveform, [[0, 0], [edge, edge]], mode="REFLECT")
  engine = _resolve(engine)
  if engine == "matmul":
    num_bins = fft_samples // 2 + 1
    power, bins = _folded_power(
      tf.signal.frame(padded, window_samples, hop_samples),
      window,
      window_samples if centred else window_samples - 1,
      fft_samples,
      range(num_bins) if filters is None else _range_with_weight(filters),
    )
    if filters is not None:
      return exact_matmul(power, filters[bins])
    top = np.argmax(bins)
    return tf.concat([power[..., :top], tf.reverse(power[..., top:], [-1])], -1)
  dtype, num_together = (tf.float64, 32) if engine == "fft" else (tf.float32, 2)

  def transform(samples):
    frames = tf.signal.frame(samples, window_samples, hop_samples)
    spectrum = tf.signal.rfft(
      tf.cast(frames, dtype) * tf.constant(window, dtype), [fft_samples]
    )
    power = _squared_magnitude(spectrum)
    if filters is None:
      return power
    return _banded_matmul(power, filters, num_together)

  if engine == "fft32" or tf.config.list_logical_devices("GPU"):
    return transform(padded)
  return _piecewise(transform, padded, window_samples, hop_samples)


# Frames that one core transforms at a time: what they need stays in its cache.
_PIECE_FRAMES = 256


def _piecewise(transform, samples, window_samples, hop_samples):
  """`transform(samples)` on a CPU: every core takes pieces of its own.

  Each operation on the whole would be shared by the cores, which then wait for
  one another, and would go through the memory. `MapDefun`, which tf.data has
  for its batches, is the one that keeps an operation to one core.

  Args:
    transform: Samples float32 [n] to frames float32 [m, num_bins].
    samples: float32 [batch, num_samples].
    window_samples: Length of a frame.
    hop_samples: Distance between frames.

  Returns:
    float32 [batch, num_frames, num_bins].
  """
  # Numbers where they are known.
  batch, num_samples = (
    samples.shape[i] or tf.shape(samples)[i] for i in range(2)
  )
  num_frames = 1 + (num_samples - window_samples) // hop_samples
  num_pieces = -(-num_frames // _PIECE_FRAMES)
  piece_frames = -(-num_frames // num_pieces)
  hops = piece_frames * hop_samples
  piece_samples = hops + window_samples - hop_samples
  missing = (num_pieces - 1) * hops + piece_samples - num_samples
  samples = tf.pad(samples, [[0, 0], [0, tf.maximum(missing, 0)]])

  def transform_piece(index):
    begin = [index // num_pieces, index % num_pieces * hops]
    return transform(tf.slice(samples, begin, [1, piece_samples])[0])

  of_one = tf.function(transform_piece, autograph=False).get_concrete_function(
    tf.TensorSpec([], tf.int32)
  )
  (pieces,) = tf.raw_ops.MapDefun(
    arguments=[tf.range(batch * num_pieces)],
    captured_inputs=of_one.captured_inputs,
    output_types=[tf.float32],
    output_shapes=[of_one.output_shapes],
    f=of_one,
    max_intra_op_parallelism=1,
  )
  num_bins = pieces.shape[-1]
  frames = tf.reshape(pieces, [batch, num_pieces * piece_frames, num_bins])
  return frames[:, :num_frames]


def _squared_magnitude(spectrum):
  is_double = spectrum.dtype == tf.complex128
  if is_double and not tf.config.list_logical_devices("GPU"):
    # In one pass, as complex numbers, which a CPU alone has the op for. Its
    # real part; `tf.cast` would warn.
    squares = tf.math.squared_difference(spectrum, tf.zeros([], tf.complex128))
    return tf.raw_ops.Cast(x=squares, DstT=tf.float32)
  real, imaginary = tf.math.real(spectrum), tf.math.imag(spectrum)
  return tf.cast(tf.square(real) + tf.square(imaginary), tf.float32)


# Of the terms of a sum in fixed point.
_MAX_TERMS = 819
_FAINTEST = np.float32(2.0**-90)


def fixed_point(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Rows of floats as rows of whole numbers.

  Args:
    x: float32 [..., n].

  Returns:
    int32 [..., n], below 2^30; and float32 [..., 1], a power of two, what 1
    stands for, infinite if anything in the row is not finite. What is rounded
    off is at most 2^-30 of the greatest number in the row, or of 2^-90.
  """
  # The bits of floats, as whole numbers, have the order of the floats, and
  # those of NaN are the greatest. A silent row's inverse must not be infinite
  # after the constants, by which TensorFlow multiplies it first in a graph.
  bits = tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), _MAGNITUDE)
  greatest = tf.reduce_max(bits, -1, keepdims=True)
  exponents = tf.bitwise.bitwise_and(
    tf.maximum(greatest, _FAINTEST.view(np.int32)), _EXPONENT
  )
  # The power of two that is at most the greatest number; and one over it, whose
  # exponent is 254 minus the other's, as both are counted from 127.
  scale = tf.bitcast(exponents, tf.float32)
  inverse = tf.bitcast(np.int32(254 << 23) - exponents, tf.float32)
  return tf.cast(tf.round(x * inverse * 2.0**29), tf.int32), scale * 2.0**-29


def fixed_point_matmul(
  a: tf.Tensor, b: np.ndarray, mirrored: bool = False
) -> tf.Tensor:
  """`a @ b` for sums far smaller than their terms, in which these cancel.

  The sums of float32 products of full scale bury a faint band, differently on
  each machine, which adds in an order of its own; and a TPU rounds the operands
  to bfloat16. Here both operands are whole numbers, `b` in units of at most
  2^-30 of its greatest, cut into slices that bfloat16 holds. The sums of
  products of slices are whole numbers that float32 holds, so that they are
  exact in whatever order.

  Args:
    a: int32 [..., n], at most 2^31 - 128, n at most 819.
    b: float64 [n, m], a constant.
    mirrored: Whether to multiply by `b` with every second row negated, too.

  Returns:
    float32 [..., m], or [..., 2 * m].

  Raises:
    UserError: If n is above 819.

  Reference: Ozaki et al., "Error-free transformations of matrix multiplication
  by using fast routines of matrix multiplication and its applications", 2012.
  """
  num_terms = len(b)
  if num_terms > _MAX_TERMS:
    raise UserError(
      f"sums of {num_terms} terms are not exact; allowed are {_MAX_TERMS}."
    )
  # The longest sum is of num_slices * num_terms products of two halves of
  # 2^num_bits, at most 2^24.
  num_slices, num_bits = (4, 8) if num_terms <= 256 else (5, 7)
  b_scale = 2.0 ** (np.frexp(np.abs(b).max())[1] - 31)
  b_whole = np.round(b / b_scale).astype(np.int64)
  a_slices = [
    tf.cast(x, tf.float32)
    for x in _slices(a, num_slices, num_bits, tf.bitwise.right_shift)
  ]
  b_slices = _slices(b_whole, num_slices, num_bits, np.right_shift)
  # Of one order are all products of a slice of a and one of b whose places add
  # up to it. As one product it wastes the least of a matrix unit. Those of even
  # and of odd terms, half as long, give the mirrored ones as well.
  step = 2 if mirrored else 1
  rests = []
  for i in range(step):
    a_stack = tf.concat([x[..., i::step] for x in a_slices], -1)
    b_stack = np.concatenate([x[i::step] for x in b_slices[::-1]])
    rest = 0.0
    for order in reversed(range(1, num_slices)):  # The smallest first.
      end = (order + 1) * len(b[i::step])
      product = tf.matmul(
        a_stack[..., :end], tf.constant(b_stack[-end:], tf.float32)
      )
      rest = (rest + product) * 2.0**-num_bits
    rests.append(rest)
  # Where even and odd terms cancel, sum and difference of two rounded numbers
  # would be too coarse for the highest order: it has products of its own.
  highest = b_slices[0]
  if mirrored:
    rests = [tf.concat([rests[0] + rests[1], rests[0] - rests[1]], -1)]
    sign = 1 - 2 * (np.arange(num_terms)[:, np.newaxis] % 2)
    highest = np.concatenate([highest, highest * sign], axis=1)
  product = tf.matmul(a_slices[0], tf.constant(highest, tf.float32))
  unit = b_scale * 4.0 ** (num_bits * (num_slices - 1))
  return (product + rests[0]) * unit


def _slices(x, num_slices, num_bits, right_shift):
  """Whole numbers as digits from 1 - half to half, the highest first.

  The highest has what is left.
  """
  half = 1 << (num_bits - 1)
  slices = []
  for _ in range(num_slices - 1):
    slices.append(half - ((half - x) & (2 * half - 1)))
    x = right_shift(x - slices[-1], num_bits)
  return [x, *slices[::-1]]


def _folded_power(frames, window, period, fft_samples, bins):
  """The power of windowed frames, by products in fixed point, folded twice.

  The window is the same on both sides of `period` / 2. With the phase counted
  from there, which a magnitude does not show, the real part needs the sums of
  two samples at the same distance alone, and the imaginary part their
  differences: half the terms.

  If the distances are whole numbers and `fft_samples` is even, the cosines of
  bin fft_samples / 2 - k are those of bin k, negated at odd distances, and the
  sines are negated at even ones, or, but for the sign, at odd ones as well.

  Args:
    frames: float32 [..., window_samples].
    window: float64 [window_samples]; window[n] is window[period - n].
    period: In samples.
    fft_samples: Length of the transform.
    bins: Those that are wanted, rising.

  Returns:
    float32 [..., num_bins]; and the bins, some more if it is cheaper, which
    rise and then fall.
  """
  nyquist, lower = fft_samples // 2, np.array(bins)
  mirrored = period % 2 == fft_samples % 2 == 0
  if mirrored:
    lower = np.unique(np.minimum(lower, nyquist - lower))
    bins = np.append(lower, nyquist - lower[2 * lower < nyquist])
  middle = (period + 1) // 2
  distance = np.arange(middle, len(window)) - period / 2
  # A sample in the middle is on both sides.
  weight = window[middle:] * np.where(distance == 0, 0.5, 1.0)
  angles = 2 * np.pi / fft_samples * lower
  dft = weight[:, np.newaxis] * np.exp(1j * np.outer(distance, angles))
  numbers, unit = fixed_point(frames)
  after = numbers[..., middle:]
  before = numbers[..., period + 1 - len(window) : period + 1 - middle]
  before = tf.reverse(before, [-1])
  real = fixed_point_matmul(after + before, dft.real, mirrored) * unit
  imaginary = fixed_point_matmul(after - before, dft.imag, mirrored) * unit
  power = tf.square(real) + tf.square(imaginary)
  # A bin in the middle, which mirrors itself, is the last a second time.
  return power[..., : len(bins)], bins


def exact_matmul(a: tf.Tensor, b: np.ndarray) -> tf.Tensor:
  """`a @ b` with the accuracy of exact products summed in float32.

  A TPU rounds the operands of a float32 product to bfloat16 (8 bits). So each
  operand is a sum of parts that bfloat16 holds: three for the 24 bits of `a`,
  four for a float64 `b`. Products of parts are exact; those that a float32 sum
  can see are summed. Good for positive terms, of whatever range.

  Args:
    a: float32 [..., n].
    b: float64 [n, m], a constant.

  Returns:
    float32 [..., m].
  """
  b_parts = []
  for _ in range(4):
    b_parts.append(
      (np.float32(b).view(np.int32) & _UPPER_HALF).view(np.float32)
    )
    b = b - b_parts[-1]
  # Products of one part of a with as many as matter of b, side by side, which
  # fills a matrix unit's 128 columns where b alone may have fewer.
  products = {}
  for i, a_part in enumerate(_bfloat16_parts(a)):
    stacked = tf.constant(np.concatenate(b_parts[: 4 - i], axis=1))
    for j, product in enumerate(
      tf.split(tf.matmul(a_part, stacked), 4 - i, axis=-1)
    ):
      products[i, j] = product
  # Smallest first, so that the small ones are not lost.
  return tf.add_n([products[ij] for ij in sorted(products, key=sum)[::-1]])


def _banded_matmul(power, filters, num_together):
  """`power @ filters`, some bands at a time, of the bins that these have.

  32 at a time are quick. Two at a time have fewer than 1024 constants: TFLite's
  int8 takes in every constant of more, and with it rounds what it is multiplied
  by, of which the faint bands would be lost.
  """
  products = []
  for bands in np.array_split(
    filters, -(-filters.shape[1] // num_together), axis=1
  ):
    bins = _range_with_weight(bands)
    products.append(
      tf.matmul(
        power[..., bins.start : bins.stop],
        tf.constant(bands[bins], tf.float32),
      )
    )
  return tf.concat(products, axis=-1)


def _range_with_weight(filters):
  """The bins from the first to the last that any filter has; at least one."""
  bins = np.flatnonzero(filters.any(axis=1))
  return range(bins[0], bins[-1] + 1) if bins.size else range(1)


# Of a float32's bits, all but its sign, those of its exponent, and those that a
# bfloat16 has.
_MAGNITUDE = np.int32(0x7FFFFFFF)
_EXPONENT = np.int32(0xFF << 23)
_UPPER_HALF = np.int32(-(1 << 16))


def _bfloat16_parts(x: tf.Tensor) -> list[tf.Tensor]:
  # The bits are masked, not cast to bfloat16 and back: XLA may drop such a
  # pair of casts as "excess precision".
  parts = []
  for _ in range(3):
    bits = tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), _UPPER_HALF)
    parts.append(tf.bitcast(bits, tf.float32))
    x -= parts[-1]
  return parts


def _resolve(engine: str) -> str:
  """The engine that "auto" stands for on this machine."""
  if engine not in ENGINES:
    raise UserError(f"engine {engine!r}: allowed are {ENGINES}.")
  if engine != "auto":
    return engine
  # Not by the machine: a TPU's host also makes exports, for others.
  return "matmul" if cpu.in_xla() else "fft"


@gin.register
class LogSpectrogram(tf.keras.layers.Layer):
  """log(clip(power spectrogram)), for models without a mel scale."""

  def __init__(
    self,
    window_samples: int = 400,
    hop_samples: int = 160,
    fft_samples: int = 1024,
    min_power: float = 1e-8,
    max_power: float = 1e8,
    alignment: str = "centred",
    engine: str = "auto",
  ):
    """See `LogMel`, which has the same arguments and more."""
    # float32 whatever the policy: a log of bfloat16 powers has lost the signal.
    super().__init__(dtype=tf.float32)
    self._stft = dict(
      window_samples=window_samples,
      hop_samples=hop_samples,
      fft_samples=fft_samples,
      alignment=alignment,
      engine=engine,
    )
    self._limits = (min_power, max_power)
    self._filters = None

  def call(self, waveform: tf.Tensor, engine: str | None = None) -> tf.Tensor:
    """Computes the log spectrogram.

    Args:
      waveform: float32 [batch, num_samples], mono, full scale is +-1.
      engine: One of `ENGINES` in place of the layer's own.

    Returns:
      float32 [batch, num_frames, fft_samples // 2 + 1]; of `LogMel`
      [batch, num_frames, num_mels].
    """
    options = dict(self._stft)  # Keras has wrapped it.
    options["engine"] = engine or options["engine"]
    bands = power_spectrogram(waveform, filters=self._filters, **options)
    return tf.math.log(tf.clip_by_value(bands, *self._limits))


@gin.register
class LogMel(LogSpectrogram):
  """log(clip(mel(power spectrogram))): the front end of every model here.

  Reference: Kong et al., "PANNs", 2020, section III.A, with the window, hop,
  band edges and limits of audax's AudioSet recipe.
  """

  def __init__(
    self,
    sample_rate_hz: int = 16000,
    num_mels: int = 64,
    window_samples: int = 400,
    hop_samples: int = 160,
    fft_samples: int = 1024,
    lower_hz: float = 60.0,
    upper_hz: float = 7800.0,
    mel_scale: str = "htk",
    area_normalised: bool = False,
    min_power: float = 1e-8,
    max_power: float = 1e8,
    alignment: str = "centred",
    engine: str = "auto",
  ):
    """Args are those of `power_spectrogram` and `mel_filterbank`.

    Args:
      sample_rate_hz: Samples per second of the waveform.
      num_mels: Number of mel bands.
      window_samples: Length of the Hann window (25 ms).
      hop_samples: Distance between frames (10 ms).
      fft_samples: Length of the Fourier transform.
      lower_hz: Lower edge of the lowest band.
      upper_hz: Upper edge of the highest band.
      mel_scale: One of `MEL_SCALES`.
      area_normalised: Whether a band's filter has area 1, and not peak 1.
      min_power: Mel powers below are raised to this before the logarithm.
      max_power: Mel powers above are lowered to this.
      alignment: One of `ALIGNMENTS`.
      engine: One of `ENGINES`.
    """
    super().__init__(
      window_samples,
      hop_samples,
      fft_samples,
      min_power,
      max_power,
      alignment,
      engine,
    )
    self.sample_rate_hz = sample_rate_hz
    self._filters = mel_filterbank(
      num_mels=num_mels,
      fft_samples=fft_samples,
      sample_rate_hz=sample_rate_hz,
      lower_hz=lower_hz,
      upper_hz=upper_hz,
      mel_scale=mel_scale,
      area_normalised=area_normalised,
    )
