# SPDX-License-Identifier: Apache-2.0
"""Audio files through an exported model: whole, or along their time.

Files are decoded by threads while the model works on those before.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable, Iterator

import numpy as np

from tf_audioset.data import audio
from tf_audioset.serving import exported_tagger, signatures

_GROUP_SECONDS = 320.0
_DECODED_AHEAD = 32
# A clip alone, of its own length, does not keep all cores at work.
_SCORED_AT_ONCE = 2
_PART_SECONDS = 10.0
# Below this, a sample of 16 bits is 0.
DIGITAL_SILENCE = 1 / 65536

SILENT = "holds digital silence and nothing else"


@dataclasses.dataclass
class Clip:
  """A file, scored whole."""

  file: str
  seconds: float
  scores: np.ndarray  # float32 [num_classes]
  embedding: np.ndarray  # float32 [size]
  # What one should know of the file to make sense of the scores.
  remarks: tuple[str, ...] = ()


def score_files(
  tagger: exported_tagger.ExportedTagger,
  files: Iterable[str],
  *,
  group_clips: int = 32,
) -> Iterator[Clip | audio.AudioError]:
  """Scores files whole; files of one length are scored together.

  Those that the model pads have one length then.

  Args:
    tagger: The model, or a `serving.ServedTagger`.
    files: Paths.
    group_clips: Of so many, in their order, those of one length are scored at
      once; of fewer, if they are long.

  Yields:
    In the order of the files a `Clip`, or why there is none.
  """
  yield from score_decoded(
    tagger,
    decode_files(files, tagger.sample_rate_hz),
    group_clips=group_clips,
  )


def decode_files(
  files: Iterable[str], sample_rate_hz: int
) -> Iterator[tuple[str, audio.Decoded | audio.AudioError]]:
  """Reads files, ahead of their being asked for.

  Args:
    files: Paths.
    sample_rate_hz: Wanted rate.

  Yields:
    In the order of the files: path, and what is in it or why that is not known.
  """

  def decode(file):
    try:
      # A little more than the model takes, so that the rest is seen.
      decoded = audio.read(
        file,
        sample_rate_hz=sample_rate_hz,
        max_seconds=signatures.MAX_CLIP_SECONDS + 1,
      )
    except audio.AudioError as e:
      return file, e
    if len(decoded.waveform) > signatures.MAX_CLIP_SECONDS * sample_rate_hz:
      return file, audio.AudioError(
        f"{file}: is longer than {signatures.MAX_CLIP_SECONDS} s, too long to "
        "be scored whole; tools/predict.py --timeline scores it by windows"
      )
    return file, decoded

  num_threads = min(os.cpu_count() or 1, 4)
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    waiting = collections.deque()
    for file in files:
      waiting.append(pool.submit(decode, file))
      if len(waiting) > _DECODED_AHEAD:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()


def score_decoded(
  tagger: exported_tagger.ExportedTagger,
  decoded_files: Iterable[tuple[str, audio.Decoded | audio.AudioError]],
  *,
  group_clips: int = 32,
) -> Iterator[Clip | audio.AudioError]:
  """Scores what `decode_files` yields; see `score_files`."""
  group, seconds = [], 0.0
  for file, decoded in decoded_files:
    group.append((file, decoded))
    if isinstance(decoded, audio.Decoded):
      seconds += len(decoded.waveform) / tagger.sample_rate_hz
    if len(group) == group_clips or seconds > _GROUP_SECONDS:
      yield from _score_group(tagger, group)
      group, seconds = [], 0.0
  yield from _score_group(tagger, group)


def _score_group(tagger, group):
  by_length = collections.defaultdict(dict)
  for i, (_, decoded) in enumerate(group):
    if isinstance(decoded, audio.Decoded):
      padded = tagger.pad(decoded.waveform)
      by_length[len(padded)][i] = padded

  def score(members):
    return zip(members, zip(*tagger.score(np.stack([*members.values()]))))

  results = {}
  with concurrent.futures.ThreadPoolExecutor(_SCORED_AT_ONCE) as pool:
    for scored in pool.map(score, by_length.values()):
      results.update(scored)
  for i, (file, decoded) in enumerate(group):
    if i in results:
      seconds = len(decoded.waveform) / tagger.sample_rate_hz
      yield Clip(file, seconds, *results[i], _remarks(decoded))
    else:
      yield decoded


def _remarks(decoded: audio.Decoded) -> tuple[str, ...]:
  peak = np.abs(decoded.waveform).max()
  if peak < DIGITAL_SILENCE and not decoded.remarks:
    return (SILENT,)
  return decoded.remarks


@dataclasses.dataclass
class Part:
  """The next windows of a recording."""

  waveform: np.ndarray  # float32 [num_samples]: what follows the part before
  begin_seconds: np.ndarray  # float64 [num_windows]
  end_seconds: np.ndarray  # float64 [num_windows]
  scores: np.ndarray  # float32 [num_windows, num_classes]
  remarks: tuple[str, ...] = ()  # Of the last part: those of `Clip`.


def score_windows(
  tagger: exported_tagger.ExportedTagger,
  file: str,
  *,
  window_seconds: float,
  hop_seconds: float,
) -> Iterator[Part]:
  """Scores a recording by windows, in memory that does not grow with it.

  The windows are those that the signature `timeline` makes of the whole.

  Args:
    tagger: The model.
    file: Path.
    window_seconds: Length of a window, at most `signatures.MAX_CLIP_SECONDS`.
    hop_seconds: From the beginning of one to that of the next.

  Yields:
    The parts, of about ten seconds each.

  Raises:
    audio.AudioError: As `audio.read_audio` does; parts may be out by then.
    ValueError: If the model has no such signature.
  """
  rate_hz = tagger.sample_rate_hz
  # As the graph, which takes float32, counts them.
  window, hop = (
    max(round(float(np.float32(seconds)) * rate_hz), 1)
    for seconds in (window_seconds, hop_seconds)
  )
  windows_a_part = max(round(_PART_SECONDS * rate_hz / hop), 1)
  begin, waiting, num_waiting, unseen = 0, [], 0, []

  def part(waveform, num_scored, remarks=()):
    scores = tagger.timeline(waveform[:num_scored], window_seconds, hop_seconds)
    # The last window of a recording is moved back to end with it.
    last = max(num_scored - window, 0)
    begins = begin + np.minimum(np.arange(len(scores)) * hop, last)
    ends = begins + min(window, num_scored)
    new = np.concatenate([*unseen, waveform[:0]])
    unseen.clear()
    return Part(new, begins / rate_hz, ends / rate_hz, scores, tuple(remarks))

  wanted = windows_a_part * hop + window
  remarks = []
  blocks = audio.read_blocks(file, sample_rate_hz=rate_hz, remarks=remarks)
  peak = 0.0
  for block in ahead(blocks):
    peak = max(peak, np.abs(block).max())
    waiting.append(block)
    unseen.append(block)
    num_waiting += len(block)
    # The window after the part's must be whole, too: the last one is moved.
    if num_waiting < wanted:
      continue
    waveform = np.concatenate(waiting)
    while len(waveform) >= wanted:
      yield part(waveform, wanted - hop)
      begin += windows_a_part * hop
      waveform = waveform[windows_a_part * hop :]
    waiting, num_waiting = [waveform], len(waveform)
  if peak < DIGITAL_SILENCE and not remarks:
    remarks.append(SILENT)
  yield part(np.concatenate(waiting), num_waiting, remarks)


def ahead(items: Iterator) -> Iterator:
  """Yields the items, each made by a thread while the one before is used."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    coming = pool.submit(next, items, None)
    while (item := coming.result()) is not None:
      coming = pool.submit(next, items, None)
      yield item


def clock(seconds: float) -> str:
  """Formats seconds as 0:02:05 or, not at a full second, 0:02:05.25."""
  hundredths = round(seconds * 100)
  whole, rest = divmod(hundredths, 100)
  text = f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
  return text + f".{rest:02}".rstrip("0") if rest else text
