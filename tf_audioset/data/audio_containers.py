# SPDX-License-Identifier: Apache-2.0
"""Tells by its first bytes what a file is: audio of which container, or not."""

from __future__ import annotations

import functools

# As many bytes as `container_of` looks at.
HEAD_BYTES = 4096

# (container, offset, bytes there), the longer ones before their beginnings.
_SIGNATURES = (
  ("w64", 0, bytes.fromhex("726966662e91cf11a5d628db04c10000")),
  ("flac", 0, b"fLaC"),
  ("ogg", 0, b"OggS"),
  ("matroska", 0, bytes.fromhex("1a45dfa3")),
  ("asf", 0, bytes.fromhex("3026b2758e66cf11")),
  ("caf", 0, b"caff"),
  ("au", 0, b".snd"),
  ("au", 0, b"dns."),  # Little-endian.
  ("amr", 0, b"#!AMR"),
  ("mp3", 0, b"APETAGEX"),
  ("adif", 0, b"ADIF"),
  ("ac3", 0, bytes.fromhex("0b77")),
  ("dts", 0, bytes.fromhex("7ffe8001")),
  ("flv", 0, b"FLV\x01"),
  ("mpeg", 0, bytes.fromhex("000001ba")),
  ("mxf", 0, bytes.fromhex("060e2b34020501010d010201")),
  ("nut", 0, b"nut/multimedia container"),
  ("wtv", 0, bytes.fromhex("b7d800203749da11")),
  ("realmedia", 0, b".RMF"),
  ("realmedia", 0, b".ra\xfd"),
  ("ape", 0, b"MAC "),
  ("wavpack", 0, b"wvpk"),
  ("tta", 0, b"TTA1"),
  ("tak", 0, b"tBaK"),
  ("shorten", 0, b"ajkg"),
  ("musepack", 0, b"MPCK"),
  ("musepack", 0, b"MP+"),
  ("dsf", 0, b"DSD "),
  ("qoa", 0, b"qoaf"),
  ("truehd", 4, bytes.fromhex("f8726fba")),
  ("voc", 0, b"Creative Voice File"),
  ("nist", 0, b"NIST_1A"),
  ("ircam", 0, bytes.fromhex("64a3")),
  ("ircam", 1, bytes.fromhex("a364")),
  ("pvf", 0, b"PVF1"),
  ("paf", 0, b" paf"),
  ("paf", 0, b"fap "),
)
# Of IFF and its little-endian sibling RIFF: by the bytes at 0 and at 8.
_FORMS = {
  (b"RIFF", b"WAVE"): "wav",
  (b"RIFX", b"WAVE"): "wav",
  (b"RIFF", b"AVI "): "avi",
  (b"RIFF", b"XWMA"): "xwma",
  (b"RF64", b"WAVE"): "rf64",
  (b"BW64", b"WAVE"): "rf64",
  (b"FORM", b"AIFF"): "aiff",
  (b"FORM", b"AIFC"): "aiff",
  (b"FORM", b"8SVX"): "svx",
  (b"FORM", b"16SV"): "svx",
  (b"FRM8", b"DSD "): "dff",
}
# The first box of an MPEG-4 or QuickTime file. Pictures begin so, too.
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"pnot")
_MP4_PADDING = (b"wide", b"free", b"skip")  # Words of a text, too.
_PICTURE_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis")

# What `other_kind_of` says of what it does not know either.
UNKNOWN = "of no known audio format"
ZEROS = "zeros, without any audio"
_NOT_AUDIO = (
  ("a zip archive", b"PK\x03\x04"),
  ("a zip archive", b"PK\x05\x06"),
  ("compressed by gzip", b"\x1f\x8b"),
  ("compressed by bzip2", b"BZh"),
  ("compressed by xz", b"\xfd7zXZ"),
  ("compressed by zstd", b"\x28\xb5\x2f\xfd"),
  ("a 7z archive", b"7z\xbc\xaf'\x1c"),
  ("a RAR archive", b"Rar!"),
  ("a JPEG picture", b"\xff\xd8\xff"),
  ("a PNG picture", b"\x89PNG"),
  ("a GIF picture", b"GIF8"),
  ("a PDF document", b"%PDF"),
  ("a NumPy array", b"\x93NUMPY"),
  ("an HDF5 file", b"\x89HDF"),
  ("an SQLite database", b"SQLite format 3"),
  ("MIDI, notes without sound", b"MThd"),
  ("a program", b"\x7fELF"),
  ("SILK of a messenger, which has no decoder here", b"\x02#!SILK"),
  ("SILK of a messenger, which has no decoder here", b"#!SILK"),
)


