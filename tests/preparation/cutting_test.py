# SPDX-License-Identifier: Apache-2.0
"""Where recordings are cut, and what the clips are called and hold."""

import os

import numpy as np
import pytest
import soundfile

from tf_audioset.preparation import cutting
from tf_audioset.runtime.errors import UserError

_OPTIONS = cutting.Options(clip_seconds=10, min_seconds=1)


@pytest.mark.parametrize(
  ("found", "expected"),
  [
    ([(2, 4, "a")], [(2, 4, "a")]),
    # Long ones become equal parts.
    (
      [(5, 30, "a")],
      [(5, 40 / 3, "a"), (40 / 3, 65 / 3, "a"), (65 / 3, 30, "a")],
    ),
    ([(5, 15, "a")], [(5, 15, "a")]),
    # Short ones are widened, at the ends to one side.
    ([(20, 20.5, "a")], [(19.75, 20.75, "a")]),
    ([(0.1, 0.2, "a")], [(0, 1, "a")]),
    ([(59.9, 99, "a")], [(59, 60, "a")]),
    ([(30, 30, "a")], [(29.5, 30.5, "a")]),
    # One that is half in another, or has it half in itself, is in it too.
    ([(10, 14, "a"), (12, 13, "b")], [(10, 14, "ab"), (12, 13, "ab")]),
    ([(10, 14, "a"), (12, 17, "b")], [(10, 14, "ab"), (12, 17, "ab")]),
    ([(10, 14, "a"), (13, 17, "b")], [(10, 14, "a"), (13, 17, "b")]),
    ([(10, 14, "a"), (14, 16, "b")], [(10, 14, "a"), (14, 16, "b")]),
    # The same stretch is one clip.
    ([(10, 14, "b"), (10, 14, "a")], [(10, 14, "ab")]),
  ],
)
def test_pieces_of_a_minute(found, expected):
  got = cutting.pieces(found, 60.0, _OPTIONS)
  assert len(got) == len(expected)
  for piece, (begin, end, labels) in zip(got, expected):
    assert piece[:2] == pytest.approx((begin, end))
    assert piece.labels == tuple(labels)


@pytest.mark.parametrize("seed", range(20))
def test_what_has_no_event_is_cut_on_demand(seed):
  """On a grid of tenths of seconds, against counting them."""
  rng = np.random.default_rng(seed)
  found, is_labelled = [], np.zeros(600, bool)
  for _ in range(rng.integers(0, 7)):
    begin, length = rng.integers(0, 600), rng.integers(0, 120)
    found.append((begin / 10, (begin + length) / 10, "a"))
    is_labelled[begin : begin + length] = True
  options = cutting.Options(unlabelled_class="none")
  got = [
    piece
    for piece in cutting.pieces(found, 60.0, options)
    if piece.labels == ("none",)
  ]
  covered = np.zeros(600, int)
  for begin, end, _ in got:
    assert 1 - 1e-6 <= end - begin <= 10 + 1e-6
    # Places in each tenth that are no edge of equal parts.
    places = (np.arange(600) + 0.4371) / 10
    covered += (begin < places) & (places < end)
  edges = np.flatnonzero(np.diff(np.r_[1, is_labelled, 1]))
  # Points without length divide a stretch, too.
  points = [round(begin * 10) for begin, end, _ in found if begin == end]
  expected = np.zeros(600, int)
  for begin, end in zip(edges[::2], edges[1::2]):
    inner = [begin, *sorted(p for p in points if begin < p < end), end]
    for a, b in zip(inner[:-1], inner[1:]):
      expected[a:b] = b - a >= 10
  np.testing.assert_array_equal(covered, expected)


def _recordings(folder):
  """Two of 20 s whose samples tell their place; one that is broken."""
  rng = np.random.default_rng(0)
  waves = {}
  for name in ("day1/rec.wav", "day2/rec.flac"):
    (folder / name).parent.mkdir(parents=True)
    waves[name] = rng.integers(-9999, 9999, 320000).astype(np.int16)
    soundfile.write(folder / name, waves[name], 16000)
  (folder / "broken.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
  soundfile.write(folder / "other.wav", np.zeros(99), 16000)
  return waves


def test_clips_hold_what_is_at_their_times(tmp_path):
  waves = _recordings(tmp_path / "audio")
  table = tmp_path / "events.tsv"
  table.write_text(
    "filename\tonset\toffset\tlabel\n"
    "day1/rec.wav\t2\t4.5\tDog\n"
    "day1/rec.wav\t25\t26\tDog\n"
    "day2/rec.flac\t19.5\t21\tA/B\n"
    "broken.wav\t0\t1\tDog\n"
    "none.wav\t0\t1\tDog\n"
  )
  found = cutting.read(
    str(table), str(tmp_path / "audio"), str(tmp_path / "clips"), _OPTIONS
  )
  assert found.classes.names == ("A/B", "Dog")
  clips = {clip.id: clip for clip in found.clips}
  good = clips["day1/rec.wav@2.000-4.500"], clips["day2/rec.flac@19.000-20.000"]
  for clip, samples, label in (
    (good[0], waves["day1/rec.wav"][32000:72000], 1),
    (good[1], waves["day2/rec.flac"][304000:], 0),
  ):
    assert not clip.problems and clip.labels == (label,)
    np.testing.assert_array_equal(
      soundfile.read(clip.path, dtype="int16")[0], samples
    )
  assert good[0].path == str(
    tmp_path / "clips" / "Dog" / "day1" / "rec.wav_2.000-4.500.flac"
  )
  problems = {i: next(iter(c.problems), None) for i, c in clips.items()}
  assert problems == {
    "day1/rec.wav@2.000-4.500": None,
    "day2/rec.flac@19.000-20.000": None,
    "day1/rec.wav@25.000-26.000": "missing",
    "broken.wav@0.000-1.000": "undecodable",
    "none.wav@0.000": "missing",
  }
  assert [*found.passed_over] == [str(tmp_path / "audio" / "other.wav")]
  assert found.remarks == [
    "5 events in 3 recordings: 5 clips",
    "0.6 min without an event are left out; --unlabelled_class=NAME makes "
    "clips of them",
  ]


def test_clips_of_other_runs_are_told_and_equal_ones_kept(tmp_path):
  _recordings(tmp_path / "audio")
  table, clips = tmp_path / "events.tsv", tmp_path / "clips"

  def cut(begin):
    table.write_text(f"onset\toffset\tlabel\tfile\n{begin}\t9\tDog\tday1/rec\n")
    return cutting.read(
      str(table), str(tmp_path / "audio"), str(clips), _OPTIONS
    )

  (first,) = cut(2).clips
  before = os.stat(first.path).st_mtime_ns
  assert not cut(2).warnings and os.stat(first.path).st_mtime_ns == before
  (warning,) = cut(3).warnings
  assert f"holds 1 files that are not of this run, such as {first.path}" in (
    warning
  )


def test_tables_that_fit_several_recordings_are_refused(tmp_path):
  _recordings(tmp_path / "audio")
  (tmp_path / "audio" / "day1" / "rec.flac").write_bytes(
    (tmp_path / "audio" / "day2" / "rec.flac").read_bytes()
  )
  (tmp_path / "e.tsv").write_text(
    "filename\tonset\toffset\tlabel\nrec.flac\t0\t1\tDog\n"
  )
  with pytest.raises(UserError, match=r"line 2: 'rec.flac' fits 2 recordings"):
    cutting.read(
      str(tmp_path / "e.tsv"), str(tmp_path / "audio"), "none", _OPTIONS
    )
