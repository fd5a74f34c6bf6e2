# SPDX-License-Identifier: Apache-2.0
"""Cuts recordings into clips where their labels are."""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tf_audioset.data import audio, audio_files, labels, records
from tf_audioset.preparation import clip_lists, event_lists
from tf_audioset.runtime import cli, storage
from tf_audioset.runtime.errors import UserError

_RATE_HZ = records.SAMPLE_RATE_HZ
# Floating point: 10.000000001 s are 10 s.
_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Options:
  """How recordings are cut.

  Attributes:
    clip_seconds: Longer events, and stretches without any, become several
      clips of equal length, none longer than this.
    min_seconds: Shorter events are widened to this, around their middles.
    unlabelled_class: The class of the stretches without any event that are at
      least `min_seconds` long; empty to leave them out.
  """

  clip_seconds: float = 10.0
  min_seconds: float = 1.0
  unlabelled_class: str = ""


class Piece(NamedTuple):
  """A clip to be cut out of a recording."""

  begin_seconds: float
  end_seconds: float
  labels: tuple[str, ...]


def pieces(
  found: Sequence[tuple[float, float, str]], seconds: float, options: Options
) -> list[Piece]:
  """Returns the clips of a recording.

  Args:
    found: Begin, end and label of each event, none of which begins behind the
      end of the recording.
    seconds: Length of the recording.
    options: How.

  Returns:
    In the order of time, and each stretch once. A clip has the labels of all
    events that overlap it by half of its length or by half of theirs.
  """
  found = [(begin, min(end, seconds), label) for begin, end, label in found]
  spans = {}
  for begin, end, _ in found:
    for span in _parts(*_widened(begin, end, seconds, options), options):
      spans[tuple(round(x, 3) for x in span)] = span
  cut = [
    Piece(begin, end, _labels_of(begin, end, found))
    for begin, end in spans.values()
  ]
  if options.unlabelled_class:
    for stretch in unlabelled(found, seconds):
      if stretch[1] - stretch[0] >= options.min_seconds - _TOLERANCE:
        own = (options.unlabelled_class,)
        cut += [Piece(*span, own) for span in _parts(*stretch, options)]
  return sorted(cut)


def unlabelled(
  found: Sequence[tuple[float, float, str]], seconds: float
) -> list[tuple[float, float]]:
  """Returns the stretches of a recording that have no event."""
  stretches, at = [], 0.0
  for begin, end, _ in sorted(found):
    if begin > at:
      stretches.append((at, min(begin, seconds)))
    at = max(at, end)
  return [*stretches, (at, seconds)] if at < seconds else stretches


def _widened(begin, end, seconds, options):
  missing = options.min_seconds - (end - begin)
  if missing > 0:
    begin, end = begin - missing / 2, end + missing / 2
    shift = max(-begin, 0) or min(seconds - end, 0)
    begin, end = begin + shift, end + shift
  return max(begin, 0.0), min(end, seconds)


def _parts(begin, end, options):
  """Cuts a stretch into equal parts of at most a clip's length."""
  num = max(math.ceil((end - begin) / options.clip_seconds - _TOLERANCE), 1)
  edges = [begin + (end - begin) * i / num for i in range(num + 1)]
  return list(zip(edges[:-1], edges[1:]))


def _labels_of(begin, end, found) -> tuple[str, ...]:
  counted = {}
  for other_begin, other_end, label in found:
    overlap = min(end, other_end) - max(begin, other_begin)
    half = min(end - begin, other_end - other_begin) / 2
    # An event without length is in a clip that its place is in.
    if overlap >= half - _TOLERANCE and (half > 0 or overlap >= 0):
      counted[label] = None
  return tuple(sorted(counted))


class _Recording(NamedTuple):
  """A recording with its events, and what became of it."""

  path: str
  name: str
  found: list[tuple[float, float, str]]


def read(
  events_tsv: str,
  audio_dir: str,
  clips_dir: str,
  options: Options,
  *,
  labels_map: str | None = None,
  label_column: str | None = None,
  num_workers: int = 1,
) -> clip_lists.ClipList:
  """Cuts recordings into clips.

  Args:
    events_tsv: A table or a folder for `event_lists.read`.
    audio_dir: The folder of the recordings, on a disk.
    clips_dir: Where the clips go, as FLAC files in a folder for each class.
    options: How.
    labels_map: A file for `labels.from_map`. None if the classes are the
      labels of the events, sorted.
    label_column: For `event_lists.read`.
    num_workers: Recordings that are cut at the same time.

  Returns:
    The clips, whose ids are the recording's path and the times in seconds. What
    cannot be cut is a clip with the problem that keeps it out.

  Raises:
    UserError: If a table cannot be read, or fits no or several recordings.
  """
  if "://" in audio_dir + events_tsv:
    raise UserError(
      "--events_tsv: recordings are cut on a disk, not in a bucket."
    )
  found = audio_files.find(audio_dir)
  rows = event_lists.read(events_tsv, label_column)
  by_path, missing = _by_recording(rows, audio_dir, found.paths)
  known = {event.label for event in rows if event.label}
  known |= {options.unlabelled_class} - {""}
  if not known:
    raise UserError(f"{events_tsv}: has no event.")
  if labels_map:
    classes = labels.from_map(labels_map)
  else:
    classes = labels.ClassList.from_names(sorted(known))
  recordings = [
    _Recording(path, os.path.relpath(path, audio_dir), of_path)
    for path, of_path in by_path.items()
  ]
  clips, lines, left_seconds = [], [], 0.0
  lookup = labels.Lookup(classes, "\n")
  with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
    with cli.progress_bar(len(recordings), "cut", " recordings") as bar:
      jobs = [
        pool.submit(_cut, one, clips_dir, options, lookup) for one in recordings
      ]
      for job in jobs:
        of_recording, seconds = job.result()
        clips += of_recording
        left_seconds += seconds
        bar.update(1)
  clips += [
    clip_lists.Clip(
      f"{event.recording}@{event.begin_seconds:.3f}",
      None,
      tuple(lookup.find(event.label)[0]),
      {"missing": ""},
    )
    for event in missing
  ]
  lines.append(
    f"{sum(bool(event.label) for event in rows):,} events in "
    f"{len(recordings):,} recordings: {len(clips):,} clips"
  )
  if left_seconds >= 1 and not options.unlabelled_class:
    lines.append(
      f"{left_seconds / 60:,.1f} min without an event are left out; "
      "--unlabelled_class=NAME makes clips of them"
    )
  unknown = collections.Counter(
    event.label
    for event in rows
    if event.label and not lookup.find(event.label)[0]
  )
  return clip_lists.ClipList(
    events_tsv,
    classes,
    clips,
    clip_lists.unused(found, ([path] for path in by_path)),
    audio_dir,
    len(found),
    remarks=lines,
    warnings=_strangers(clips_dir, clips),
    num_labels=sum(bool(event.label) for event in rows),
    unknown_labels=unknown,
  )


