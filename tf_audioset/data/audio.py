# SPDX-License-Identifier: Apache-2.0
"""Audio files to samples, and samples to the bytes that records hold.

Does not import TensorFlow: preparation runs this in many processes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import soundfile
import soxr

from tf_audioset.data import audio_bytes, audio_containers, audio_decoding

AudioError = audio_bytes.AudioError
container_of = audio_containers.container_of

CODECS = ("flac", "pcm16")

# A remark.
CANCELLED = (
  "has channels that cancel out: their mean is at least 20 dB below them"
)

# Read beyond the wanted end, so that the resampler's filter does not see one.
_MARGIN_SECONDS = 0.1
# Amplitude. Noise at full scale reaches 3.5 after an mp3 encoder; samples of 16
# bits as floats are beyond this, unless they are below -66 dB.
_MAX_PEAK = 16.0
# The mean of two unlike channels is 3 dB below them, that of eight, 9 dB.
_CANCELLED_DB = 20.0
# RMS below which channels are silent themselves.
_SILENT_RMS = 1e-4
# Every so many samples are looked at to compare them; a prime, so that it is
# no part of a period.
_STRIDE = 31


class Decoded(NamedTuple):
  """What `read` gives of a file."""

  waveform: np.ndarray  # float32 [num_samples]
  # Length of the whole file, however little of it was wanted; None if that is
  # broken and does not tell.
  seconds: float | None
  # What the reader of a result should know, in short sentences without a
  # subject, such as "is 6.0 s long; its header says 3.0 s".
  remarks: tuple[str, ...]


def read_audio(
  path: str | os.PathLike,
  *,
  sample_rate_hz: int,
  max_seconds: float | None = None,
  content: bytes | None = None,
) -> np.ndarray:
  """Returns the waveform of `read`, which has the same arguments."""
  return read(
    path,
    sample_rate_hz=sample_rate_hz,
    max_seconds=max_seconds,
    content=content,
  ).waveform


def read(
  path: str | os.PathLike,
  *,
  sample_rate_hz: int,
  max_seconds: float | None = None,
  content: bytes | None = None,
) -> Decoded:
  """Decodes a file, mixes it to mono and resamples it.

  The content decides what a file is, never its name. Recordings that were
  joined are read one after the other; where the rate changes, each piece is
  resampled from its own. A pipe is read once, into memory.

  Args:
    path: Any audio that libsndfile or FFmpeg decodes, at any rate and channel
      count.
    sample_rate_hz: Wanted rate.
    max_seconds: Only the beginning, of this length, is kept. What comes behind
      it is not decoded, and may be broken.
    content: The file's bytes, where `path` is not on a disk.

  Returns:
    The waveform, float32 [num_samples] in [-1, 1]: the mean of the channels,
    band-limited to half of the lower rate. The length of the file. Remarks: the
    file is longer than its header says; something in it is not read; the
    channels cancel out, so that their mean is far below them.

  Raises:
    AudioError: If the file is missing, undecodable, empty, not finite or far
      beyond full scale, or ends before its header says or (Ogg) without the
      page that ends it.
  """
  pieces = []
  mixer = _Mixer(path)
  with audio_decoding.Recording(path, content) as recording:
    try:
      with contextlib.closing(recording.blocks()) as blocks:
        for block in blocks:
          if not pieces or pieces[-1].rate_hz != block.rate_hz:
            begin_seconds = sum(piece.seconds() for piece in pieces)
            pieces.append(_Piece(block.rate_hz, begin_seconds))
          pieces[-1].add(mixer.mono(block.channels))
          if max_seconds is not None and pieces[-1].cut(
            max_seconds + _MARGIN_SECONDS
          ):
            break
    except AudioError:
      seconds = sum(piece.seconds() for piece in pieces)
      if max_seconds is None or seconds < max_seconds:
        raise
    seconds = None
    with contextlib.suppress(AudioError):
      seconds = recording.seconds()
  if not pieces:
    raise AudioError(f"{path}: holds no samples")
  waveform = np.concatenate([p.resampled(sample_rate_hz) for p in pieces])
  if max_seconds is not None:
    waveform = waveform[: round(max_seconds * sample_rate_hz)]
  if not len(waveform):
    raise AudioError(
      f"{path}: is shorter than one sample at {sample_rate_hz} Hz"
    )
  # Resampling overshoots full scale, too.
  waveform = np.clip(waveform, -1.0, 1.0)
  return Decoded(waveform, seconds, (*recording.remarks, *mixer.remarks()))


class _Piece:
  """Mono waveforms of one rate that follow each other."""

  def __init__(self, rate_hz: int, begin_seconds: float):
    self.rate_hz = rate_hz
    self._begin_seconds = begin_seconds
    self._waveforms = []
    self._num_samples = 0

  def add(self, waveform):
    self._waveforms.append(waveform)
    self._num_samples += len(waveform)

  def seconds(self) -> float:
    return self._num_samples / self.rate_hz

  def cut(self, end_seconds: float) -> bool:
    """Drops what is behind; returns whether the end was reached."""
    wanted = int((end_seconds - self._begin_seconds) * self.rate_hz + 1)
    unwanted = self._num_samples - wanted
    if unwanted > 0:
      self._waveforms[-1] = self._waveforms[-1][:-unwanted]
      self._num_samples = wanted
    return unwanted >= 0

  def resampled(self, sample_rate_hz: int) -> np.ndarray:
    waveform = np.concatenate(self._waveforms)
    if self.rate_hz == sample_rate_hz:
      return waveform
    return soxr.resample(waveform, self.rate_hz, sample_rate_hz, quality="HQ")


class _Mixer:
  """Checks channels, makes their mean, and notices if they cancel out."""

  def __init__(self, path):
    self._path = path
    self._power = self._mono_power = self._num_samples = 0.0

  def mono(self, channels: np.ndarray) -> np.ndarray:
    """Returns the mean of float32 [n, num_channels].

    Raises:
      AudioError: If samples are not finite or far beyond full scale.
    """
    if not np.isfinite(channels).all():
      raise AudioError(f"{self._path}: holds samples that are not finite")
    # Lossy decoding overshoots full scale; floats of another scale are far
    # beyond it, and would be clipped to square waves.
    peak = np.abs(channels).max(initial=0.0)
    if peak > _MAX_PEAK:
      raise AudioError(
        f"{self._path}: its samples reach {peak:.3g}; full scale is 1"
      )
    # NumPy's own mean takes as long as the decoding.
    mono = sum(channels.T) / np.float32(channels.shape[1])
    if channels.shape[1] > 1:
      # Without the constant part, which may be equal in channels that are not.
      some = channels[::_STRIDE].T.copy()
      self._power += len(mono) * some.var(axis=1).mean()
      self._mono_power += len(mono) * some.mean(axis=0).var()
      self._num_samples += len(mono)
    return mono

  def remarks(self) -> tuple[str, ...]:
    """Returns `CANCELLED`, or nothing."""
    is_silent = self._power <= _SILENT_RMS**2 * self._num_samples
    weaker = 10 ** (_CANCELLED_DB / 10) * self._mono_power
    return (CANCELLED,) if not is_silent and weaker <= self._power else ()


def to_int16(waveform: np.ndarray) -> np.ndarray:
  """Converts floats in [-1, 1] to int16, whose full scale is 32768.

  The inverse, everywhere here, is a division by 32768; +1.0 becomes 32767.
  """
  return np.clip(np.rint(waveform * 32768.0), -32768, 32767).astype(np.int16)


def samples_hash(samples: np.ndarray) -> int:
  """Returns 64 bits of the SHA-256 of int16 samples."""
  digest = hashlib.sha256(samples.astype("<i2").tobytes()).digest()
  return int.from_bytes(digest[:8], "big")


def encode(samples: np.ndarray, sample_rate_hz: int, codec: str) -> bytes:
  """Encodes int16 [num_samples] as FLAC or as little-endian bytes.

  Raises:
    UserError: If the codec is unknown or the samples are not int16.
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


