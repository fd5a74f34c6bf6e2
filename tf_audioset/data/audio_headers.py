# SPDX-License-Identifier: Apache-2.0
"""Headers that count the bytes of samples: wav, RF64, W64, AIFF, AU, CAF.

libsndfile takes what there is and says nothing: the samples of a file that was
cut off, and none of those behind a count of 0. A recorder that writes to a pipe
or is killed leaves 0 or a number near the greatest; other counts are a little
off. Here the count is compared with the file, and a header is made anew where
libsndfile would follow it into error.

References: Multimedia Programming Interface and Data Specifications 1.0 (RIFF);
EBU Tech 3306 (RF64); Sony's Wave64; Apple's AIFF-C and Core Audio Format; Sun's
AU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tf_audioset.data import audio_containers, audio_streams
from tf_audioset.data.audio_bytes import Bytes, Part

# Bytes behind the samples that are worth a remark: fewer are some tag.
_MANY_BYTES = 4096
# Counts of 32 and 64 bits that stand for an unknown length: 0 and what is about
# the greatest number, signed or not, less the header or a whole block.
_UNKNOWN_64 = 1 << 62
# More than any file has before its samples; ends the reading of nonsense.
_MAX_CHUNKS = 10000
_NO_SAMPLES = "no samples are behind its header"


def _is_unknown(count: int) -> bool:
  return 0x7F000000 <= count <= 0x80000000 or count >= 0xFF000000


class _Span(NamedTuple):
  """Where samples lie; see `Part`."""

  end: int  # In bytes of the file.
  kept: float = 1.0
  next_begin: int = 0  # Of another recording; 0 if there is none.
  cut: str = ""
  remarks: tuple[str, ...] = ()

  def part(self, begin: int) -> Part:
    return Part(
      begin, self.end, kept=self.kept, cut=self.cut, remarks=self.remarks
    )


def _span(
  file: Bytes,
  begin: int,
  count: int | None,
  *,
  form_end: int,
  family: str,
  padding: int = 1,
  next_form: bytes = b"",
) -> _Span:
  """Finds where the samples that begin at `begin` end.

  Args:
    file: The file.
    begin: Of the samples.
    count: Of bytes, by the header; None if it does not know.
    form_end: Where the whole ends by its header; 0 if that says nothing.
    family: The container, one of which may follow.
    padding: To a multiple of so many bytes, at least 1.
    next_form: Bytes that another recording begins with.
  """
  there = file.size - begin
  if count == 0 and there > 0 and not _is_chunk(file, begin):
    count = None
  if count is not None and count > there and abs(form_end - file.size) <= 8:
    count = None  # What holds the samples is whole: their own count is wrong.
  if count is None:
    place = _find_next(file, begin, next_form, family)
    return _Span(place or file.size, next_begin=place)
  if count > there:
    if there <= 0:
      return _Span(file.size, cut=_NO_SAMPLES)
    return _Span(file.size, kept=there / count)
  end = begin + count
  # An odd chunk may have been written without its padding.
  padded = end + -(end - begin) % padding
  for place in (padded, end, form_end):
    if place >= end and _begins(file, place, family):
      return _Span(end, next_begin=place)
  # Something may lie between them.
  is_whole = end <= form_end <= file.size
  place = _find_next(file, form_end if is_whole else end, next_form, family)
  if place:
    return _Span(end, next_begin=place)
  behind = file.size - padded
  if _is_chunk(file, padded) or _is_chunk(file, end):
    return _Span(end)
  if behind <= _MANY_BYTES or _is_tag(file, padded):
    return _Span(end)
  if padded + _MANY_BYTES < form_end <= file.size + 8:
    return _Span(min(form_end, file.size))
  remark = f"{behind} bytes behind the samples that its header counts"
  return _Span(end, remarks=(f"has {remark}, which are not read",))


def _find_next(file, begin, form, family):
  """Returns where the next file of the family begins; 0 if none does."""
  place = file.find(form, begin) if form else -1
  while place > 0 and not _begins(file, place, family):
    place = file.find(form, place + 1)
  return max(place, 0)


def _begins(file, place, family):
  """Returns whether another file of the family, with samples, begins there."""
  if not 0 < place < file.size:
    return False
  container = audio_containers.container_of(file.read(place, 32))
  return container == family


def _is_chunk(file, place):
  head = file.read(place, 8)
  if len(head) < 8 or not all(32 <= c < 127 for c in head[:4]):
    return False
  sizes = (int.from_bytes(head[4:], order) for order in ("little", "big"))
  return any(place + size <= file.size for size in sizes)


def _is_tag(file, place):
  head = file.read(place, 1 << 16)
  return head.startswith(audio_streams.TAGS) or not any(head)


def _parts(file, begin, read_part: Callable) -> list[Part]:
  parts = []
  while begin or not parts:
    part, begin = read_part(file, begin)
    parts.append(part)
  return parts


def wav(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of wav (RIFF, RIFX) and RF64 files."""
  return _parts(file, begin, _wav_part)


