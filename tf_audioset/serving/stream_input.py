# SPDX-License-Identifier: Apache-2.0
"""PCM that arrives through a pipe: raw, or behind the header of a wav file.

Nothing is read twice and nothing is kept, so that a stream may go on for days.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from tf_audioset.data import audio_containers
from tf_audioset.data.audio_bytes import AudioError
from tf_audioset.runtime import outputs

_CHUNK_BYTES = 65536
# What may wait while the model is loaded or computes: 16 MB at most.
_MAX_WAITING = 256
_TURN_SECONDS = 0.1
# Enough to know a file that is no PCM by.
_HEAD_BYTES = 4096
# More than any header has; ends the reading of nonsense.
_MAX_CHUNKS = 1000
_RATES_HZ = (1000, 768_000)
_MAX_CHANNELS = 64
# Beyond this, floats are not of the scale +-1: see `data.audio`.
_MAX_PEAK = 16.0

# Bytes of a sample, and how NumPy calls it; 24 bits have no name there.
_ENCODINGS = {
  "u8": (1, "u1"),
  "s16le": (2, "<i2"),
  "s16be": (2, ">i2"),
  "s24le": (3, "<"),
  "s24be": (3, ">"),
  "s32le": (4, "<i4"),
  "s32be": (4, ">i4"),
  "f32le": (4, "<f4"),
  "f32be": (4, ">f4"),
  "f64le": (8, "<f8"),
  "f64be": (8, ">f8"),
}
ENCODINGS = tuple(_ENCODINGS)
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_OTHER_TAGS = {
  2: "ADPCM",
  6: "A-law",
  7: "mu-law",
  0x11: "ADPCM",
  0x55: "mp3",
}
# Known by two bytes, which may as well be the first sample.
_SHORT_SIGNATURES = ("ac3", "ircam")
_ADVICE = (
  "decode it, as in: ffmpeg -i FILE -f wav - | python tools/predict.py "
  "--stream ..."
)


@dataclasses.dataclass(frozen=True)
class Pcm:
  """How samples are written.

  Attributes:
    encoding: One of `ENCODINGS`, as FFmpeg calls them.
    rate_hz: Samples per second.
    num_channels: Whose samples take turns.
  """

  encoding: str
  rate_hz: int
  num_channels: int

  @property
  def frame_bytes(self) -> int:
    """Bytes of one sample of all channels."""
    return _ENCODINGS[self.encoding][0] * self.num_channels

  def __str__(self) -> str:
    return f"{self.encoding}, {self.rate_hz} Hz, {self.num_channels} channel(s)"

  def decode(self, content: bytes) -> np.ndarray:
    """Returns float32 [num_frames, num_channels], full scale +-1.

    Raises:
      AudioError: If samples are not finite, or floats of another scale.
    """
    size, kind = _ENCODINGS[self.encoding]
    if size == 3:  # The three upper bytes of 32 bits.
      wide = np.zeros([len(content) // 3, 4], np.uint8)
      place = slice(1, 4) if kind == "<" else slice(0, 3)
      wide[:, place] = np.frombuffer(content, np.uint8).reshape(-1, 3)
      samples = wide.view(f"{kind}i4")[:, 0]
    else:
      samples = np.frombuffer(content, kind)
    if self.encoding == "u8":
      samples = (samples.astype(np.float32) - 128) / 128
    elif samples.dtype.kind == "i":
      scale = 2.0 ** (8 * samples.dtype.itemsize - 1)
      samples = (samples / scale).astype(np.float32)
    else:
      samples = _checked(samples).astype(np.float32)
    return samples.reshape(-1, self.num_channels)


def _checked(samples):
  if not np.isfinite(samples).all():
    raise AudioError("the stream holds samples that are not finite")
  peak = np.abs(samples).max(initial=0.0)
  if peak > _MAX_PEAK:
    raise AudioError(
      f"the stream's samples reach {peak:.3g}; full scale is 1: is it of "
      "another encoding?"
    )
  return samples


class Source:
  """The bytes of a pipe, read by a thread from the moment this is made.

  Attributes:
    has_given_up: Whether it was taken to have ended since nothing arrived.
    is_stopped: Whether `stop` was called.
  """

  def __init__(
    self,
    descriptor: int,
    say: Callable[[str], None],
    *,
    stall_seconds: float = 10.0,
    give_up_seconds: float | None = None,
  ):
    """Starts to read.

    Args:
      descriptor: Of the open file.
      say: Is told, once for each time, that nothing arrives, and when it does.
      stall_seconds: After how long without anything.
      give_up_seconds: After how long the stream is taken to have ended; None to
        wait for ever.
    """
    self._say = say
    self._stall_seconds = stall_seconds
    self._give_up_seconds = give_up_seconds
    self._queue = queue.Queue(_MAX_WAITING)
    self._waiting = collections.deque()
    self._num_waiting = 0
    self._has_ended = False
    self.has_given_up = self.is_stopped = False
    thread = threading.Thread(target=self._fill, args=[descriptor], daemon=True)
    thread.start()

  def _fill(self, descriptor):
    while True:
      try:
        chunk = os.read(descriptor, _CHUNK_BYTES)
      except OSError as e:
        chunk = e
      self._queue.put(chunk)
      if not isinstance(chunk, bytes) or not chunk:
        return

  def peek(self, num_bytes: int) -> bytes:
    """Returns the next bytes, fewer only at the end, and keeps them."""
    while self._num_waiting < num_bytes and self._receive():
      pass
    return b"".join(self._waiting)[:num_bytes]

  def take(self, num_bytes: int) -> bytes:
    """Returns the next bytes, fewer only at the end."""
    taken = self.peek(num_bytes)
    rest = b"".join(self._waiting)[len(taken) :]
    self._waiting = collections.deque([rest] if rest else [])
    self._num_waiting = len(rest)
    return taken

  def chunks(self, num_bytes: int | None = None) -> Iterator[bytes]:
    """Yields bytes as they arrive: all up to the end, or so many."""
    while num_bytes is None or num_bytes:
      if not self._waiting and not self._receive():
        return
      some = self._num_waiting
      some = some if num_bytes is None else min(some, num_bytes)
      chunk = self.take(some)
      if num_bytes is not None:
        num_bytes -= len(chunk)
      yield chunk

  def stop(self) -> None:
    """Takes the stream to have ended; may be called by a signal's handler."""
    self.is_stopped = True

  def _receive(self) -> bool:
    """Waits for the next bytes; returns whether there are any."""
    start, is_told, chunk = time.monotonic(), False, None
    while chunk is None:
      if self._has_ended or self.is_stopped:
        return False
      with contextlib.suppress(queue.Empty):
        # Not for long: a signal does not end it.
        chunk = self._queue.get(timeout=_TURN_SECONDS)
        continue
      waited = time.monotonic() - start
      if waited >= self._stall_seconds and not is_told:
        self._say(f"nothing has arrived for {waited:.0f} s; waiting")
        is_told = True
      if self._give_up_seconds and waited >= self._give_up_seconds:
        self.has_given_up = self._has_ended = True
    if isinstance(chunk, OSError):
      raise AudioError(f"the stream cannot be read ({outputs.reason(chunk)})")
    if not chunk:
      self._has_ended = True
      return False
    if is_told:
      seconds = time.monotonic() - start
      self._say(f"goes on after {seconds:.0f} s without anything")
    self._waiting.append(chunk)
    self._num_waiting += len(chunk)
    return True


