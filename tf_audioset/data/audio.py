# SPDX-License-Identifier: Apache-2.0
"""Audio files to samples, and samples to the bytes that records hold.

Does not import TensorFlow: preparation runs this in many processes.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import pathlib
from collections.abc import Iterator, Sequence

import miniaudio
import numpy as np
import soundfile
import soxr

from tf_audioset.runtime.errors import UserError

# What libsndfile reads, and what PyAV (FFmpeg) does.
_AV_EXTENSIONS = (".m4a", ".mp4", ".webm")
EXTENSIONS = (".wav", ".flac", ".ogg", ".opus", ".mp3", *_AV_EXTENSIONS)

CODECS = ("flac", "pcm16")

# Read beyond the wanted end, so that the resampler's filter does not see one.
_MARGIN_SECONDS = 0.1
# Amplitude. Noise at full scale reaches 3.5 after an mp3 encoder; samples of 16
# bits as floats are beyond this, unless they are below -66 dB.
_MAX_PEAK = 16.0
# A wav's header has its length in bytes. What is written to a pipe has none of
# these, but 0 or nearly the greatest number.
_NO_WAV_LENGTH = 0x7FFFF000
# By how much a header may promise more than there is: an mp3's length may be
# estimated, and FFmpeg's copies of parts promise up to a few frames too many.
_MP3_SLACK_SECONDS = 0.1
_AV_SLACK_SECONDS = 0.5
# More frames than anything has: libsndfile's word for a length it cannot tell.
_ENDLESS = 1 << 60


class AudioError(UserError):
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
    AudioError: If the file is missing, undecodable, empty, not finite or far
      beyond full scale, or ends before its header says (ogg and opus headers
      say nothing).
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
  _check_samples(path, channels)
  waveform = _mono(channels)
  if rate_hz != sample_rate_hz:
    waveform = soxr.resample(waveform, rate_hz, sample_rate_hz, quality="HQ")
  if max_seconds is not None:
    waveform = waveform[: round(max_seconds * sample_rate_hz)]
  if not len(waveform):
    raise AudioError(
      f"{path}: is shorter than one sample at {sample_rate_hz} Hz"
    )
  # Resampling overshoots full scale, too.
  return np.clip(waveform, -1.0, 1.0)


def _check_samples(path, channels):
  if not np.isfinite(channels).all():
    raise AudioError(f"{path}: holds samples that are not finite")
  # Lossy decoding overshoots full scale; floats of another scale are far beyond
  # it, and would be clipped to square waves.
  peak = np.abs(channels).max(initial=0.0)
  if peak > _MAX_PEAK:
    raise AudioError(f"{path}: its samples reach {peak:.3g}; full scale is 1")


def _mono(channels: np.ndarray) -> np.ndarray:
  """The mean of [n, channels]; NumPy's own takes as long as the decoding."""
  return sum(channels.T) / np.float32(channels.shape[1])


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
  except UnicodeError as e:
    raise AudioError(
      f"{path}: cannot be read as audio (its name is not UTF-8)"
    ) from e
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


def _import_av(path):
  try:
    import av
  except ImportError:
    raise AudioError(
      f"{path}: needs PyAV, the extra [av]: pip install av"
    ) from None
  return av


def _read_with_av(path, content, wanted_seconds):
  """As `_read_with_libsndfile`."""
  av = _import_av(path)
  try:
    source = os.fspath(path) if content is None else io.BytesIO(content)
    with av.open(source) as container:
      if not container.streams.audio:
        raise AudioError(f"{path}: holds no sound")
      stream = container.streams.audio[0]
      promised_seconds = _av_seconds(container, stream)
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


def _av_seconds(container, stream) -> float:
  """What the head says of the sound's length; 0 if nothing."""
  if stream.duration:
    return float(stream.duration * stream.time_base)
  if container.duration and len(container.streams) == 1:
    return container.duration / 1e6  # FFmpeg's unit of time.
  return 0.0


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
  path: str | os.PathLike, *, sample_rate_hz: int, block_seconds: float = 10.0
) -> Iterator[np.ndarray]:
  """What `read_audio` gives of a file, in parts: for long recordings.

  A FLAC file that libsndfile does not read, and a wav from a pipe, are read
  whole.

  Args:
    path: As for `read_audio`.
    sample_rate_hz: Wanted rate.
    block_seconds: Of the file, decoded at once.

  Yields:
    float32 [num_samples], parts of different lengths, none of them empty.

  Raises:
    AudioError: As `read_audio` does, but when the parts before are out.
  """
  if not os.path.exists(path):
    raise AudioError(f"{path}: cannot be read as audio (no such file)")
  is_for_av = os.fspath(path).lower().endswith(_AV_EXTENSIONS)
  if not is_for_av and not _is_read_in_blocks(path):
    yield read_audio(path, sample_rate_hz=sample_rate_hz)
    return
  decode = _av_blocks if is_for_av else _libsndfile_blocks
  resampler = None
  num_frames = num_samples = wanted = 0
  # An empty block flushes the resampler.
  for channels, rate_hz, promised, slack in decode(path, block_seconds):
    if resampler is None:
      resampler = soxr.ResampleStream(
        rate_hz, sample_rate_hz, num_channels=1, quality="HQ"
      )
    wanted = promised - slack * rate_hz
    num_frames += len(channels)
    _check_samples(path, channels)
    waveform = resampler.resample_chunk(_mono(channels), last=not len(channels))
    num_samples += len(waveform)
    if len(waveform):
      yield np.clip(waveform, -1.0, 1.0)
  if num_frames < wanted:
    raise AudioError(
      f"{path}: only {num_frames / rate_hz:.1f} of {promised / rate_hz:.1f} "
      "s can be decoded"
    )
  if not num_frames:
    raise AudioError(f"{path}: holds no samples")
  if not num_samples:
    raise AudioError(
      f"{path}: is shorter than one sample at {sample_rate_hz} Hz"
    )


