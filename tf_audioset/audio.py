# SPDX-License-Identifier: Apache-2.0
"""Audio files to samples, and samples to the bytes that records hold.

Does not import TensorFlow: preparation runs this in many processes.
"""

from __future__ import annotations

import hashlib
import io
import os

import numpy as np
import soundfile
import soxr

# What libsndfile reads and this project is tested with.
EXTENSIONS = (".wav", ".flac", ".ogg", ".mp3")

CODECS = ("flac", "pcm16")

# Read beyond the wanted end, so that the resampler's filter does not see one.
_MARGIN_SECONDS = 0.1


class AudioError(ValueError):
  """A file that holds no usable audio; the message names it and says why."""


def read_audio(
  path: str | os.PathLike,
  *,
  sample_rate_hz: int,
  max_seconds: float | None = None,
) -> np.ndarray:
  """Decodes, mixes to mono and resamples.

  Args:
    path: wav, flac, ogg or mp3 at any rate and channel count.
    sample_rate_hz: Wanted rate.
    max_seconds: Only the beginning, of this length, is kept.

  Returns:
    float32 [num_samples] in [-1, 1]: the mean of the channels, band-limited to
    half of the lower rate.

  Raises:
    AudioError: If the file is missing, undecodable, empty or not finite.
  """
  try:
    with soundfile.SoundFile(path) as file:
      rate_hz = file.samplerate
      frames = -1
      if max_seconds is not None:
        frames = int((max_seconds + _MARGIN_SECONDS) * rate_hz) + 1
      channels = file.read(frames, dtype="float32", always_2d=True)
  except (soundfile.SoundFileError, OSError, TypeError) as e:
    reason = getattr(e, "error_string", e)  # libsndfile's own words.
    if not os.path.exists(path):
      reason = "no such file"
    raise AudioError(f"{path}: cannot be read as audio ({reason})") from e
  if not len(channels):
    raise AudioError(f"{path}: holds no samples")
  if not np.isfinite(channels).all():
    raise AudioError(f"{path}: holds samples that are not finite")
  waveform = channels.mean(axis=1)
  if rate_hz != sample_rate_hz:
    waveform = soxr.resample(waveform, rate_hz, sample_rate_hz, quality="HQ")
  if max_seconds is not None:
    waveform = waveform[: round(max_seconds * sample_rate_hz)]
  if not len(waveform):
    raise AudioError(
      f"{path}: is shorter than one sample at {sample_rate_hz} Hz"
    )
  # Resampling and lossy decoding overshoot full scale a little.
  return np.clip(waveform, -1.0, 1.0)


def to_int16(waveform: np.ndarray) -> np.ndarray:
  """Float in [-1, 1] to int16, whose full scale is 32768.

  The inverse, everywhere here, is a division by 32768; +1.0 becomes 32767.
  """
  return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def samples_hash(samples: np.ndarray) -> int:
  """64 bits of the SHA-256 of int16 samples: equal for equal audio."""
  digest = hashlib.sha256(samples.astype("<i2").tobytes()).digest()
  return int.from_bytes(digest[:8], "big")


def encode(samples: np.ndarray, sample_rate_hz: int, codec: str) -> bytes:
  """int16 [num_samples] to a FLAC file, or to little-endian bytes.

  Raises:
    ValueError: If the codec is unknown or the samples are not int16.
  """
  if samples.dtype != np.int16 or samples.ndim != 1:
    raise ValueError(
      f"samples are {samples.dtype} {samples.shape}; they must be int16 [n]."
    )
  if codec == "pcm16":
    return samples.astype("<i2").tobytes()
  if codec != "flac":
    raise ValueError(f"codec {codec!r}: allowed are {CODECS}.")
  buffer = io.BytesIO()
  soundfile.write(buffer, samples, sample_rate_hz, "PCM_16", format="FLAC")
  return buffer.getvalue()
