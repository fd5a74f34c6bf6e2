# SPDX-License-Identifier: Apache-2.0
"""Rows and files find each other, whatever the files are called."""

import unicodedata

import pytest

from tf_audioset.preparation import clip_files

_ID = "AbCdEf-_012"


def _found(names, *segments) -> list[list[str]]:
  paths = sorted(f"/in/{name}" for name in names)
  segments = [clip_files.Segment(*segment) for segment in segments]
  found = clip_files.of_segments(segments, paths)
  return [[path.removeprefix("/in/") for path in files] for files in found]


@pytest.mark.parametrize(
  "name",
  [
    "{}.wav",
    "Y{}.flac",
    "{}_30.mp3",
    "Y{}_30_40.ogg",
    "{}_30.000.opus",
    "{}_30.000_40.000.m4a",
    "deep/er/{}_30000.webm",
    "deep/Y{}_30000_40000.MP4",
    # Of downloaders in use.
    "Speech/{}_30.0-40.0.wav",
    "{}_30-40.wav",
    "{}_30000-40000.wav",
    "00000/id_{}.wav",
    "{0}_{0}.wav",
    "{}_000030.wav",
    "{}_000030_000040.mp4",
    "{}_30.0.wav",
    "{}_30.00_40.00.WAV",
    "{}-30.0-40.0.wav",
    "{}.30-40.wav",
    "{}_30s-40s.wav",
    "{}_start_30_end_40.wav",
    "{}_30_10.wav",
    "Some title [{}].wav",
    "A [live] title [{}].f251.webm",
    "Some title-{}.m4a",
    "003 - Some title 44 ({}).wav",
    "audio_{}_30.000.wav",
    "{}.mp4.wav",
    "{}_16kHz.wav",
    "{}_mono16.flac",
  ],
)
@pytest.mark.parametrize(
  "video", [_ID, "-dash_Start", "_underscore", "0123456789-", "trailing1__"]
)
def test_a_segment_finds_its_file(name, video):
  name = name.format(video)
  assert _found([name, f"{video}_31000.flac"], (video, 30.0, 40.0)) == [[name]]


@pytest.mark.parametrize("video", ["-dash_Start0", "Yes.it-is1", "one"])
@pytest.mark.parametrize(
  "name", ["{}.wav", "Y{}_30.flac", "id_{}_30.0-40.0.wav"]
)
def test_ids_of_any_length_are_found_in_front(video, name):
  name = name.format(video)
  decoys = [f"x{video}.wav", f"{video}x.wav", f"some{video}.wav"]
  assert _found([name, *decoys], (video, 30.0, 40.0)) == [[name]]


@pytest.mark.parametrize(
  "name",
  [
    "{}_31000.wav",  # Other segments.
    "{}_31.wav",
    "{}_0.000_10.000.wav",
    "{}_40.wav",
    "{}_31s-41s.wav",
    "x{}.wav",  # Other words.
    "{}x.wav",
    "{}9.wav",
  ],
)
def test_what_only_looks_like_it_is_not_taken(name):
  assert _found([name.format(_ID)], (_ID, 30.0, 40.0)) == [[]]


def test_starts_are_compared_as_numbers():
  for name in ("_5.120", "_5.12", "_5120", "_5", "_00005", "_5.12-15.12"):
    assert _found([f"{_ID}{name}.wav"], (_ID, 5.12, 15.12)) == [
      [f"{_ID}{name}.wav"]
    ]
  for name in ("_5.1", "_6", "_5.2", "_512"):
    assert _found([f"{_ID}{name}.wav"], (_ID, 5.12, 15.12)) == [[]]
  # 0 is the same in seconds and in milliseconds.
  assert _found([f"{_ID}_0.wav"], (_ID, 0.0, 10.0)) == [[f"{_ID}_0.wav"]]


def test_of_several_files_the_order_is_the_documented_one():
  names = [
    f"b/{_ID}.wav",
    f"c/{_ID}.flac",
    f"{_ID}_30.wav",
    f"{_ID}_30_40.wav",
    f"{_ID}_30.000.wav",
    f"{_ID}_30.000_40.000.wav",
    f"{_ID}_30000.wav",
    f"{_ID}_30000_40000.wav",
    f"Y{_ID}.wav",
    f"Y{_ID}_30000.wav",
    f"{_ID}_30.0-40.0.wav",
    f"a title [{_ID}].wav",
    f"id_{_ID}.wav",
  ]
  assert _found(names, (_ID, 30.0, 40.0)) == [names]