def _is_read_in_blocks(path) -> bool:
  try:
    with open(path, "rb") as file:
      is_from_pipe = _wav_data_bytes(file, file.read(12)) == 0
    with soundfile.SoundFile(path) as file:
      return not is_from_pipe and file.frames < _ENDLESS
  except (soundfile.SoundFileError, OSError, TypeError, UnicodeError):
    return False  # `read_audio` tells why.


class _ReadThrough(soundfile.SoundFile):
  """Is not sought in: soundfile seeks after each read to where it is.

  An mp3 decoder that seeks has lost what its next frames need.
  """

  def seekable(self):
    return False


def _libsndfile_blocks(path, block_seconds):
  """What `_read_with_libsndfile` gives, in parts; the last one is empty."""
  with open(path, "rb") as file:
    wav_bytes = _wav_data_bytes(file, file.read(12))
  with _ReadThrough(path) as file:
    promised = file.frames
    sample_bytes = _WAV_SAMPLE_BYTES.get(file.subtype)
    if wav_bytes and sample_bytes:
      promised = max(promised, wav_bytes // (sample_bytes * file.channels))
    slack = _MP3_SLACK_SECONDS if file.format == "MP3" else 0
    block_frames = max(round(block_seconds * file.samplerate), 1)
    num_frames = 0
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
      yield channels, file.samplerate, promised, slack


def _av_blocks(path, block_seconds):
  """What `_read_with_av` gives, in parts; the last one is empty."""
  av = _import_av(path)
  try:
    with av.open(os.fspath(path)) as container:
      if not container.streams.audio:
        raise AudioError(f"{path}: holds no sound")
      stream = container.streams.audio[0]
      promised = _av_seconds(container, stream) * stream.rate
      converter = av.AudioResampler("fltp", stream.layout, stream.rate)
      parts, length = [], 0
      for frame in container.decode(stream):
        for converted in converter.resample(frame):
          parts.append(converted.to_ndarray().T)
          length += len(parts[-1])
        if length >= block_seconds * stream.rate:
          block = np.concatenate(parts)
          yield block, stream.rate, promised, _AV_SLACK_SECONDS
          parts, length = [], 0
      none = np.zeros([0, stream.channels], np.float32)
      if length:
        block = np.concatenate(parts)
        yield block, stream.rate, promised, _AV_SLACK_SECONDS
      yield none, stream.rate, promised, _AV_SLACK_SECONDS
  except av.FFmpegError as e:
    raise AudioError(f"{path}: cannot be read as audio ({e.strerror})") from e


def duration_seconds(path: str | os.PathLike) -> float:
  """What the head of a file says of its length; 0 if it cannot be told."""
  try:
    if os.fspath(path).lower().endswith(_AV_EXTENSIONS):
      import av

      with av.open(os.fspath(path)) as container:
        return _av_seconds(container, container.streams.audio[0])
    info = soundfile.info(path)
    return info.duration if info.frames < _ENDLESS else 0.0
  # PyAV's errors are of several kinds.
  except (
    soundfile.SoundFileError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ImportError,
  ):
    return 0.0


def find_files(arguments: Sequence[str]) -> list[str]:
  """Files, folders (all audio in and below them) and glob patterns.

  Links to folders are followed, but to none twice, and to none above.

  Returns:
    Paths; the files of a folder or a pattern are sorted. What is none of them
    is taken for the name of a file.

  Raises:
    UserError: If a folder or a pattern has no audio file.
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
      raise UserError(
        f"{argument}: no audio file there (looked for {', '.join(EXTENSIONS)})."
      )
    files += found
  return files


def _audio_in(folder: str) -> list[str]:
  found, seen = [], set()
  tops = [folder]
  # Links are followed when all else was seen, and no folder is seen twice or is
  # one above: a link may lead to where it is.
  home = os.path.realpath(folder)
  for top in tops:
    for parent, folders, names in os.walk(top):
      real = os.path.realpath(parent)
      if real in seen or home.startswith(os.path.join(real, "")):
        folders.clear()
        continue
      seen.add(real)
      folders.sort()
      links = (os.path.join(parent, name) for name in folders)
      tops += filter(os.path.islink, links)
      paths = (pathlib.Path(parent, name) for name in names)
      found += [
        str(path)
        for path in paths
        if path.suffix.lower() in EXTENSIONS and path.is_file()
      ]
  return sorted(found)
