# SPDX-License-Identifier: Apache-2.0
"""One recording through libsndfile, or through FFmpeg (PyAV).

Every exception of these libraries, of whatever class, becomes an AudioError:
one bad file must not end the work on all others. Only their calls stand under
that guard, so that a fault of this package keeps its traceback.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import NamedTuple

import av
import miniaudio
import numpy as np
import soundfile

from tf_audioset.audio_bytes import AudioError, Bytes, Part, Window

# More frames than anything has: libsndfile's word for a length it cannot tell.
_ENDLESS = 1 << 60


class Block(NamedTuple):
  """Some decoded sound."""

  channels: np.ndarray  # float32 [num_frames, num_channels]
  rate_hz: int


@contextlib.contextmanager
def reading(path, doing: str = "cannot be read as audio"):
  """Makes every exception within an AudioError that names the file."""
  try:
    yield
  except AudioError:
    raise
  except Exception as e:
    raise AudioError(f"{path}: {doing} ({reason_of(e)})") from e


def reason_of(error: Exception) -> str:
  """Returns a library's own words, without those that name the file again."""
  for name in ("error_string", "strerror"):
    if words := getattr(error, name, None):
      return str(words).strip()
  return str(error) or type(error).__name__


class SndfileDecoder:
  """Decodes a recording by libsndfile.

  Attributes:
    promised_seconds: The length by the header; None if it states none.
    estimated_seconds: 0; it has no other.
    remarks: What was found odd.
  """

  def __init__(self, path, file: Bytes, part: Part):
    """Opens the recording.

    Raises:
      AudioError: If libsndfile cannot.
    """
    self._path, self._bytes, self._part = path, file, part
    self.estimated_seconds = 0.0
    self.remarks = []
    source = file.file
    if part.prefix or (part.begin, part.end) != (0, file.size):
      source = Window(file.file, part)
    source.seek(0)
    with reading(path):
      if source is file.file and not isinstance(source, io.BytesIO):
        # Without a detour through Python.
        self._file = _ReadThrough(source.fileno(), closefd=False)
      else:
        self._file = _ReadThrough(source)
      if self._file.subtype.startswith("MPEG"):
        self._file.close()
        raise ValueError("libsndfile trusts an estimate of its length")
    self._is_flac = self._file.format == "FLAC"
    self.promised_seconds = None
    if self._file.frames < _ENDLESS:
      seconds = self._file.frames / self._file.samplerate
      self.promised_seconds = seconds / part.kept

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._file.close()

  def blocks(self, block_seconds: float) -> Iterator[Block]:
    """Decodes to the end; see `audio_decoding.Recording.blocks`."""
    rate_hz, missing = self._file.samplerate, self._file.frames
    block_frames = max(round(block_seconds * rate_hz), 1)
    num_frames = 0
    while missing:
      try:
        with reading(
          self._path, f"cannot be decoded beyond {num_frames / rate_hz:.1f} s"
        ):
          channels = self._file.read(
            min(block_frames, missing), dtype="float32", always_2d=True
          )
      except AudioError:
        if not self._is_flac:
          raise
        yield from self._broken_flac(num_frames, block_frames)
        return
      if not len(channels):
        return
      num_frames += len(channels)
      missing -= len(channels)
      yield Block(channels, rate_hz)

  def _broken_flac(self, num_frames, block_frames):
    """What dr_flac makes of a file that was cut off or damaged, from there."""
    with reading(self._path, "cannot be read as audio: broken FLAC"):
      window = Window(self._bytes.file, self._part)
      decoded = miniaudio.flac_read_f32(window.read())
      channels = np.asarray(decoded.samples, np.float32)
      channels = channels.reshape(-1, decoded.nchannels)
    if self.promised_seconds is None:
      self.remarks.append("is broken, and says no length: some may be missing")
    elif len(channels) >= self._file.frames:
      # It goes on behind a frame whose checksum is wrong, which it repeats.
      raise AudioError(f"{self._path}: cannot be read as audio (damaged FLAC)")
    for begin in range(num_frames, len(channels), block_frames):
      block = channels[begin : begin + block_frames]
      yield Block(block, decoded.sample_rate)


class _ReadThrough(soundfile.SoundFile):
  """Is not sought in: soundfile seeks after each read to where it is.

  A decoder that seeks has lost what its next frames need.
  """

  def seekable(self):
    return False


