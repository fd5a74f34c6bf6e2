# SPDX-License-Identifier: Apache-2.0
"""Audio files to samples, and samples to the bytes that records hold.

Does not import TensorFlow: preparation runs this in many processes.
"""

from __future__ import annotations

import hashlib
import io
import os

import miniaudio
import numpy as np
import soundfile
import soxr

# What libsndfile reads, and what PyAV (FFmpeg) does.
_AV_EXTENSIONS = (".m4a", ".mp4", ".webm")
EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", *_AV_EXTENSIONS)

CODECS = ("flac", "pcm16")

# Read beyond the wanted end, so that the resampler's filter does not see one.
_MARGIN_SECONDS = 0.1
# A wav's header has its length in bytes. What is written to a pipe has none of
# these, but 0 or nearly the greatest number.
_NO_WAV_LENGTH = 0x7FFFF000
# By how much a header may promise more than there is: an mp3's length may be
# estimated, and FFmpeg's copies of parts promise up to a few frames too many.
_MP3_SLACK_SECONDS = 0.1
_AV_SLACK_SECONDS = 0.5


class AudioError(ValueError):
  """A file that holds no usable audio; the message names it and says why."""


def read_audio(
  path: str | os.PathLike,
  *,
  sample_rate_hz: int,
  max_seconds: float | None = None,
  content: bytes | None = None,
) -> np.ndarray:
  """Decodes, mixes to mono and resamples.

  Args:
    path: One of `EXTENSIONS`, at any rate and channel count.
    sample_rate_hz: Wanted rate.
    max_seconds: Only the beginning, of this length, is kept.
    content: The file's bytes, where `path` is not on a disk.

  Returns:
    float32 [num_samples] in [-1, 1]: the mean of the channels, band-limited to
    half of the lower rate.

  Raises:
    AudioError: If the file is missing, undecodable, empty or not finite, or
      ends before its header says (ogg and opus headers say nothing).
  """
  if content is None and not os.path.exists(path):
    raise AudioError(f"{path}: cannot be read as audio (no such file)")
  is_for_av = os.fspath(path).lower().endswith(_AV_EXTENSIONS)
  read = _read_with_av if is_for_av else _read_with_libsndfile
  wanted_seconds = np.inf
  if max_seconds is not None:
    wanted_seconds = max_seconds + _MARGIN_SECONDS
  channels, rate_hz, promised, slack = read(path, content, wanted_seconds)
  if len(channels) + slack * rate_hz < min(promised, wanted_seconds * rate_hz):
    raise AudioError(
      f"{path}: only {len(channels) / rate_hz:.1f} of {promised / rate_hz:.1f} "
      "s can be decoded"
    )
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