class Stream:
  """The samples of a source.

  Attributes:
    pcm: What the header or the flags say of them.
    problems: What was not as it should be, once all `frames` were taken and
      `pass_over_rest` was called.
  """

  def __init__(self, source: Source, raw: Pcm | None):
    """Reads the header, if there is one.

    Args:
      source: The bytes.
      raw: Of samples without a header; None if that is not known.

    Raises:
      AudioError: If it is not PCM, or not as `raw` says.
    """
    self._source = source
    self._num_bytes = None  # Up to the end.
    self.problems = []
    head = source.peek(_HEAD_BYTES)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and (
      head[8:12] == b"WAVE"
    ):
      self.pcm = self._read_header()
      if raw is not None and raw != self.pcm:
        raise AudioError(
          f"the stream has a wav header ({self.pcm}), and the flags tell "
          f"something else ({raw}): leave out the flags --pcm..."
        )
    else:
      self.pcm = raw
      _check_raw(head, raw)

  def _read_header(self) -> Pcm:
    form = self._source.take(12)[:4]
    order = "big" if form == b"RIFX" else "little"
    description, bytes_64 = b"", None
    for _ in range(_MAX_CHUNKS):
      head = self._source.take(8)
      size = int.from_bytes(head[4:], order)
      if len(head) < 8 or head[:4] == b"data":
        break
      size += size % 2
      if head[:4] in (b"fmt ", b"ds64") and size < _HEAD_BYTES:
        content = self._source.take(size)
        if head[:4] == b"fmt ":
          description = content
        else:
          bytes_64 = int.from_bytes(content[8:16], "little")
      else:
        for _ in self._source.chunks(size):
          pass
    if head[:4] != b"data":
      raise AudioError("the stream ends within its wav header")
    pcm = _described(description, order)
    if size == 0xFFFFFFFF and bytes_64:
      size = bytes_64
    # What is written before the length is known: FFmpeg, SoX, arecord.
    is_unknown = not size or 0x7F000000 <= size <= 0x80000000
    if not is_unknown and not 0xFF000000 <= size < 1 << 32 and size < 1 << 62:
      self._num_bytes = size
    return pcm

  def frames(self) -> Iterator[np.ndarray]:
    """Yields float32 [num_frames, num_channels] as they arrive.

    Raises:
      AudioError: As `Pcm.decode` does, or if the pipe cannot be read.
    """
    frame_bytes = self.pcm.frame_bytes
    rest, num_bytes = b"", 0
    for chunk in self._source.chunks(self._num_bytes):
      num_bytes += len(chunk)
      chunk = rest + chunk
      whole = len(chunk) - len(chunk) % frame_bytes
      rest = chunk[whole:]
      if whole:
        yield self.pcm.decode(chunk[:whole])
    if self._source.is_stopped:
      return
    if rest:
      self.problems.append(
        f"ends in the middle of a sample: {len(rest)} of {frame_bytes} bytes "
        f"({self.pcm}), which were left out"
      )
    if self._source.has_given_up:
      self.problems.append(
        "has sent nothing for --give_up_seconds: it is taken to have ended"
      )
    bytes_a_second = frame_bytes * self.pcm.rate_hz
    missing = (self._num_bytes or num_bytes) - num_bytes
    if missing:
      self.problems.append(
        f"ends {missing / bytes_a_second:.2f} s before the end that its wav "
        "header tells"
      )

  def pass_over_rest(self) -> None:
    """Reads what follows the samples: tags of the file, or more audio."""
    if self._num_bytes is None or self.problems:
      return
    head = self._source.peek(12 + self._num_bytes % 2)[self._num_bytes % 2 :]
    is_chunk = len(head) >= 8 and all(32 <= x < 127 for x in head[:4])
    is_audio = head[:4] in (b"RIFF", b"RIFX", b"RF64", b"data")
    num_bytes = sum(map(len, self._source.chunks()))
    if num_bytes > 1 and (is_audio or not is_chunk):
      self.problems.append(
        f"goes on for {num_bytes:,} bytes behind the end that its wav header "
        "tells, which were left out: is it several recordings?"
      )