def test_segments_of_one_video_get_their_own_files():
  names = [
    f"{_ID}.wav",
    f"{_ID}_30.0-40.0.wav",
    f"{_ID}_60000.wav",
    f"[{_ID}].wav",
  ]
  assert _found(
    names, (_ID, 30.0, 40.0), (_ID, 60.0, 70.0), (_ID, 90.0, 100.0)
  ) == [[names[1]], [names[2]], []]


def test_the_id_in_brackets_or_the_last_one_counts():
  other = "0123456789a"
  names = [
    f"{other} [{_ID}].wav",
    f"[{other}] x-{_ID}.wav",
    f"{_ID} {other}.wav",
  ]
  assert _found(names, (_ID, 0.0, 10.0), (other, 0.0, 10.0)) == [
    [names[0]],
    [names[2], names[1]],
  ]


def _named(there, *names) -> tuple[dict, dict]:
  paths = sorted(f"/in/{name}" for name in there)
  found, unclear = clip_files.of_names(
    names, clip_files.Collection(paths, "/in")
  )
  return (
    {name: [path[4:] for path in files] for name, files in found.items()},
    {name: path[4:] for name, path in unclear.items()},
  )


@pytest.mark.parametrize(
  ("there", "name"),
  [
    ("a/b.wav", "a/b.wav"),
    ("a/b.wav", "./a//b.wav"),
    ("a/b.wav", "a\\b.wav"),
    ("b.wav", "audio/b.wav"),
    ("a/b.wav", "/kaggle/input/a/b.wav"),
    ("a/b.wav", "b.wav"),
    ("a/b.wav", "b"),
    ("a/b.WAV", "a/b.wav"),
    ("14/214.low.mp3", "14/214.low.mp3"),
    ("14/214.flac", "14/214.mp3"),
    ("blues/blues.00000.au", "blues.00000"),
    (unicodedata.normalize("NFD", "caf\u00e9.wav"), "caf\u00e9.wav"),
    ("caf\u00e9.wav", unicodedata.normalize("NFD", "caf\u00e9.wav")),
  ],
)
def test_a_name_finds_its_file(there, name):
  assert _named([there, "else/other.wav"], name) == ({name: [there]}, {})


@pytest.mark.parametrize("name", ["c.wav", "b.mp3x", "a", "b.wav/x", "B.wav"])
def test_a_name_finds_no_other_file(name):
  assert _named(["a/b.wav"], name) == ({}, {})


def test_a_file_that_one_name_tells_is_not_taken_for_another():
  # Of two folders with the same names one is incomplete.
  there = ["a/1.wav", "b/2.wav"]
  assert _named(there, "a/1.wav", "b/1.wav", "a/2.wav", "b/2.wav") == (
    {"a/1.wav": ["a/1.wav"], "b/2.wav": ["b/2.wav"]},
    {},
  )
  # None of them tells it better than the other.
  assert _named(["1.wav"], "a/1.wav", "b/1.wav") == (
    {},
    {"a/1.wav": "1.wav", "b/1.wav": "1.wav"},
  )


def test_of_several_files_of_a_name_the_first_path_counts():
  assert _named(["fold2/1.wav", "fold1/1.wav"], "1.wav") == (
    {"1.wav": ["fold1/1.wav", "fold2/1.wav"]},
    {},
  )


def test_files_beside_a_list_are_found(tmp_path):
  (tmp_path / "a").mkdir()
  for name in ("a/1.wav", "a/2.WAV", "a/3.flac", "a/4.txt", "caf\u00e9.wav"):
    (tmp_path / name).touch()
  decomposed = unicodedata.normalize("NFD", "caf\u00e9.wav")
  names = ["a/1.wav", "a\\1.wav", "a/2.wav", "a/3", "a/4", "5.wav", decomposed]
  names += [str(tmp_path / "a" / "3.flac"), "gs://bucket/x.wav"]
  found, unclear = clip_files.of_names(names, clip_files.Places(str(tmp_path)))
  assert not unclear
  assert found == {
    "a/1.wav": [f"{tmp_path}/a/1.wav"],
    "a/2.wav": [f"{tmp_path}/a/2.WAV"],
    decomposed: [f"{tmp_path}/caf\u00e9.wav"],
    f"{tmp_path}/a/3.flac": [f"{tmp_path}/a/3.flac"],
    "gs://bucket/x.wav": ["gs://bucket/x.wav"],
  }