def _strangers(clips_dir, clips) -> list[str]:
  """Returns a line on clips of other runs in the folder."""
  own = {clip.path for clip in clips}
  others = [
    path
    for folder, _, names in os.walk(clips_dir)
    for path in (os.path.join(folder, name) for name in names)
    if path not in own
  ]
  if not others:
    return []
  return [
    f"{clips_dir} holds {len(others):,} files that are not of this run, such "
    f"as {min(others)}"
  ]


def _by_recording(rows, audio_dir, paths):
  """Events by the path of their recording, and those whose there is none."""
  places, by_path, missing = {}, {}, []
  for event in rows:
    name = event.recording
    if name not in places:
      fitting = event_lists.find_recording(name, audio_dir, paths)
      if len(fitting) > 1:
        raise UserError(
          f"{event.table}, line {event.line}: {name!r} fits {len(fitting)} "
          f"recordings, such as {fitting[0]} and {fitting[1]}: give the path "
          "below --audio_dir."
        )
      places[name] = fitting[0] if fitting else None
    if places[name] is None:
      missing.append(event)
      continue
    of_path = by_path.setdefault(places[name], [])
    if event.label:
      of_path.append((event.begin_seconds, event.end_seconds, event.label))
  return by_path, missing


def _cut(recording, clips_dir, options, lookup):
  """Writes the clips of a recording; returns them, and unlabelled seconds."""
  with tempfile.TemporaryFile() as file:
    problem = _decode(recording.path, file)
    num_samples = file.tell() // 2
    seconds = num_samples / _RATE_HZ
    inside = [event for event in recording.found if event[0] < seconds]
    clips = [
      _failed(recording, event, lookup, problem)
      for event in recording.found
      if problem or event[0] >= seconds
    ]
    if problem:
      why = {"undecodable": problem}
      alone = clip_lists.Clip(recording.name, recording.path, (), why)
      return clips or [alone], 0.0
    file.flush()
    samples = np.memmap(file, "<i2", "r")
    for piece in pieces(inside, seconds, options):
      clips.append(_write(recording, piece, samples, clips_dir, lookup))
  left = sum(end - begin for begin, end in unlabelled(inside, seconds))
  return clips, left


def _decode(path, file) -> str:
  """Writes a recording's samples to a file; returns why it cannot be read."""
  try:
    for block in audio.read_blocks(path, sample_rate_hz=_RATE_HZ):
      file.write(audio.to_int16(block).astype("<i2").tobytes())
  except audio.AudioError as e:
    return str(e).removeprefix(f"{path}: ")
  return ""


def _failed(recording, event, lookup, problem):
  begin, end, label = event
  why = (
    {"undecodable": problem}
    if problem
    else {"missing": "the event begins behind the end of the recording"}
  )
  name = f"{recording.name}@{begin:.3f}-{end:.3f}"
  return clip_lists.Clip(
    name, recording.path, tuple(lookup.find(label)[0]), why
  )


def _write(recording, piece, samples, clips_dir, lookup) -> clip_lists.Clip:
  begin, end = (round(x * _RATE_HZ) for x in piece[:2])
  content = audio.encode(np.array(samples[begin:end]), _RATE_HZ, "flac")
  times = f"{piece.begin_seconds:.3f}-{piece.end_seconds:.3f}"
  found = [lookup.find(label) for label in piece.labels]
  indices = [i for known, _ in found for i in known]
  unknown = [label for _, others in found for label in others]
  folder = re.sub(r"[/\\\0]", "_", piece.labels[0]).strip(". ")[:60] or "_"
  path = os.path.join(clips_dir, folder, f"{recording.name}_{times}.flac")
  os.makedirs(os.path.dirname(path), exist_ok=True)
  # A file that is the same keeps its time, so that its record need not be made
  # again.
  if not _holds(path, content):
    storage.write_file(path, content)
  problems = {}
  if unknown:
    key = "partly_unknown_labels" if indices else "unknown_label"
    problems[key] = ",".join(unknown)
  return clip_lists.Clip(
    f"{recording.name}@{times}", path, tuple(dict.fromkeys(indices)), problems
  )


def _holds(path, content) -> bool:
  try:
    with open(path, "rb") as file:
      return file.read() == content
  except OSError:
    return False