def _read_with_libsndfile(path, content, wanted_seconds):
  """(float32 [n, channels], rate in Hz, promised n, slack in seconds)."""
  head = b""
  try:
    with open(path, "rb") if content is None else io.BytesIO(content) as file:
      head = file.read(12)
      wav_bytes = _wav_data_bytes(file, head)
      if wav_bytes == 0:
        # libsndfile believes a length of 0. This one says "up to the end".
        place = file.tell() - 4
        file.seek(0)
        content = bytearray(file.read())
        content[place : place + 4] = b"\xff" * 4
    source = path if content is None else io.BytesIO(content)
    with soundfile.SoundFile(source) as file:
      rate_hz, promised = file.samplerate, file.frames
      frames = int(min(promised, wanted_seconds * rate_hz + 1))
      channels = file.read(frames, dtype="float32", always_2d=True)
      sample_bytes = _WAV_SAMPLE_BYTES.get(file.subtype)
      if wav_bytes and sample_bytes:
        # Of a wav that was cut off, libsndfile tells what is left.
        promised = max(promised, wav_bytes // (sample_bytes * file.channels))
      slack = _MP3_SLACK_SECONDS if file.format == "MP3" else 0
      return channels, rate_hz, promised, slack
  except (
    soundfile.SoundFileError,
    OSError,
    TypeError,
    # FLAC without a length seems endless, more than an array can hold.
    ValueError,
    MemoryError,
  ) as e:
    if head[:4] == b"fLaC":
      if content is None:
        with open(path, "rb") as file:
          content = file.read()
      return _read_broken_flac(path, content)
    reason = getattr(e, "error_string", e)  # libsndfile's own words.
    raise AudioError(f"{path}: cannot be read as audio ({reason})") from e


# Other kinds are compressed: their bytes promise no number of samples.
_WAV_SAMPLE_BYTES = {
  "PCM_U8": 1,
  "PCM_16": 2,
  "PCM_24": 3,
  "PCM_32": 4,
  "FLOAT": 4,
  "DOUBLE": 8,
  "ALAW": 1,
  "ULAW": 1,
}


def _wav_data_bytes(file, head: bytes) -> int | None:
  """Length of a wav's samples by its header; 0 if it was not known.

  None if it is no wav or says that it has no end. `head` is its first 12 bytes.
  The file is left where the samples begin.
  """
  if head[:4] != b"RIFF" or head[8:] != b"WAVE":
    return None
  riff_bytes = int.from_bytes(head[4:8], "little")
  while len(chunk := file.read(8)) == 8:
    size = int.from_bytes(chunk[4:], "little")
    if chunk[:4] == b"data":
      # An empty file's header is otherwise right.
      is_unknown = riff_bytes < 36 or riff_bytes >= _NO_WAV_LENGTH
      if size == 0 and is_unknown:
        return 0
      return size if 0 < size < _NO_WAV_LENGTH else None
    file.seek(size + size % 2, os.SEEK_CUR)
  return None


def _read_broken_flac(path, content):
  """What libsndfile does not read: cut off, damaged, or from a pipe."""
  # STREAMINFO's last 36 bits before the MD5: samples, 0 if not known.
  promised = int.from_bytes(content[18:26], "big") % (1 << 36)
  try:
    decoded = miniaudio.flac_read_f32(bytes(content))
  except miniaudio.MiniaudioError as e:
    raise AudioError(f"{path}: cannot be read as audio (broken FLAC)") from e
  if promised and decoded.num_frames >= promised:
    raise AudioError(f"{path}: cannot be read as audio (damaged FLAC)")
  channels = np.array(decoded.samples, np.float32)
  channels = channels.reshape(-1, decoded.nchannels)
  return channels, decoded.sample_rate, promised or len(channels), 0


def _read_with_av(path, content, wanted_seconds):
  """As `_read_with_libsndfile`."""
  try:
    import av
  except ImportError:
    raise AudioError(
      f"{path}: needs PyAV, the extra [av]: pip install av"
    ) from None
  try:
    source = os.fspath(path) if content is None else io.BytesIO(content)
    with av.open(source) as container:
      if not container.streams.audio:
        raise AudioError(f"{path}: holds no sound")
      stream = container.streams.audio[0]
      promised_seconds = 0.0
      if stream.duration:
        promised_seconds = float(stream.duration * stream.time_base)
      elif container.duration and len(container.streams) == 1:
        promised_seconds = container.duration / av.time_base
      # To planes of floats, whatever the codec gives.
      converter = av.AudioResampler("fltp", stream.layout, stream.rate)
      parts, length = [np.zeros([0, stream.channels], np.float32)], 0
      for frame in container.decode(stream):
        for converted in converter.resample(frame):
          parts.append(converted.to_ndarray().T)
          length += len(parts[-1])
        if length > wanted_seconds * stream.rate:
          break
      promised = promised_seconds * stream.rate
      return np.concatenate(parts), stream.rate, promised, _AV_SLACK_SECONDS
  except av.FFmpegError as e:
    raise AudioError(f"{path}: cannot be read as audio ({e.strerror})") from e


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
