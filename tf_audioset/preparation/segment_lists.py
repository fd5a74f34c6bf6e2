# SPDX-License-Identifier: Apache-2.0
"""AudioSet's lists of segments, and the files that were downloaded for them.

Every path may be in a bucket.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Sequence

from tf_audioset.data import audio_files, labels
from tf_audioset.preparation import clip_files, clip_lists
from tf_audioset.runtime import tables
from tf_audioset.runtime.errors import UserError


def read(
  segments_csv: str,
  class_labels_csv: str | None,
  audio_dir: str,
  *,
  separator: str | None = None,
) -> clip_lists.ClipList:
  """Reads AudioSet's form.

  Args:
    segments_csv: Lines of `YTID, start, end, "mid,mid"`, and of `# ...`.
    class_labels_csv: index,mid,display_name; None for AudioSet's own.
    audio_dir: Holds the files, in subfolders or not; `clip_files.of_segments`
      tells how they may be called.
    separator: Between cells; None to recognise it.

  Returns:
    The clips, whose ids are those of the videos, with the start behind it if
    the list has several segments of the video.

  Raises:
    UserError: If a file is not of that form.
  """
  if class_labels_csv:
    classes = labels.ClassList.from_csv(class_labels_csv)
  else:
    classes = labels.ClassList.audioset()
  table = tables.read(
    segments_csv,
    separator=separator,
    is_right=lambda cells: len(cells) == 4,
    has_comments=True,
  )
  lookup = labels.Lookup(classes)
  cells = [*_segments(table)]
  segments = [segment for _, segment, _ in cells]
  found_files = audio_files.find(audio_dir)
  distinct = list(dict.fromkeys(segments))
  files = dict(
    zip(distinct, clip_files.of_segments(distinct, found_files.paths))
  )
  starts = {(segment.video, segment.start_seconds) for segment in distinct}
  num_starts = collections.Counter(video for video, _ in starts)
  rows = []
  for line, segment, mids in cells:
    clip_id = segment.video
    if num_starts[segment.video] > 1:
      clip_id += f"_{segment.start_seconds * 1000:.0f}"
    seconds = round(segment.end_seconds - segment.start_seconds, 3)
    rows.append(
      clip_lists.Row(
        line,
        clip_id,
        clip_id,
        files[segment],
        *lookup.find(mids),
        seconds=seconds if seconds > 0 else None,
      )
    )
  return dataclasses.replace(
    clip_lists.from_rows(segments_csv, classes, rows),
    folder=audio_dir,
    num_files=len(found_files),
    passed_over=clip_lists.unused(found_files, files.values()),
  )


# Names of the columns, in the order of lists without names.
_COLUMNS = (
  ("ytid", "youtube_id", "yt_id", "video_id"),
  ("start_seconds", "start", "start_time", "start_time_seconds"),
  ("end_seconds", "end", "end_time", "end_time_seconds"),
  ("positive_labels", "labels", "mids"),
)
_WANTED = (
  'wanted is YTID, start, end, "mid,mid" in each line; other lists can be '
  "given as --manifest_csv, with the columns files,labels."
)


def _segments(
  table: tables.Table,
) -> Iterator[tuple[int, clip_files.Segment, str]]:
  """Yields line, segment and labels of each row."""
  places, width, num_heads = _places(table)
  for line, row in zip(table.lines[num_heads:], table.rows[num_heads:]):
    row = tables.without_empty_end(row, width)
    if len(row) != width:
      quotes = "; several labels need quotes" if len(row) > width else ""
      raise UserError(
        f'{table.path}, line {line}: expected YTID, start, end, "mids", '
        f"found {', '.join(row)}{quotes}."
      )
    video, start, end, mids = (row[place] for place in places)
    video = tables.unquoted(video)
    try:
      segment = clip_files.Segment(video, float(start), float(end))
      if not math.isfinite(segment.start_seconds + segment.end_seconds):
        raise ValueError
    except ValueError:
      like = ""
      if mids in ("train", "test"):
        like = " (YTID, start, label, split is the form of VGGSound's list)"
      raise UserError(
        f"{table.path}, line {line}: {video}: start {start!r} and end {end!r} "
        f"must be seconds{like}; {_WANTED}"
      ) from None
    yield line, segment, mids


def _places(table: tables.Table) -> tuple[Sequence[int], int, bool]:
  """Returns the places of the columns, how many there are, and if named."""
  heads = [tables.column_key(cell) for row in table.rows[:1] for cell in row]
  if "segment_id" in heads:
    raise UserError(
      f"{table.path}: found {tables.shown(table.rows[0])}, the form of "
      f"AudioSet's strong labels, whose rows are events in a clip; {_WANTED}"
    )
  # The official eval list has no # before the names of its columns.
  if not any(name in heads for name in _COLUMNS[0]):
    return range(len(_COLUMNS)), len(_COLUMNS), False
  places = [
    next((i for i, head in enumerate(heads) if head in names), None)
    for names in _COLUMNS
  ]
  if None in places:
    found = tables.shown(table.rows[0])
    raise UserError(f"{table.path}: found the columns {found}; {_WANTED}")
  return places, len(heads), True