def _check_raw(head: bytes, raw: Pcm | None) -> None:
  """Refuses what is known to be no raw samples."""
  if not head:
    raise AudioError("the stream is empty: nothing came from standard input")
  container = audio_containers.container_of(head)
  if container and (raw is None or container not in _SHORT_SIGNATURES):
    raise AudioError(f"the stream is {container}, not PCM: {_ADVICE}")
  kind = audio_containers.other_kind_of(head)
  if kind not in (audio_containers.UNKNOWN, audio_containers.ZEROS):
    raise AudioError(f"the stream is {kind}, not PCM: {_ADVICE}")
  if raw is None:
    raise AudioError(
      "the stream has no wav header; if it is raw PCM, tell how its samples "
      "are written, as in --pcm=s16le --pcm_rate_hz=16000 --pcm_channels=1"
    )


def _described(description: bytes, order: str) -> Pcm:
  """Returns what a chunk fmt says."""

  def number(begin, end):
    return int.from_bytes(description[begin:end], order)

  if len(description) < 16:
    raise AudioError("the stream's wav header has no fmt chunk before its data")
  tag, bits = number(0, 2), number(14, 16)
  if tag == _EXTENSIBLE:
    tag = number(24, 26)
  kinds = {_PCM: "s", _FLOAT: "f"}
  end = "be" if order == "big" else "le"
  encoding = f"{kinds.get(tag)}{bits}{end}"
  if (tag, bits) == (_PCM, 8):
    encoding = "u8"
  if encoding not in _ENCODINGS:
    name = _OTHER_TAGS.get(tag, f"format tag {tag}")
    name = f"{bits} bits" if tag in kinds else name
    raise AudioError(
      f"the stream is a wav file of {name}; wanted is PCM of 8, 16, 24 or 32 "
      f"bits or floats: {_ADVICE}"
    )
  pcm = Pcm(encoding, number(4, 8), number(2, 4))
  check(pcm)
  return pcm


def check(pcm: Pcm) -> None:
  """Raises AudioError if rate or channels are none that a stream has."""
  if not _RATES_HZ[0] <= pcm.rate_hz <= _RATES_HZ[1]:
    raise AudioError(
      f"the stream has {pcm.rate_hz} Hz; allowed are {_RATES_HZ[0]} to "
      f"{_RATES_HZ[1]} Hz"
    )
  if not 1 <= pcm.num_channels <= _MAX_CHANNELS:
    raise AudioError(
      f"the stream has {pcm.num_channels} channels; allowed are 1 to "
      f"{_MAX_CHANNELS}"
    )
