# SPDX-License-Identifier: Apache-2.0
"""Containers of compressed sound: where recordings begin, what they promise.

FFmpeg and libsndfile stop at the end of the first recording of a file, or
stumble over the second. FFmpeg also estimates lengths from bit rates and does
not say which are estimates. So the lengths that a decoded file is compared with
are read here.

References: RFC 3533 (Ogg), RFC 7845 (Opus in Ogg), RFC 9639 (FLAC), RFC 9559
(Matroska), ISO/IEC 14496-12 (MPEG-4), Microsoft's Advanced Systems Format and
AVI, the LAME project's description of the Xing and LAME tags.
"""

from __future__ import annotations

import struct

from tf_audioset.data import audio_containers, flac
from tf_audioset.data.audio_bytes import Bytes, Part


def whole(file: Bytes, begin: int) -> list[Part]:
  """Returns all from `begin` as one recording, whose length is not stated."""
  return [Part(begin, file.size)]


def counted(file: Bytes, begin: int) -> list[Part]:
  """Returns all as one recording, whose length FFmpeg reads from its header."""
  return [Part(begin, file.size, is_length_known_to_ffmpeg=True)]


def flv(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of a Flash video."""
  # Sound, perhaps pictures, and the length of the header.
  heads = [b"FLV\1" + kind + b"\0\0\0\x09" for kind in (b"\4", b"\5")]
  return _divided(file, begin, heads)


def tta(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of a True Audio file."""
  parts = _divided(file, begin, [b"TTA1\1\0"])
  return [part._replace(is_length_known_to_ffmpeg=True) for part in parts]


_VOC = b"Creative Voice File\x1a"


def voc(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of a Creative Voice file."""
  parts = []
  while True:
    place, cut = begin + file.number(begin + 20, 2, "little"), ""
    # A block of the kind 0, without a length, is the last. Another one is
    # none: SoX counts a few bytes too few.
    while b"\0" < (kind := file.read(place, 1)) < b"\x0a":
      place += 4 + file.number(place + 1, 3, "little")
      if place > file.size:
        cut = "its last block is incomplete"
    following = file.find(_VOC, place) if kind else -1
    end = following if following >= 0 else file.size
    parts.append(Part(begin, end, cut=cut))
    if following < 0:
      return parts
    begin = following


def wavpack(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of a WavPack file."""
  begins, last, place = [begin], 0, begin
  while place >= 0:
    head = file.read(place, 20)
    if head[:4] != b"wvpk" or head[9:10] != b"\4":  # Its version.
      place = file.find(b"wvpk", place + 1)
      continue
    # Which of its samples is a block's first. Only the first block has 0, but
    # for those of more channels of it.
    index = int.from_bytes(head[16:20], "little")
    if index < last:
      begins.append(place)
    last = index
    place += 8 + int.from_bytes(head[4:8], "little")
  ends = [*begins[1:], file.size]
  return [
    Part(*span, is_length_known_to_ffmpeg=True) for span in zip(begins, ends)
  ]


def _divided(file, begin, heads):
  begins = [begin, *file.find_all(heads, begin + 1)]
  return [Part(*span) for span in zip(begins, [*begins[1:], file.size])]


# The longest page: 255 packets of Opus, of 20 ms.
_OGG_PAGE_SECONDS = 5.2


class _OggStream:
  """One stream of a link: what its pages say."""

  def __init__(self, packet: bytes):
    self.rate_hz, self.delay = _ogg_codec(packet)
    self.first_granule = self.granule = None
    self.has_end = False

  def num_frames(self) -> int | None:
    """Returns the length by the granule positions, which count samples."""
    if self.granule is None:
      return None
    # The rip of a radio stream begins anywhere. How much sound its first page
    # holds, no number says.
    if self.first_granule > _OGG_PAGE_SECONDS * self.rate_hz:
      return None
    return max(self.granule - self.delay, 0)


def _ogg_codec(packet):
  """Returns an Ogg stream's rate in Hz and pre-skip; (0, 0) if no sound."""
  if packet[:7] == b"\x01vorbis":
    return int.from_bytes(packet[12:16], "little"), 0
  if packet[:8] == b"OpusHead":
    return 48000, int.from_bytes(packet[10:12], "little")
  if packet[:8] == b"Speex   ":
    return int.from_bytes(packet[36:40], "little"), 0
  if packet[:5] == b"\x7fFLAC":
    return int.from_bytes(packet[27:30], "big") >> 4, 0
  return 0, 0


def ogg(file: Bytes, begin: int) -> list[Part]:
  """Returns the links of an Ogg file.

  A link that no page ends was cut off, and is marked so.
  """
  parts, streams, has_data = [], {}, False
  place = link_begin = begin
  while True:
    head = file.read(place, 27 + 255)
    body = place + 27 + sum(head[26:27])
    if head[:4] != b"OggS":
      place = file.find(b"OggS", place + 1)
      if place < 0:
        break
      continue
    page_end = body + sum(head[27 : body - place])
    if len(head) < body - place or page_end > file.size:
      break  # Only a piece of a page.
    serial, flags = head[14:18], head[5]
    if flags & 2:  # The first page of a stream.
      if has_data:
        parts.append(_ogg_link(link_begin, place, streams))
        streams, has_data, link_begin = {}, False, place
      streams[serial] = _OggStream(file.read(body, 64))
    else:
      has_data = True
    granule = int.from_bytes(head[6:14], "little", signed=True)
    stream = streams.get(serial)
    if stream:
      stream.has_end = stream.has_end or bool(flags & 4)
      if granule > 0:
        if stream.first_granule is None:
          stream.first_granule = granule
        stream.granule = granule
    place = page_end
  return [*parts, _ogg_link(link_begin, file.size, streams)]


def _ogg_link(begin, end, streams):
  sounds = [stream for stream in streams.values() if stream.rate_hz]
  if not sounds:
    return Part(begin, end)
  if not sounds[0].has_end:
    return Part(begin, end, cut="no page of it is marked as the last")
  num_frames = sounds[0].num_frames()
  if num_frames is None:
    return Part(begin, end)
  seconds = num_frames / sounds[0].rate_hz
  return Part(begin, end, seconds=seconds, num_frames=num_frames)


_MP3_TAGS = (b"Xing", b"Info", b"VBRI")
_MP3_TAG_OFFSETS = (36, 21, 13)
# How far behind the start of a file the first frame is looked for.
LEAD_BYTES = 1 << 20
_MAX_FRAME_BYTES = 1 << 13  # Of ADTS; those of mp3 are smaller.
# Of music players, anywhere in a file.
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN")


def mp3(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of an MPEG audio or ADTS (aac) file.

  Each one that was encoded to a file has a frame in front that counts its
  frames; one that was encoded to a stream has none.
  """
  runs = _frame_runs(file, begin)
  if not runs:
    return whole(file, begin)
  heads = [
    (place, seconds)
    for place, seconds in _mp3_heads(file)
    if any(first <= place < last for first, last in runs)
  ]
  if not heads or heads[0][0] > runs[0][0]:
    heads.insert(0, (runs[0][0], None))
  ends = [place for place, _ in heads[1:]] + [runs[-1][1]]
  return [
    _mp3_part(file, place, end, runs, seconds)
    for (place, seconds), end in zip(heads, ends)
  ]


def _frame_runs(file, begin):
  """Returns the begin and end of each run of frames without a gap.

  What is between is no sound: tags, pictures, junk. FFmpeg would lose frames in
  it, and make noise of some of it.
  """
  runs = []
  place, run_begin, kind = begin, None, None
  block, block_begin = b"", begin
  while True:
    if place + 7 > block_begin + len(block):
      block, block_begin = file.read(place, LEAD_BYTES), place
      if len(block) < 7:
        break
    offset = place - block_begin
    if run_begin is not None:
      length, found = audio_containers.frame_in(block[offset : offset + 7])
      if length and found == kind:
        place += length
      else:
        runs.append((run_begin, place))
        run_begin = None
      continue
    kind, start = audio_containers.frames_in(block[offset:])
    if kind:
      run_begin = place = place + start
    elif len(block) < LEAD_BYTES:
      break
    else:  # A chain may begin in one block and end in the next.
      place = max(place + 1, block_begin + len(block) - 4 * _MAX_FRAME_BYTES)
      block = b""
  if run_begin is not None:
    runs.append((run_begin, min(place, file.size)))
  return runs


def _mp3_part(file, begin, end, runs, seconds):
  """Returns the part made of the frames between, without the gaps."""
  runs = [
    (max(a, begin), min(b, end)) for a, b in runs if a < end and b > begin
  ]
  holes = tuple((a[1], b[0]) for a, b in zip(runs, runs[1:]))
  num_junk = sum(
    b - a for a, b in holes if not file.read(a, 11).startswith(TAGS)
  )
  remarks = ()
  if num_junk:
    remarks = (f"has {num_junk} bytes between its frames that are no sound",)
  return Part(
    runs[0][0], runs[-1][1], holes=holes, seconds=seconds, remarks=remarks
  )


def _mp3_heads(file):
  """Returns where each frame that counts the others begins, and seconds."""
  for place in file.find_all(_MP3_TAGS):
    tag = file.read(place, 4)
    for offset in _MP3_TAG_OFFSETS:
      begin = place - offset
      frame = file.read(begin, 400) if begin >= 0 else b""
      if (
        len(frame) > 160
        and audio_containers.mp3_frame_bytes(frame[:3])
        and _mp3_tag_offset(frame, tag) == offset
      ):
        yield begin, _mp3_seconds(frame, tag, offset)


def _mp3_tag_offset(frame, tag):
  """Returns where a frame's tag is: behind its side information."""
  is_layer_3 = frame[1] & 0x06 == 0x02
  if not is_layer_3:
    return 0
  if tag == b"VBRI":
    return 36
  is_mpeg_1, is_mono = frame[1] & 0x18 == 0x18, frame[3] & 0xC0 == 0xC0
  return {(1, 0): 36, (1, 1): 21, (0, 0): 21, (0, 1): 13}[is_mpeg_1, is_mono]


def _mp3_seconds(frame, tag, offset):
  rate_hz, samples = audio_containers.mp3_frame_samples(frame)
  delay = padding = 0
  if tag == b"VBRI":
    frames = int.from_bytes(frame[offset + 14 : offset + 18], "big")
  else:
    flags = frame[offset + 7]
    frames = int.from_bytes(frame[offset + 8 : offset + 12], "big")
    if not flags & 1:
      return None
    # Behind the counts of frames and bytes, the seek table and the quality.
    lame = offset + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4)
    lame += (flags & 8) // 2
    if frame[lame : lame + 4] in (b"LAME", b"Lavf", b"Lavc"):
      pair = int.from_bytes(frame[lame + 21 : lame + 24], "big")
      delay, padding = pair >> 12, pair & 0xFFF
  return max(frames * samples - delay - padding, 0) / rate_hz or None


# FLAC's mark and the head of its first block, STREAMINFO, which has 34 bytes.
_FLAC = b"fLaC\0\0\0\x22"
_FLAC_TOTAL = (1 << 36) - 1  # STREAMINFO's bits for the number of samples.


def flac_rest(file: Bytes, part: Part) -> list[Part]:
  """Returns what follows in a FLAC file behind all that its header counts.

  Args:
    file: The file.
    part: What was decoded of it.

  Returns:
    The recordings that were joined to it; or the part again, as one whose
    length is not known, if its header counts less than there is.
  """
  beyond = _flac_frames_beyond(file, part.begin)
  # Searched together: the file is read once.
  places = file.find_all((_FLAC, *beyond), part.begin + 4, part.end)
  found = {place: file.read(place, 8) == _FLAC for place in places}
  begins = [place for place, is_mark in found.items() if is_mark]
  if begins or not found or part.prefix:
    return [Part(*span) for span in zip(begins, [*begins[1:], part.end])]
  head = bytearray(file.read(part.begin, 42))
  total = int.from_bytes(head[18:26], "big") & _FLAC_TOTAL
  head[21] &= 0xF0
  head[22:26] = bytes(4)  # A total of 0 is not known.
  return [
    Part(
      part.begin + 42,
      part.end,
      prefix=bytes(head),
      skipped_frames=total,
      remarks=("holds more samples than its header counts",),
    )
  ]


def _flac_frames_beyond(file, begin):
  """Returns possible headers of a frame beyond the counted ones."""
  head = file.read(begin, 42)
  block = int.from_bytes(head[8:10], "big")
  total = int.from_bytes(head[18:26], "big") & _FLAC_TOTAL
  if not total or not block or head[8:10] != head[10:12]:
    return []
  first, is_last = begin + 4, False
  while not is_last and len(block_head := file.read(first, 4)) == 4:
    is_last = block_head[0] & 0x80
    first += 4 + int.from_bytes(block_head[1:], "big")
  start = file.read(first, 4)
  number = -(-total // block)
  if len(start) < 4 or number > 0x10FFFF:
    return []
  # Two channels may be coded in four ways, another one in each frame.
  is_stereo = head[20] >> 1 & 7 == 1
  return [
    flac.frame_header(
      start[:3] + bytes([channels << 4 | start[3] & 15]), number
    )
    for channels in ((1, 8, 9, 10) if is_stereo else (start[3] >> 4,))
  ]


def mp4(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of an MPEG-4 or QuickTime file."""
  parts, kinds, place, cut = [], set(), begin, ""
  while len(head := file.read(place, 16)) >= 8:
    size, kind = int.from_bytes(head[:4], "big"), head[4:8]
    if size == 1:
      size = int.from_bytes(head[8:16], "big")
    if size == 0:
      size = file.size - place
    if size < 8 or not all(32 <= c < 127 for c in kind):
      if file.find(b"moof", place) >= 0:  # Else it is junk behind the end.
        cut = "junk between its boxes hides some"
      break
    if kind == b"ftyp" and kinds & {b"moov", b"mdat"}:
      parts.append(_mp4_part(begin, place, kinds, ""))
      begin, kinds = place, set()
    kinds.add(kind)
    if place + size > file.size and kind in (b"moov", b"moof", b"mdat"):
      cut = f"its last box, {kind.decode()}, is incomplete"
    place += size
  return [*parts, _mp4_part(begin, file.size, kinds, cut)]


def _mp4_part(begin, end, kinds, cut):
  if b"moov" not in kinds:
    cut = "its index, the box moov, is missing"
  # A file of fragments is written before its length is known.
  is_known = b"moof" not in kinds
  return Part(begin, end, cut=cut, is_length_known_to_ffmpeg=is_known)


_EBML = bytes.fromhex("1a45dfa3")
_SEGMENT, _INFO, _CLUSTER = 0x18538067, 0x1549A966, 0x1F43B675
_DURATION, _TIMESTAMP_SCALE = 0x4489, 0x2AD7B1


def matroska(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of a Matroska or WebM file."""
  parts = []
  while True:
    _, first, size = _ebml_element(file, begin)
    kind, inside, size = _ebml_element(file, first + (size or 0))
    if kind != _SEGMENT:
      return [*parts, Part(begin, file.size)]
    end, cut = file.size, ""
    if size is None:  # Written before its length was known.
      following = file.find(_EBML, inside)
      while following > 0 and b"\x42\x82" not in file.read(following, 64):
        following = file.find(_EBML, following + 1)
    else:
      following = inside + size
      if following > file.size:
        cut = "its last segment is incomplete"
      if file.read(following, 4) != _EBML:
        following = -1
    if following > 0:
      end = following
    seconds = _matroska_seconds(file, inside, end)
    parts.append(
      Part(begin, end, seconds=seconds, is_longest_stream=True, cut=cut)
    )
    if following < 0:
      return parts
    begin = following


def _ebml_element(file, place):
  """Reads an element: its id, where its content begins, its size or None."""
  head = file.read(place, 12)
  if not head or not head[0]:
    return 0, place, 0
  id_bytes = 9 - head[0].bit_length()
  kind = int.from_bytes(head[:id_bytes], "big")
  first = head[id_bytes] if len(head) > id_bytes else 0
  if not first:
    return 0, place, 0
  size_bytes = 9 - first.bit_length()
  size = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big")
  size &= (1 << 7 * size_bytes) - 1
  if size == (1 << 7 * size_bytes) - 1:
    size = None
  return kind, place + id_bytes + size_bytes, size


def _matroska_seconds(file, place, end):
  scale, duration = 1_000_000, None  # Nanoseconds a unit.
  while place < end:
    kind, inside, size = _ebml_element(file, place)
    if kind in (0, _CLUSTER) or size is None:
      break
    if kind == _INFO:
      end, place = min(inside + size, end), inside
      continue
    content = file.read(inside, 8)[:size]
    if kind == _TIMESTAMP_SCALE:
      scale = int.from_bytes(content, "big")
    if kind == _DURATION and len(content) in (4, 8):
      duration = struct.unpack(">f" if len(content) == 4 else ">d", content)[0]
    place = inside + size
  return duration * scale / 1e9 if duration else None


_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def asf(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of an ASF (wma) file."""
  parts, following = [], begin
  while following >= 0:
    begin = following
    following = file.find(_ASF_HEADER, begin + 1)
    end = following if following >= 0 else file.size
    head = file.read(begin, 1 << 16)
    place = head.find(_ASF_PROPERTIES)
    seconds = None
    if place >= 0 and len(head) >= place + 92:
      duration, _, preroll, flags = struct.unpack_from("<4Q", head, place + 64)
      is_broadcast = flags & 1
      if not is_broadcast:
        # In units of 100 ns; of 1 ms.
        seconds = max(duration / 1e7 - preroll / 1e3, 0) or None
    parts.append(Part(begin, end, seconds=seconds, is_longest_stream=True))
  return parts


def avi(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of an AVI file."""
  parts, place = [], begin
  while True:
    # A RIFF of the form AVIX continues what one of the form AVI began.
    size = file.number(place + 4, 4, "little")
    if size in (0, 0xFFFFFFFF):  # Written before its length was known.
      return [*parts, Part(begin, file.size)]
    place += 8 + size + size % 2
    form = file.read(place, 12)
    if form[:4] != b"RIFF" or form[8:] != b"AVIX":
      is_joined = form[:4] == b"RIFF" and form[8:] == b"AVI "
      cut = "its last chunk is incomplete" if place > file.size + 1 else ""
      end = place if is_joined else file.size
      seconds = _avi_seconds(file.read(begin, 1 << 16))
      parts.append(Part(begin, end, seconds=seconds, cut=cut))
      if not is_joined:
        return parts
      begin = place


def _avi_seconds(head):
  place = head.find(b"auds")
  if head[place - 8 : place - 4] != b"strh" or len(head) < place + 36:
    return None
  scale, rate, _, length = struct.unpack_from("<4I", head, place + 20)
  return length * scale / rate if rate and length else None
