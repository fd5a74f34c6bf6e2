# SPDX-License-Identifier: Apache-2.0
"""Decodes audio files to their last frame, and checks that it was the last.

libsndfile decodes what is not compressed, and FLAC; FFmpeg (PyAV) all the rest.
Which of them is chosen by a file's content.
"""

from __future__ import annotations

import collections
import io
import os
import stat
from collections.abc import Iterator

from tf_audioset.data import audio_containers, audio_headers, audio_streams
from tf_audioset.data.audio_bytes import AudioError, Bytes
from tf_audioset.data.audio_libraries import (
  AvDecoder,
  Block,
  SndfileDecoder,
  reading,
  reason_of,
)

# What libsndfile decodes. FFmpeg is asked where it cannot.
_FOR_LIBSNDFILE = {
  "wav": audio_headers.wav,
  "rf64": audio_headers.wav,
  "w64": audio_headers.w64,
  "aiff": audio_headers.aiff,
  "au": audio_headers.au,
  "caf": audio_headers.caf,
  "flac": audio_streams.whole,  # And `flac_rest`, when that is decoded.
  **dict.fromkeys(
    ("avr", "ircam", "paf", "pvf", "wve", "xi"), audio_streams.whole
  ),
}
_FOR_FFMPEG = {
  "mp3": audio_streams.mp3,
  "adts": audio_streams.mp3,
  "ogg": audio_streams.ogg,
  "mp4": audio_streams.mp4,
  "matroska": audio_streams.matroska,
  "asf": audio_streams.asf,
  "avi": audio_streams.avi,
  "flv": audio_streams.flv,
  "tta": audio_streams.tta,
  "voc": audio_streams.voc,
  "wavpack": audio_streams.wavpack,
  **dict.fromkeys(
    ("ape", "dsf", "musepack", "nist", "tak"),
    audio_streams.counted,
  ),
}
# Others are those of broken headers; resampled, they would fill the memory.
_MIN_RATE_HZ, _MAX_RATE_HZ = 100, 10_000_000
# By how much a header may promise more than there is. Recorders count their own
# header as samples, encoders count frames that they drop. FFmpeg's copies of
# parts of files promise up to two frames too many, of at most 2048 samples.
_SLACK_SECONDS = 0.1
_COPY_SLACK_SAMPLES = 3 * 2048
# Behind junk in an mp3, frames are lost that lean on earlier ones.
_JUNK_SLACK_SECONDS = 0.5
_FILMS = ("mp4", "matroska", "asf", "avi")
# Their parts were found before, or there is only an index behind the sound.
_CHECKED = ("wav", "rf64", "w64", "aiff", "au", "caf", *_FILMS)
# FFmpeg reads ahead less than this.
_MANY_BYTES = 1 << 16