def read_blocks(
  path: str | os.PathLike,
  *,
  sample_rate_hz: int,
  block_seconds: float = 10.0,
  remarks: list[str] | None = None,
) -> Iterator[np.ndarray]:
  """Yields what `read_audio` gives of a file, in parts: for long recordings.

  Args:
    path: As for `read`.
    sample_rate_hz: Wanted rate.
    block_seconds: Of the file, decoded at once.
    remarks: A list that gets those of `Decoded` when the file has ended.

  Yields:
    float32 [num_samples], parts of different lengths, none of them empty.

  Raises:
    AudioError: As `read` does, but when the parts before are out.
  """
  mixer = _Mixer(path)
  resampler, rate_hz, num_frames, num_samples = None, None, 0, 0

  def resampled(waveform, is_last):
    if resampler:
      waveform = resampler.resample_chunk(waveform, last=is_last)
    return np.clip(waveform, -1.0, 1.0)

  with audio_decoding.Recording(path) as recording:
    for block in itertools.chain(recording.blocks(block_seconds), (None,)):
      waveforms = []
      if rate_hz and (block is None or block.rate_hz != rate_hz):
        waveforms.append(resampled(np.zeros(0, np.float32), True))
      if block:
        if block.rate_hz != rate_hz:
          rate_hz, resampler = block.rate_hz, None
          if rate_hz != sample_rate_hz:
            resampler = soxr.ResampleStream(
              rate_hz, sample_rate_hz, num_channels=1, quality="HQ"
            )
        num_frames += len(block.channels)
        waveforms.append(resampled(mixer.mono(block.channels), False))
      for waveform in waveforms:
        num_samples += len(waveform)
        if len(waveform):
          yield waveform
    if remarks is not None:
      remarks += [*recording.remarks, *mixer.remarks()]
  if not num_frames:
    raise AudioError(f"{path}: holds no samples")
  if not num_samples:
    raise AudioError(
      f"{path}: is shorter than one sample at {sample_rate_hz} Hz"
    )


def duration_seconds(path: str | os.PathLike) -> float:
  """Returns the length by a file's headers, perhaps estimated; 0 if unknown."""
  if not os.path.isfile(path):
    return 0.0  # A pipe can be read only once.
  try:
    with audio_decoding.Recording(path) as recording:
      return recording.estimated_seconds()
  except AudioError:
    return 0.0
