# SPDX-License-Identifier: Apache-2.0
"""Audio files to samples, and samples to the bytes that records hold.

Does not import TensorFlow: preparation runs this in many processes.
"""

from __future__ import annotations

import glob
import io
import os
import pathlib
from collections.abc import Iterator, Sequence

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


def read_blocks(
  path: str | os.PathLike, *, sample_rate_hz: int, block_seconds: float = 10.0
) -> Iterator[np.ndarray]:
  """What `read_audio` gives of a file, in parts: for long recordings.

  A format that libsndfile cannot open is read whole.

  Args:
    path: As for `read_audio`.
    sample_rate_hz: Wanted rate.
    block_seconds: Of the file, decoded at once.

  Yields:
    float32 [num_samples], parts of different lengths, none of them empty.

  Raises:
    AudioError: As `read_audio` does, but when the parts before are out.
  """
  try:
    file = soundfile.SoundFile(path)
  except (soundfile.SoundFileError, OSError, TypeError):
    yield read_audio(path, sample_rate_hz=sample_rate_hz)
    return
  with file:
    resampler = soxr.ResampleStream(
      file.samplerate, sample_rate_hz, num_channels=1, quality="HQ"
    )
    block_frames = max(round(block_seconds * file.samplerate), 1)
    num_frames = num_samples = 0
    is_last = False
    while not is_last:
      try:
        channels = file.read(block_frames, dtype="float32", always_2d=True)
      except soundfile.SoundFileError as e:
        reason = getattr(e, "error_string", e)
        raise AudioError(
          f"{path}: cannot be read as audio beyond "
          f"{num_frames / file.samplerate:.1f} s ({reason})"
        ) from e
      is_last = not len(channels)
      num_frames += len(channels)
      if not np.isfinite(channels).all():
        raise AudioError(f"{path}: holds samples that are not finite")
      waveform = resampler.resample_chunk(channels.mean(axis=1), last=is_last)
      num_samples += len(waveform)
      if len(waveform):
        yield np.clip(waveform, -1.0, 1.0)
  if not num_frames:
    raise AudioError(f"{path}: holds no samples")
  if not num_samples:
    raise AudioError(
      f"{path}: is shorter than one sample at {sample_rate_hz} Hz"
    )


def duration_seconds(path: str | os.PathLike) -> float:
  """What the head of a file says of its length; 0 if it cannot be told."""
  try:
    return soundfile.info(path).duration
  except (soundfile.SoundFileError, OSError, TypeError):
    return 0.0


def find_files(arguments: Sequence[str]) -> list[str]:
  """Files, folders (all audio in and below them) and glob patterns.

  Returns:
    Paths; the files of a folder or a pattern are sorted. What is none of them
    is taken for the name of a file.

  Raises:
    ValueError: If a folder or a pattern has no audio file.
  """
  files = []
  for argument in arguments:
    found = [argument]
    if os.path.isdir(argument):
      found = _audio_in(argument)
    elif glob.has_magic(argument) and not os.path.exists(argument):
      found = []
      for path in sorted(glob.glob(argument, recursive=True)):
        found += _audio_in(path) if os.path.isdir(path) else [path]
    if not found:
      raise ValueError(
        f"{argument}: no audio file there (looked for {', '.join(EXTENSIONS)})."
      )
    files += found
  return files


def _audio_in(folder: str) -> list[str]:
  return sorted(
    str(path)
    for path in pathlib.Path(folder).rglob("*")
    if path.suffix.lower() in EXTENSIONS and path.is_file()
  )