class Recording:
  """Opens an audio file and decodes it block by block.

  Attributes:
    container: As `audio_containers.container_of` calls it.
    remarks: What was found odd so far, in short sentences without a subject.
  """

  def __init__(self, path: str | os.PathLike, content: bytes | None = None):
    """Opens a file; what is not a regular file is read, once.

    Args:
      path: Where the file is.
      content: Its bytes, where `path` is not on a disk.

    Raises:
      AudioError: If there is no such file, or no audio in it.
    """
    self.path = path
    self.remarks = []
    # Of each part that was decoded to its end.
    self._done_seconds = []
    self._file = _open(path) if content is None else io.BytesIO(content)
    try:
      with reading(path):
        self._bytes = Bytes(self._file)
        head = self._bytes.read(0, audio_containers.HEAD_BYTES)
      self.container = audio_containers.container_of(head)
      if not self.container:
        self.container = self._find_frames(head)
      begin = 0
      if head[:3] == b"ID3" and self.container not in ("mp3", "adts"):
        begin = audio_containers.id3_bytes(head)
      finders = {**_FOR_LIBSNDFILE, **_FOR_FFMPEG}
      find_parts = finders.get(self.container, audio_streams.whole)
      try:
        self._parts = find_parts(self._bytes, begin)
      except OSError as e:  # A disk that fails; our own faults are not caught.
        raise AudioError(
          f"{path}: cannot be read as audio ({reason_of(e)})"
        ) from e
    except BaseException:
      self.close()
      raise

  def __enter__(self) -> Recording:
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def blocks(self, block_seconds: float = 1.0) -> Iterator[Block]:
    """Decodes all parts, one after the other.

    Args:
      block_seconds: About how much is decoded at once.

    Yields:
      Blocks, none of them empty. Rate and channels may change between them.

    Raises:
      AudioError: When the blocks before are out: if a part cannot be decoded,
        or is shorter than its header says.
    """
    for part in self._parts:  # Some may be added meanwhile.
      num_frames = collections.Counter()  # By rate.
      with self._decoder(part) as decoder:
        for block in decoder.blocks(block_seconds):
          if not _MIN_RATE_HZ <= block.rate_hz <= _MAX_RATE_HZ:
            raise AudioError(f"{self.path}: its rate is {block.rate_hz} Hz")
          num_frames[block.rate_hz] += len(block.channels)
          yield block
        seconds = sum(n / rate_hz for rate_hz, n in num_frames.items())
        self._add_remarks([*part.remarks, *decoder.remarks])
        self._check_rest(part, decoder.num_unread())
        self._check_length(part, decoder, seconds, min(num_frames, default=1))
      self._done_seconds.append(seconds)

  def seconds(self) -> float:
    """Returns the length of all parts.

    Those that were not decoded to their end count with what their headers
    state, or else with their frames, which are read but not decoded.
    """
    total = sum(self._done_seconds)
    for part in self._parts[len(self._done_seconds) :]:
      with self._decoder(part) as decoder:
        stated = decoder.promised_seconds
      if stated is None:
        with AvDecoder(self.path, self._bytes, part) as decoder:
          stated = decoder.counted_seconds() or decoder.estimated_seconds
      total += stated
    return total

  def estimated_seconds(self) -> float:
    """Returns the length that headers state or FFmpeg estimates."""
    total = 0.0
    for part in self._parts:
      with self._decoder(part) as decoder:
        total += decoder.promised_seconds or decoder.estimated_seconds
    return total

  def _find_frames(self, head) -> str:
    """Returns the container of sound that begins behind junk.

    FFmpeg knows more containers, but also finds one in nearly any file.
    """
    kind = audio_containers.other_kind_of(head)
    if kind in (audio_containers.UNKNOWN, audio_containers.ZEROS):
      lead = self._bytes.read(0, audio_streams.LEAD_BYTES)
      container, _ = audio_containers.frames_in(lead)
      if container:
        return container
    raise AudioError(f"{self.path}: cannot be read as audio (it is {kind})")

  def _add_remarks(self, remarks):
    self.remarks += [r for r in remarks if r not in self.remarks]

  def _decoder(self, part) -> SndfileDecoder | AvDecoder:
    if self.container not in _FOR_LIBSNDFILE:
      return AvDecoder(self.path, self._bytes, part)
    try:
      return SndfileDecoder(self.path, self._bytes, part)
    except AudioError as e:
      if part.cut:  # FFmpeg would look through all of it for a header.
        raise AudioError(
          f"{self.path}: cannot be read as audio ({part.cut}; was it cut off?)"
        ) from e
      try:
        return AvDecoder(self.path, self._bytes, part)
      except AudioError:
        raise e from None

  def _check_rest(self, part, num_unread):
    """Looks for more behind what a decoder thought to be all."""
    if num_unread and self.container == "flac":
      rest = audio_streams.flac_rest(self._bytes, part)
      self._parts += rest
      num_unread *= not rest
    if num_unread > _MANY_BYTES and self.container not in _CHECKED:
      self._add_remarks(
        [f"has {num_unread} bytes at its end that are not read"]
      )

  def _check_length(self, part, decoder, seconds, rate_hz):
    promised = decoder.promised_seconds
    if promised is None and part.kept < 1:
      promised = seconds / part.kept
    if not promised:
      if part.cut:
        raise AudioError(
          f"{self.path}: is cut off ({part.cut}); {seconds:.1f} s of it can be "
          "decoded"
        )
      return
    slack = 0.0 if self.container == "flac" else _SLACK_SECONDS
    told_slack = slack
    if self.container == "mp3" and decoder.has_failed:
      slack = _JUNK_SLACK_SECONDS
    elif self.container in (*_FILMS, "ogg"):
      if not part.cut and not decoder.has_failed:
        slack = told_slack = max(slack, _COPY_SLACK_SAMPLES / rate_hz)
    decoded, stated = _unequal(seconds, promised)
    if seconds + slack < promised:
      raise AudioError(
        f"{self.path}: only {decoded} of {stated} s can be decoded"
      )
    if abs(seconds - promised) > told_slack:
      self._add_remarks([f"is {decoded} s long; its header says {stated} s"])


def _unequal(seconds: float, others: float) -> tuple[str, str]:
  """Formats both with as many decimals, at most 6, as make them differ."""
  for decimals in range(1, 7):
    texts = f"{seconds:.{decimals}f}", f"{others:.{decimals}f}"
    if texts[0] != texts[1]:
      break
  return texts


def _open(path):
  """Opens a regular file, or the content of a pipe."""
  try:
    os.fspath(path).encode("utf-8")
  except UnicodeError:
    raise AudioError(
      f"{path}: cannot be read as audio (its name is not UTF-8)"
    ) from None
  try:
    mode = os.stat(path).st_mode
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind:
      raise AudioError(f"{path}: cannot be read as audio (it is {kind})")
    file = open(path, "rb", buffering=0)
    if stat.S_ISREG(mode):
      return file
    with file:
      return io.BytesIO(file.read())
  except FileNotFoundError:
    raise AudioError(
      f"{path}: cannot be read as audio (no such file)"
    ) from None
  except (OSError, ValueError) as e:  # ValueError: a zero in the name.
    if isinstance(e, AudioError):
      raise
    raise AudioError(f"{path}: cannot be read as audio ({reason_of(e)})") from e


_KINDS = {
  stat.S_IFDIR: "a folder",
  stat.S_IFSOCK: "a socket",
  stat.S_IFCHR: "a device",
  stat.S_IFBLK: "a device",
}