class AvDecoder:
  """Decodes a recording by FFmpeg.

  Attributes:
    promised_seconds: The length by the header; None if it states none.
    estimated_seconds: FFmpeg's estimate; 0 if there is none.
    format: FFmpeg's name of the container.
    remarks: What was found odd.
  """

  def __init__(self, path, file: Bytes, part: Part):
    """Opens the recording.

    Raises:
      AudioError: If FFmpeg cannot, or if it is a film without sound.
    """
    self._path = path
    self.remarks = []
    window = Window(file.file, part)
    doing = "cannot be read as audio"
    if part.cut:
      doing += f": {part.cut}; was it cut off?"
    with reading(path, doing):
      self._container = av.open(
        window,
        # Names and comments may be in any coding.
        metadata_errors="ignore",
        # A file cannot make FFmpeg read another one.
        container_options={"protocol_whitelist": "none"},
      )
      self.format = self._container.format.name
      streams = list(self._container.streams.audio)
      num_streams = len(self._container.streams)
    try:
      if not streams:
        raise AudioError(f"{path}: holds no sound")
      usable = [s for s in streams if s.codec_context is not None]
      if not usable:
        codec = _codec_in(file, part)
        raise AudioError(f"{path}: its codec ({codec}) cannot be decoded")
    except AudioError:
      self._container.close()
      raise
    self._stream = usable[0]
    if len(streams) > 1:
      number = 1 + streams.index(self._stream)
      self.remarks.append(
        f"holds {len(streams)} streams of sound; only number {number} is read"
      )
    self.estimated_seconds = (self._container.duration or 0) / av.time_base
    self.promised_seconds = part.seconds
    if part.is_length_known_to_ffmpeg and self._stream.duration:
      self.promised_seconds = self._in_seconds(self._stream.duration)
    if part.is_longest_stream and num_streams > 1:
      self.promised_seconds = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._container.close()

  def _in_seconds(self, time):
    return float(time * self._stream.time_base)

  def counted_seconds(self) -> float:
    """Returns the sum of the lengths of all frames, without decoding them."""
    with reading(self._path):
      packets = self._container.demux(self._stream)
      return self._in_seconds(sum(packet.duration or 0 for packet in packets))

  def blocks(self, block_seconds: float) -> Iterator[Block]:
    """Decodes to the end; see `audio_decoding.Recording.blocks`."""
    waiting, num_waiting, rate_hz = [], 0, 0
    for channels, frame_rate_hz in self._frames():
      # Both may change in the middle of a stream.
      is_other = waiting and (
        frame_rate_hz != rate_hz or len(channels) != len(waiting[0])
      )
      if is_other or num_waiting > block_seconds * rate_hz:
        if waiting:
          yield Block(np.concatenate(waiting, axis=1).T, rate_hz)
        waiting, num_waiting = [], 0
      rate_hz = frame_rate_hz
      waiting.append(channels)
      num_waiting += channels.shape[1]
    if waiting:
      yield Block(np.concatenate(waiting, axis=1).T, rate_hz)

  def _frames(self):
    """(float32 [num_channels, n], rate in Hz) of each frame that decodes."""
    seconds, failure, is_after_failure = 0.0, None, False
    for packet in self._packets():
      try:
        with reading(self._path):
          frames = [(_planes(f), f.sample_rate) for f in packet.decode()]
      except AudioError as e:
        # Junk between frames is not decoded, either. Whether sound is missing
        # is seen by the length.
        failure = failure or e
        is_after_failure = seconds > 0
        continue
      for channels, rate_hz in frames:
        if channels.shape[1]:
          seconds += channels.shape[1] / rate_hz
          yield channels, rate_hz
      if frames and is_after_failure:
        remark = "something between its frames cannot be decoded"
        self.remarks += [remark] * (remark not in self.remarks)
        is_after_failure = False
    if failure and not seconds:
      raise failure

  def _packets(self):
    packets = self._container.demux(self._stream)
    done = object()
    while True:
      try:
        with reading(self._path, "cannot be read to its end"):
          packet = next(packets, done)
      except AudioError:
        # A length that is known says more.
        if self.promised_seconds is None:
          raise
        return
      if packet is done:
        return
      yield packet


def _planes(frame) -> np.ndarray:
  """float32 [num_channels, num_frames] of samples of any type."""
  samples = frame.to_ndarray()
  if samples.dtype == np.uint8:
    samples = (samples.astype(np.float32) - 128) / 128
  elif samples.dtype.kind == "i":
    full_scale = np.float32(1 << (8 * samples.dtype.itemsize - 1))
    samples = samples.astype(np.float32) / full_scale
  samples = samples.astype(np.float32, copy=False)
  if frame.format.is_planar:
    return samples
  return samples.reshape(frame.samples, -1).T


def _codec_in(file: Bytes, part: Part) -> str:
  """The name of the codec of sound by an MPEG-4 or Matroska header."""
  place = file.find(b"soun", part.begin, part.end)
  place = file.find(b"stsd", place, part.end) if place >= 0 else -1
  name = file.read(place + 16, 4) if place >= 0 else b""
  if not name:
    matroska = re.search(rb"A_[A-Z0-9_/.-]+", file.read(part.begin, 1 << 16))
    name = matroska[0] if matroska else b"unknown"
  return name.decode("ascii", "replace")