def container_of(head: bytes) -> str | None:
  """Returns the audio container that a file's first bytes are of.

  Args:
    head: The file's first `HEAD_BYTES`, or all of a shorter one.

  Returns:
    "wav", "rf64", "w64", "flac", "ogg", "mp3" (MPEG audio of any layer, behind
    ID3 tags or a little junk, too), "mp4" (also m4a and mov), "matroska" (also
    webm and mka), "aiff", "au", "caf", "asf", "avi", "adts", "amr" or another
    one; None if it is no known container.
  """
  head = bytes(head[:HEAD_BYTES])
  if head[:3] == b"ID3" and len(head) >= 10:
    behind = head[id3_bytes(head) :]
    return (container_of(behind) if behind else None) or "mp3"
  form = _FORMS.get((head[:4], head[8:12]))
  form = form or _FORMS.get(
    (head[:4], head[12:16])
  )  # DSDIFF counts by 64 bits.
  if form:
    return form
  for container, offset, signature in _SIGNATURES:
    if head[offset : offset + len(signature)] == signature:
      return container
  if head[4:8] in _MP4_BOXES and head[8:12] not in _PICTURE_BRANDS:
    return "mp4"
  if head[4:8] in _MP4_PADDING and head[:1] == b"\0":
    return "mp4"
  for packets in (head[::188], head[4::192]):  # Of discs, behind a time each.
    if len(packets) > 3 and set(packets) == {0x47}:
      return "mpegts"
  return frames_in(head)[0]


def id3_bytes(head: bytes) -> int:
  """Returns the length of the ID3v2 tag that `head` begins with."""
  size = 0
  for byte in head[6:10]:
    size = size << 7 | byte & 0x7F
  has_footer = head[5] & 0x10
  return 10 + size + (10 if has_footer else 0)


def frames_in(head: bytes) -> tuple[str | None, int]:
  """Finds the first chain of frames, the only sign of MPEG audio and of ADTS.

  Returns:
    "mp3" or "adts", and where its first frame begins; None and 0 without any.
  """
  start = -1
  while (start := head.find(b"\xff", start + 1)) >= 0:
    place, num_frames, kind = start, 0, None
    # Two bytes of noise look like a header now and then; three headers, one
    # frame apart, do not happen.
    while num_frames < 3 and place + 7 <= len(head):
      header = head[place : place + 7]
      length, found = frame_in(header)
      if not length or (kind and kind != found):
        break
      kind = found
      place += length
      num_frames += 1
    is_whole_file = start == 0 and place == len(head) and num_frames
    if num_frames >= (2 if start == 0 else 3) or is_whole_file:
      return kind, start
  return None, 0


def frame_in(header: bytes) -> tuple[int, str]:
  """Returns the length, 0 if it is none, and the kind of a frame by 7 bytes."""
  if length := mp3_frame_bytes(header[:3]):
    return length, "mp3"
  return _adts_frame_bytes(header), "adts"


_MP3_KBITS = {
  # (is MPEG-1, layer)
  (True, 1): (
    32,
    64,
    96,
    128,
    160,
    192,
    224,
    256,
    288,
    320,
    352,
    384,
    416,
    448,
  ),
  (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
  (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
  (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
  (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# By the two bits of the version: MPEG-2.5, none, MPEG-2, MPEG-1.
_MP3_RATES_HZ = (
  (11025, 12000, 8000),
  None,
  (22050, 24000, 16000),
  (44100, 48000, 32000),
)


@functools.lru_cache(maxsize=4096)
def mp3_frame_bytes(header: bytes) -> int:
  """Returns the length of an MPEG audio frame by 3 bytes; 0 if it is none."""
  if header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
    return 0
  version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
  bits_index = header[2] >> 4
  if layer == 4 or version == 1 or bits_index in (0, 15):
    return 0
  rate_hz, samples = mp3_frame_samples(header)
  if not rate_hz:
    return 0
  bits = 1000 * _MP3_KBITS[version == 3, layer][bits_index - 1]
  padding = header[2] >> 1 & 1
  if layer == 1:
    return (12 * bits // rate_hz + padding) * 4
  return samples // 8 * bits // rate_hz + padding


def mp3_frame_samples(header: bytes) -> tuple[int, int]:
  """Returns an MPEG audio frame's rate in Hz, 0 if it has none, and samples."""
  version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
  rates_hz, rate_index = _MP3_RATES_HZ[version], header[2] >> 2 & 3
  rate_hz = rates_hz[rate_index] if rates_hz and rate_index < 3 else 0
  if layer == 1:
    samples = 384
  else:
    samples = 576 if layer == 3 and version != 3 else 1152
  return rate_hz, samples


def _adts_frame_bytes(header):
  is_adts = header[0] == 0xFF and header[1] & 0xF6 == 0xF0
  if not is_adts or header[2] >> 2 & 15 > 12:
    return 0
  length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
  return length if length > 7 else 0


def other_kind_of(head: bytes) -> str:
  """Returns what a file that is no audio is, to stand behind "is".

  Args:
    head: As for `container_of`.
  """
  if not head:
    return "empty"
  if not any(head):
    return ZEROS
  for kind, signature in _NOT_AUDIO:
    if head.startswith(signature):
      return kind
  if head[4:8] == b"ftyp" or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
    return "a picture"
  text = head.decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
  if head.startswith((b"\xff\xfe", b"\xfe\xff")):
    text = head.decode("utf-16", errors="replace")
  # The last character may be cut off.
  if "\ufffd" in text[:-1] or any(
    c < " " and c not in "\t\r\n\f" for c in text
  ):
    return UNKNOWN
  if text[:9].lower() == "<!doctype" or "<html" in text[:500].lower():
    return "an HTML page"
  if text[:1] in "{[" and text[:1]:
    return "JSON"
  if text.startswith("<"):
    return "XML"
  return "text"
