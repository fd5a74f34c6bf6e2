# SPDX-License-Identifier: Apache-2.0
"""A part of a FLAC file in memory, without decoding the rest of it.

Does not import TensorFlow.
"""

from __future__ import annotations

import functools
import io

import miniaudio
import numpy as np
import soundfile

DECODERS = ("miniaudio", "soundfile")

# "fLaC", then the header and the 34 bytes of the block STREAMINFO.
_STREAMINFO_END = 42
_BITS_PER_SAMPLE = 16

# miniaudio 1.70 renamed dr_flac's functions. They release the interpreter's
# lock while they run.
_PREFIX = (
  "ma_dr_flac_"
  if hasattr(miniaudio.lib, "ma_dr_flac_open_memory")
  else "drflac_"
)
_open, _read, _close = (
  getattr(miniaudio.lib, _PREFIX + name)
  for name in ("open_memory", "read_pcm_frames_s16", "close")
)


def read(
  audio: bytes,
  *,
  sample_rate_hz: int,
  num_samples: int | None = None,
  max_samples: int | None = None,
  position: float | None = None,
  decoder: str = "miniaudio",
  out: np.ndarray | None = None,
) -> np.ndarray:
  """Decodes a crop.

  Args:
    audio: A FLAC file, mono.
    sample_rate_hz: The rate that the file must have.
    num_samples: The length that it must have; None if not known. No checksum
      guards what a file says of its own length.
    max_samples: Length of the crop; a shorter file, or None, gives the whole.
    position: In [0, 1), where the crop lies between the beginning and the end;
      None for the exact middle.
    decoder: "soundfile" (libsndfile), or "miniaudio" (dr_flac, twice as fast,
      the same samples), which leaves to libsndfile whatever is unusual or
      broken.
    out: int16, contiguous, max_samples or longer: where the crop is put.

  Returns:
    int16 [min(num_samples, max_samples)], the beginning of `out` if given.

  Raises:
    ValueError: If the audio is broken where it is read, is empty, or has
      another rate or length, or more channels.
  """
  if decoder == "miniaudio":
    samples = _read_frames(
      audio, sample_rate_hz, num_samples, max_samples, position, out
    )
    if samples is not None:
      return samples
  try:
    with soundfile.SoundFile(io.BytesIO(audio)) as file:
      if (file.samplerate, file.channels) != (sample_rate_hz, 1):
        raise ValueError(
          f"is {file.samplerate} Hz with {file.channels} channels, not "
          f"{sample_rate_hz} Hz mono"
        )
      if num_samples is not None and file.frames != num_samples:
        raise ValueError(
          f"holds {file.frames} samples where {num_samples} belong"
        )
      start, wanted = _crop(file.frames, max_samples, position)
      file.seek(start)
      samples = file.read(wanted, dtype="int16")
  except soundfile.SoundFileError as e:
    # libsndfile's own words.
    raise ValueError(getattr(e, "error_string", str(e))) from None
  if not wanted or len(samples) != wanted:
    raise ValueError(f"holds {len(samples)} samples where {wanted} belong")
  if out is None:
    return samples
  out[:wanted] = samples
  return out[:wanted]


def _crop(num_samples, max_samples, position):
  """Returns the start and length of the crop in samples."""
  if max_samples is None or max_samples >= num_samples:
    return 0, num_samples
  room = num_samples - max_samples
  start = room // 2 if position is None else int(position * (room + 1))
  return start, max_samples


def _read_frames(audio, sample_rate_hz, expected, max_samples, position, out):
  """Decodes the crop by dr_flac; None if the file is unusual or broken.

  dr_flac passes over a frame whose checksum is wrong, without a word, and goes
  on with the next. So it is given the frames of the crop and nothing behind
  them: one that is left out is then missing at the end.

  Reference: RFC 9639, sections 8.2 and 9.1.
  """
  info = int.from_bytes(audio[18:26], "big")
  num_samples = info & ((1 << 36) - 1)
  block = int.from_bytes(audio[8:10], "big")
  if (
    audio[:4] != b"fLaC"
    or audio[4:5] not in (b"\0", b"\x80")
    or audio[8:10] != audio[10:12]  # Blocks of several sizes.
    or info >> 44 != sample_rate_hz
    or (info >> 36) & 0xFF != _BITS_PER_SAMPLE - 1  # Channels - 1 above them.
    or num_samples != (expected or num_samples)
    or not num_samples
    or not block
  ):
    return None
  first = _first_frame(audio)
  start, length = _crop(num_samples, max_samples, position)
  num_frames = -(-num_samples // block)
  # A smaller frame at the end has another header, so it is not looked for.
  num_whole = num_samples // block
  frame = min(start // block, max(num_whole - 1, 0))
  end_frame = -(-(start + length) // block)
  if end_frame >= num_whole:
    end_frame = num_frames
  is_looked_for = frame > 0 or end_frame < num_frames
  if is_looked_for and _block_samples(audio[first : first + 4]) != block:
    return None
  begin = _find_frame(audio, first, frame, num_frames)
  end = _find_frame(audio, first, end_frame, num_frames)
  if not 0 < begin < end:
    return None

  head = start - frame * block
  tail = min(end_frame * block, num_samples) - (start + length)
  samples = np.empty(length, np.int16) if out is None else out[:length]
  unwanted = np.empty(max(head, tail), np.int16)
  # STREAMINFO as the only block of metadata, then the frames.
  part = b"".join(
    (
      b"fLaC\x80",
      audio[5:_STREAMINFO_END],
      memoryview(audio)[begin:end],
    )
  )
  stream = _open(part, len(part), miniaudio.ffi.NULL)
  if not stream:
    return None
  num_read = 0
  try:
    for size, buffer in ((head, unwanted), (length, samples), (tail, unwanted)):
      pointer = miniaudio.ffi.from_buffer("short[]", buffer)
      num_read += _read(stream, size, pointer)
  finally:
    _close(stream)
  return samples if num_read == head + length + tail else None


def _first_frame(audio):
  """Returns the offset of the first frame, after the metadata blocks."""
  offset, is_last = 4, False
  while not is_last and offset + 4 <= len(audio):
    is_last = audio[offset] & 0x80
    offset += 4 + int.from_bytes(audio[offset + 1 : offset + 4], "big")
  return offset


def _block_samples(header):
  """Returns a frame's length by its header; 0 if its 4 bits do not say."""
  code = header[2] >> 4 if len(header) == 4 else 0
  if code >= 8:
    return 256 << (code - 8)
  return 576 << (code - 2) if 2 <= code <= 5 else 0


def _find_frame(audio, first, number, num_frames):
  """Returns the offset of a frame or of the end; -1 if there is none."""
  if number == 0:
    return first
  if number == num_frames:
    return len(audio)
  header = frame_header(audio[first : first + 4], number)
  # Most are of about one size: near the place that this would give, then
  # everywhere.
  mean = (len(audio) - first) // num_frames
  guess = first + number * mean
  offset = audio.find(header, max(first, guess - 3 * mean), guess + 3 * mean)
  return offset if offset >= 0 else audio.find(header, first)


@functools.lru_cache(maxsize=4096)
def frame_header(start, number):
  """Returns the header of a frame: its first 4 bytes, number and CRC-8.

  Those 4 bytes (sync code, block size, rate, channels, bits) are the same in
  all frames but the last. If they announce more fields, it is found nowhere.
  """
  # FLAC codes the number like UTF-8 a character.
  header = start + chr(number).encode("utf-8", "surrogatepass")
  crc = 0
  for byte in header:
    crc ^= byte
    for _ in range(8):
      crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
  return header + bytes([crc])
