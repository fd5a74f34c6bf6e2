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

from tf_audioset.data.audio_bytes import AudioError, Bytes, Part, Window

# More frames than anything has: libsndfile's word for a length it cannot tell.
_ENDLESS = 1 << 60


# Where packets' times pass over so much more than they hold, some are missing.
_GAP_SECONDS = 0.2
# The longest block of Vorbis.
_MAX_PADDING_FRAMES = 8192
# A film's sound may well end a little before its pictures.
_SHORTER_SECONDS = 1.0
# Amplitude. A lossy codec may make thousands of junk.
_MAX_LOSSY_PEAK = 8.0


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
    estimated_seconds: The length by a count that is not exact; 0 without one.
    has_failed: Whether something could not be decoded.
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
    self._num_bytes = file.size
    if part.prefix or (part.begin, part.end) != (0, file.size):
      source = Window(file.file, part)
      self._num_bytes = source.size
    source.seek(0)
    self._source = source
    doing = "cannot be read as audio"
    if part.kept < 1:
      doing += f": {part.kept:.0%} of its samples are there"
    with reading(path, doing):
      if source is file.file and not isinstance(source, io.BytesIO):
        # Without a detour through Python.
        self._file = _ReadThrough(source.fileno(), closefd=False)
      else:
        self._file = _ReadThrough(source)
      if self._file.subtype.startswith("MPEG"):
        self._file.close()
        raise AudioError(f"{path}: libsndfile only estimates its length")
    self.has_failed = False
    self._is_flac = self._file.format == "FLAC"
    self.promised_seconds = None
    # ALAC's packets are counted, of which the last may hold less.
    is_alac = self._file.subtype.startswith("ALAC")
    if self._file.frames < _ENDLESS:
      seconds = self._file.frames / self._file.samplerate
      self.estimated_seconds = seconds
      if not is_alac:
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
      skipped = max(self._part.skipped_frames - num_frames, 0)
      num_frames += len(channels)
      missing -= len(channels)
      if skipped < len(channels):
        yield Block(channels[skipped:], rate_hz)

  def num_unread(self) -> int:
    """Returns how many bytes are left behind all that was decoded."""
    return self._num_bytes - self._source.tell()

  def _broken_flac(self, num_frames, block_frames):
    """Decodes a damaged FLAC file with dr_flac, from its beginning."""
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
    has_failed: Whether something could not be decoded.
    remarks: What was found odd.
  """

  def __init__(self, path, file: Bytes, part: Part):
    """Opens the recording.

    Raises:
      AudioError: If FFmpeg cannot, or if it is a film without sound.
    """
    self._path = path
    self.remarks = []
    self.has_failed = False
    # Of the packets, in the stream's unit of time.
    self._first_time = self._last_time = None
    self._window = Window(file.file, part)
    doing = "cannot be read as audio"
    if part.cut:
      doing += f": {part.cut}; was it cut off?"
    with reading(path, doing):
      self._container = av.open(
        self._window,
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
        cut = f" ({part.cut}; was it cut off?)" if part.cut else ""
        raise AudioError(f"{path}: holds no sound{cut}")
      usable = [s for s in streams if s.codec_context is not None]
      if not usable:
        codec = _codec_in(file, part)
        raise AudioError(f"{path}: its codec ({codec}) cannot be decoded")
    except AudioError:
      self._container.close()
      raise
    self._stream = usable[0]
    self._codec = _best_decoder(self._stream.codec_context)
    if len(streams) > 1:
      number = 1 + streams.index(self._stream)
      self.remarks.append(
        f"holds {len(streams)} streams of sound; only number {number} is read"
      )
    self.estimated_seconds = (self._container.duration or 0) / av.time_base
    self.promised_seconds = part.seconds
    self._num_frames = part.num_frames
    if part.is_length_known_to_ffmpeg and self._stream.duration:
      self.promised_seconds = self._in_seconds(self._stream.duration)
    self._film_seconds = 0.0
    if part.is_longest_stream and num_streams > 1:
      self._film_seconds = part.seconds or 0.0
      self.promised_seconds = None

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self._container.close()

  def _in_seconds(self, time):
    return float(time * self._stream.time_base)

  def num_unread(self) -> int:
    """Returns how many bytes are left behind all that was decoded."""
    return self._window.num_unread()

  def counted_seconds(self) -> float:
    """Returns the sum of the lengths of all frames, without decoding them."""
    with reading(self._path):
      packets = self._container.demux(self._stream)
      return self._in_seconds(sum(packet.duration or 0 for packet in packets))

  def blocks(self, block_seconds: float) -> Iterator[Block]:
    """Decodes to the end; see `audio_decoding.Recording.blocks`."""
    missing, padding = self._num_frames, []
    for block in self._all_blocks(block_seconds):
      num = len(block.channels)
      if missing is None or num <= missing:
        yield block
      else:
        if missing:
          yield Block(block.channels[:missing], block.rate_hz)
        padding.append(Block(block.channels[missing:], block.rate_hz))
        # So much is no padding: the length that is stated is wrong.
        if sum(len(p.channels) for p in padding) > _MAX_PADDING_FRAMES:
          yield from padding
          missing, padding = None, []
      if missing is not None:
        missing = max(missing - num, 0)

  def _all_blocks(self, block_seconds):
    frames, seconds = None, 0.0
    is_lossy = not self._codec.name.startswith("pcm_")
    for frame in self._frames():
      seconds += frame.samples / frame.sample_rate
      if frames is None or not frames.add(frame):
        if frames:
          yield frames.block()
        frames = _Frames(self._path, frame, block_seconds, is_lossy)
        frames.add(frame)
    if frames:
      yield frames.block()
    self._compare_times(seconds)

  def _compare_times(self, seconds):
    """Compares what was decoded with the times that the packets bear."""
    if self._first_time is None:
      return
    span = self._in_seconds(self._last_time - self._first_time)
    if self.format == "ogg" and seconds > 1.5 * span + 0.5:
      # FFmpeg 7 fills up Speex with silence.
      raise AudioError(
        f"{self._path}: its decoder ({self._codec.name}) makes {seconds:.1f} s "
        f"of {span:.1f} s"
      )
    if self.promised_seconds is not None:
      return
    if span > seconds + _GAP_SECONDS:
      self.remarks.append(f"has gaps: {seconds:.1f} s of sound in {span:.1f} s")
    if self._film_seconds > seconds + _SHORTER_SECONDS:
      self.remarks.append(
        f"has sound for {seconds:.1f} s; with pictures, its header says "
        f"{self._film_seconds:.1f} s"
      )

  def _frames(self):
    """Yields the frames that decode and are not empty."""
    failure, has_sound, is_after_failure = None, False, False
    for packet in self._packets():
      # No `with reading()`, which costs as much as the rest of this.
      try:
        frames = self._codec.decode(packet)
      except Exception as e:
        # Junk between frames is not decoded, either. Whether sound is missing
        # is seen by the length.
        failure = failure or e
        is_after_failure = has_sound
        continue
      for frame in frames:
        if frame.samples:
          has_sound = True
          yield frame
      if frames and is_after_failure:
        self.has_failed, is_after_failure = True, False
    if self.has_failed:
      self.remarks.append("something between its frames cannot be decoded")
    if failure and not has_sound:
      with reading(self._path):
        raise failure

  def _packets(self):
    packets, done = self._container.demux(self._stream), object()
    while True:
      try:
        packet = next(packets, done)
      except BlockingIOError:
        # "Try again": an MPEG transport stream has nothing just there.
        packets = self._container.demux(self._stream)
        continue
      except Exception as e:
        if self.promised_seconds is None:
          with reading(self._path, "cannot be read to its end"):
            raise e
        return  # The length, which is known, says more.
      if packet is done:
        return
      if packet.pts is not None:
        if self._first_time is None:
          self._first_time = self._last_time = packet.pts
        end = packet.pts + (packet.duration or 0)
        self._last_time = max(self._last_time, end)
      yield packet


# By FFmpeg's names of the types of samples; a "p" behind them is for planes.
_TYPES = {
  "u8": np.uint8,
  "s16": np.int16,
  "s32": np.int32,
  "s64": np.int64,
  "flt": np.float32,
  "dbl": np.float64,
}


class _Frames:
  """Collects frames of one kind for a block.

  PyAV's own `to_ndarray` of each frame, and joining them, takes three times as
  long as this copy.
  """

  def __init__(self, path, frame, block_seconds, is_lossy):
    """Makes room for frames like this one, and for at least one."""
    self._is_lossy = is_lossy
    self._rate_hz = frame.sample_rate
    self._format = frame.format.name
    self._num_channels = frame.layout.nb_channels
    self._is_planar = frame.format.is_planar
    dtype = _TYPES.get(self._format[:-1] if self._is_planar else self._format)
    if dtype is None:
      raise AudioError(
        f"{path}: has samples of a type ({self._format}) unknown"
      )
    room = max(round(block_seconds * self._rate_hz), frame.samples)
    shape = (room, self._num_channels)
    self._samples = np.empty(shape[::-1] if self._is_planar else shape, dtype)
    self._room = room
    self._length = 0

  def add(self, frame) -> bool:
    """Copies a frame; returns False if it does not fit or is of another kind.

    Rate and channels may change in the middle of a stream.
    """
    num, begin = frame.samples, self._length
    if (
      begin + num > self._room
      or frame.sample_rate != self._rate_hz
      or frame.format.name != self._format
      or frame.layout.nb_channels != self._num_channels
    ):
      return False
    dtype = self._samples.dtype
    if self._is_planar:
      for samples, plane in zip(self._samples, frame.planes):
        samples[begin : begin + num] = np.frombuffer(plane, dtype, num)
    else:
      plane = np.frombuffer(frame.planes[0], dtype, num * self._num_channels)
      self._samples[begin : begin + num] = plane.reshape(num, -1)
    self._length += num
    return True

  def block(self) -> Block:
    """Returns the frames as floats."""
    samples = self._samples.T if self._is_planar else self._samples
    samples = samples[: self._length]
    if samples.dtype == np.uint8:
      samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
      full_scale = np.float32(1 << (8 * samples.dtype.itemsize - 1))
      samples = samples.astype(np.float32) / full_scale
    samples = samples.astype(np.float32, copy=False)
    if self._is_lossy:
      np.clip(samples, -_MAX_LOSSY_PEAK, _MAX_LOSSY_PEAK, out=samples)
    return Block(samples, self._rate_hz)


def _best_decoder(codec):
  """Returns the decoder that FFmpeg prefers, but libopus for Opus.

  FFmpeg's own decoder of Opus loses most of the amplitude for 0.15 s where a
  stream changes from the mode for speech to that for music.
  """
  if codec.name != "opus" or not codec.extradata:
    return codec
  try:
    libopus = av.CodecContext.create("libopus", "r")
  except ValueError:  # Not every FFmpeg has it.
    return codec
  libopus.extradata = codec.extradata
  libopus.options = {"request_sample_fmt": "flt"}
  return libopus


def _codec_in(file: Bytes, part: Part) -> str:
  """Returns the codec that an MPEG-4 or Matroska header names."""
  place = file.find(b"soun", part.begin, part.end)
  place = file.find(b"stsd", place, part.end) if place >= 0 else -1
  name = file.read(place + 16, 4) if place >= 0 else b""
  if not name:
    matroska = re.search(rb"A_[A-Z0-9_/.-]+", file.read(part.begin, 1 << 16))
    name = matroska[0] if matroska else b"unknown"
  return name.decode("ascii", "replace")