def w64(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of W64 files."""
  return _parts(file, begin, _w64_part)


def aiff(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of AIFF and AIFF-C files."""
  return _parts(file, begin, _aiff_part)


def au(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of AU files."""
  return _parts(file, begin, _au_part)


def caf(file: Bytes, begin: int) -> list[Part]:
  """Returns the recordings of CAF files."""
  return _parts(file, begin, _caf_part)


def _wav_part(file, begin):
  form = file.read(begin, 4)
  order = "big" if form == b"RIFX" else "little"
  family = "wav" if form in (b"RIFF", b"RIFX") else "rf64"
  form_bytes = file.number(begin + 4, 4, order)
  data_bytes_64, description = None, b""
  place, is_odd = begin + 12, False
  for _ in range(_MAX_CHUNKS):
    head = file.read(place, 8)
    size = int.from_bytes(head[4:], order)
    if head[:4] == b"data" or len(head) < 8:
      break
    if head[:4] == b"ds64":
      form_bytes = file.number(place + 8, 8, "little")
      data_bytes_64 = file.number(place + 16, 8, "little")
    if head[:4] == b"fmt ":
      description = file.read(place + 8, min(size, 4096))
    following = place + 8 + size + size % 2
    if size % 2 and not _is_chunk(file, following):
      if _is_chunk(file, following - 1):
        following, is_odd = following - 1, True
    place = following
  if head[:4] != b"data":
    return Part(begin, file.size, cut=_NO_SAMPLES), 0
  first, count = place + 8, size
  if data_bytes_64 is not None and size == 0xFFFFFFFF:
    count = data_bytes_64 if 0 < data_bytes_64 < _UNKNOWN_64 else None
  elif _is_unknown(size) and first + size > file.size:
    count = None  # Files of two to four gigabytes have such counts, too.
  span = _span(
    file,
    first,
    count,
    form_end=begin + 8 + form_bytes if not _is_unknown(form_bytes) else 0,
    family=family,
    padding=2,
    next_form=form,
  )
  part = span.part(begin)
  if part.kept == 1 and not part.cut and count == span.end - first:
    limit = span.next_begin or file.size
    part = _with_more_chunks(file, part, first, order, limit)
  num_bytes = part.end - first - sum(b - a for a, b in part.holes)
  is_right = count == num_bytes or span.kept < 1
  # libsndfile takes great numbers for "up to the end".
  is_understood = is_right or (family == "wav" and _is_unknown(size))
  if not is_odd and is_understood and not part.holes:
    # What follows the samples belongs to the file, if no other file does.
    return part._replace(end=span.next_begin or file.size), span.next_begin
  prefix = b"".join(
    (
      b"RIFX" if order == "big" else b"RIFF",
      b"\xff\xff\xff\xffWAVEfmt ",
      len(description).to_bytes(4, order),
      description + bytes(len(description) % 2),
      b"data",
      min(num_bytes, 0xFFFFFFFF).to_bytes(4, order),
    )
  )
  return part._replace(begin=first, prefix=prefix), span.next_begin


def _with_more_chunks(file, part, first, order, limit):
  """Appends the samples of further data chunks to a part.

  Nothing forbids them, and libsndfile reads one of them only.
  """
  holes, there, count = [], part.end - first, part.end - first
  while there == count:
    place = part.end + (part.end - first) % 2
    found = _find_chunk(
      file, place, b"data", head_bytes=8, order=order, padding=2
    )
    if not found or found[0] >= limit:
      break
    first, size = found[0] + 8, found[1]
    end = min(first + size, limit)
    if end == first:
      break
    holes.append((part.end, first))
    there, count = there + end - first, count + size
    part = part._replace(end=end)
  return part._replace(holes=tuple(holes), kept=there / count if count else 1)


def _find_chunk(
  file, place, name, *, head_bytes, order, padding, is_whole=False
):
  """Returns a chunk's first byte and size, or None.

  `is_whole` says that sizes include the heads of the chunks.
  """
  for _ in range(_MAX_CHUNKS):
    head = file.read(place, head_bytes)
    if len(head) < head_bytes:
      return None
    size = int.from_bytes(head[16 if is_whole else 4 :], order)
    if head[:4] == name:
      return place, size
    size = max(size, head_bytes) if is_whole else head_bytes + size
    place += size + -size % padding
  return None


def _w64_part(file, begin):
  found = _find_chunk(
    file,
    begin + 40,
    b"data",
    head_bytes=24,
    order="little",
    padding=8,
    is_whole=True,
  )
  if not found:
    return Part(begin, file.size, cut=_NO_SAMPLES), 0
  place, size = found
  span = _span(
    file,
    place + 24,
    size - 24 if 24 < size < _UNKNOWN_64 else None,
    form_end=begin + file.number(begin + 16, 8, "little"),
    family="w64",
    padding=8,
    next_form=file.read(begin, 16),
  )
  # libsndfile takes for samples whatever there is, even other chunks.
  part = span.part(begin)
  if span.end - place > size or size >= _UNKNOWN_64:
    header = file.read(begin, place + 24 - begin)
    right = (span.end - place).to_bytes(8, "little")
    part = part._replace(begin=place + 24, prefix=header[:-8] + right)
  return part, span.next_begin


def _aiff_part(file, begin):
  found = _find_chunk(
    file, begin + 12, b"SSND", head_bytes=8, order="big", padding=2
  )
  if not found:
    return Part(begin, file.size, cut=_NO_SAMPLES), 0
  place, size = found
  # Two numbers that nothing uses come before the samples, and are counted.
  first = place + 16
  is_unknown = size <= 8 or _is_unknown(size)
  span = _span(
    file,
    first,
    None if is_unknown else size - 8,
    form_end=begin + 8 + file.number(begin + 4, 4, "big"),
    family="aiff",
    padding=2,
    next_form=b"FORM",
  )
  part = span.part(begin)
  if is_unknown:
    return part, span.next_begin
  if span.end - first <= size - 8:
    return part._replace(end=span.next_begin or file.size), span.next_begin
  header = file.read(begin, first - begin)
  right = min(span.end - first + 8, 0xFFFFFFFF).to_bytes(4, "big")
  prefix = header[:-12] + right + header[-8:]
  return part._replace(begin=first, prefix=prefix), span.next_begin


def _au_part(file, begin):
  order = "big" if file.read(begin, 4) == b".snd" else "little"
  first = begin + file.number(begin + 4, 4, order)
  size = file.number(begin + 8, 4, order)
  span = _span(
    file,
    first,
    None if _is_unknown(size) else size,
    form_end=0,
    family="au",
    next_form=file.read(begin, 4),
  )
  part = span.part(begin)
  # Of great numbers, libsndfile knows one.
  is_odd = size == 0 or (_is_unknown(size) and size != 0xFFFFFFFF)
  if is_odd and span.end > first:
    header = file.read(begin, first - begin)
    prefix = header[:8] + b"\xff" * 4 + header[12:]
    part = part._replace(begin=first, prefix=prefix)
  return part, span.next_begin


def _caf_part(file, begin):
  found = _find_chunk(
    file, begin + 8, b"data", head_bytes=12, order="big", padding=1
  )
  if not found:
    return Part(begin, file.size, cut=_NO_SAMPLES), 0
  place, size = found
  # Four bytes, the count of edits, come before the samples.
  first = place + 16
  # Nothing says where the file ends: another one is behind its last chunk.
  following = _find_chunk(
    file, place, b"caff", head_bytes=12, order="big", padding=1
  )
  span = _span(
    file,
    first,
    size - 4 if 4 < size < _UNKNOWN_64 else None,
    form_end=following[0] if following else 0,
    family="caf",
    padding=2,  # Not of the format, but libsndfile writes it.
    next_form=b"caff\0\1",
  )
  part = span.part(begin)
  if span.end - first == size - 4:
    # libsndfile opens none with junk behind, either.
    behind = file.read(span.end, 12)
    is_chunk = _is_chunk(file, span.end) and not any(behind[4:8])
    if is_chunk or span.next_begin:
      part = part._replace(end=span.next_begin or file.size)
    return part, span.next_begin
  # libsndfile opens none whose count is not exact.
  header = file.read(begin, first - begin)
  # A piece of a frame at the end would make it wrong again.
  num_bytes = span.end - first
  num_bytes -= num_bytes % (file.number(begin + 36, 4, "big") or 1)
  right = (num_bytes + 4).to_bytes(8, "big")
  prefix = header[:-12] + right + header[-4:]
  return part._replace(begin=first, prefix=prefix), span.next_begin
