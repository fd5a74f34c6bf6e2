# SPDX-License-Identifier: Apache-2.0
"""AudioSet's lists, as they are published and as people store them."""

import csv

import pytest

from tests import reference
from tf_audioset.preparation import clip_lists, segment_lists

_CLASSES = 'index,mid,display_name\n0,/m/a,"A, first"\n1,/m/b,B\n'


def _read(tmp_path, text, files=(), **kwargs) -> clip_lists.ClipList:
  (tmp_path / "classes.csv").write_text(_CLASSES)
  content = text if isinstance(text, bytes) else text.encode()
  (tmp_path / "list.csv").write_bytes(content)
  for name in files:
    path = tmp_path / "audio" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  (tmp_path / "audio").mkdir(exist_ok=True)
  return segment_lists.read(
    str(tmp_path / "list.csv"),
    str(tmp_path / "classes.csv"),
    str(tmp_path / "audio"),
    **kwargs,
  )


@pytest.mark.parametrize(
  ("name", "num_rows", "num_positives"),
  [
    ("balanced_train_segments.csv", 22160, 52882),
    ("eval_segments.csv", 20371, 51804),
  ],
)
def test_official_lists_are_read_whole(tmp_path, name, num_rows, num_positives):
  found = segment_lists.read(
    str(reference.golden(name)),
    str(reference.golden("class_labels_indices.csv")),
    str(tmp_path),
  )
  assert found.classes.is_audioset and len(found.clips) == num_rows
  # As the list's own second line says.
  assert sum(len(clip.labels) for clip in found.clips) == num_positives
  assert found.num_labels == num_positives and not found.unknown_labels
  assert {tuple(clip.problems) for clip in found.clips} == {("missing",)}
  # Some are at the end of a video.
  assert max(clip.seconds for clip in found.clips) == 10.0
  # Without a class list, it is the one that the package has.
  short = tmp_path / "short.csv"
  lines = reference.golden(name).read_text().splitlines()[:13]
  short.write_text("\n".join(lines))
  own = segment_lists.read(str(short), None, str(tmp_path))
  assert own.classes == found.classes
  assert own.clips == found.clips[:10]


def test_a_row_has_its_file_its_labels_and_its_length(tmp_path):
  found = _read(
    tmp_path,
    'one_1234567, 30.000, 39.5, "/m/b,/m/a"\n',
    [
      "deep/Yone_1234567_30000.mp3",
      "one_1234567.txt",
      "one_1234567_31000.wav",
      "one_1234567_30.0-39.5.wav",
    ],
  )
  folder = f"{tmp_path}/audio"
  taken = f"{folder}/deep/Yone_1234567_30000.mp3"
  other = f"{folder}/one_1234567_30.0-39.5.wav"
  assert found.clips == [
    clip_lists.Clip(
      "one_1234567",
      taken,
      (1, 0),
      {"several_files": f"{taken}, not {other}"},
      9.5,
    )
  ]
  assert found.passed_over == {
    f"{folder}/one_1234567.txt": "no audio",
    f"{folder}/one_1234567_31000.wav": clip_lists.NO_ROW,
    other: clip_lists.OTHER_FILE,
  }
  assert (found.num_files, found.folder) == (4, folder)


_SAME = [
  # (labels as they are written; the rest is A, 0, 10)
  '"/m/a,/m/b"',
  '"/m/a, /m/b"',
  '" /m/a , /m/b, "',
  '"""/m/a,/m/b"""',
  "\"'/m/a','/m/b'\"",
  "\"['/m/a', '/m/b']\"",
  '"A, first,B"',  # Display names.
]


@pytest.mark.parametrize("labels", _SAME)
def test_spaces_and_quotes_around_labels_do_not_count(tmp_path, labels):
  found = _read(tmp_path, f"A, 0, 10, {labels}\n")
  assert [clip.labels for clip in found.clips] == [(0, 1)]
  assert not found.unknown_labels


def test_lists_that_other_tools_have_saved_are_read(tmp_path):
  expected = _read(
    tmp_path, 'A, 0.0, 10.0, "/m/a,/m/b"\nB, 1.0, 11.0, "/m/b"\n'
  )
  rows = [["A", "0.0", "10.0", "/m/a,/m/b"], ["B", "1.0", "11.0", "/m/b"]]
  head = ["YTID", "start_seconds", "end_seconds", "positive_labels"]
  for separator in (",", "\t", ";"):
    for with_head in (True, False):
      path = tmp_path / "saved.csv"
      with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([head] * with_head + rows)
      assert _read(tmp_path, path.read_bytes()).clips == expected.clips
  # With pandas's index, and the columns in another order.
  other = (
    ",positive_labels,YTID,end_seconds,start_seconds\n"
    '0,"/m/a,/m/b",A,10,0\n1,/m/b,B,11,1\n'
  )
  assert _read(tmp_path, other).clips == expected.clips
  assert _read(
    tmp_path, 'A|0|10|"/m/a,/m/b"\nB|1|11|/m/b', separator="|"
  ).clips == (expected.clips)


def test_what_is_wrong_with_a_row_is_marked(tmp_path):
  found = _read(
    tmp_path,
    'one, 0, 10, "/m/a,/m/x,/m/a"\r\n'
    'two, 0, 10, "/m/x,/m/y"\r\n'
    'six, 0, 10, ""\r\n'
    'one, 0, 10, "/m/b"\r\n'
    'one, 0, 10, "/m/a"\r\n'
    'two, 0, 10, "/m/z"\r\n',
    ["one.wav"],
  )
  assert [(clip.labels, clip.problems) for clip in found.clips] == [
    ((0, 1), {"partly_unknown_labels": "/m/x"}),
    ((), {"unknown_label": "/m/x,/m/y,/m/z", "missing": ""}),
    ((), {"unknown_label": "it has none", "missing": ""}),
    ((), {"merged_rows": "line 4 adds B to line 1"}),
    ((), {"duplicate_id": "line 5 as line 1"}),
    ((), {"merged_rows": "line 6 adds /m/z to line 2"}),
  ]
  assert (found.num_labels, dict(found.unknown_labels)) == (
    7,
    {"/m/x": 2, "/m/y": 1, "/m/z": 1},
  )


def test_segments_of_one_video_are_clips_of_their_own(tmp_path):
  found = _read(
    tmp_path,
    "one_1234567, 0, 10, /m/a\none_1234567, 30.5, 40.5, /m/b\n"
    "two_1234567, 0, 10, /m/b\n",
    ["one_1234567_0_10.wav", "one_1234567_30500.wav", "one_1234567.wav"],
  )
  assert [(clip.id, clip.path, clip.labels) for clip in found.clips] == [
    ("one_1234567_0", f"{tmp_path}/audio/one_1234567_0_10.wav", (0,)),
    ("one_1234567_30500", f"{tmp_path}/audio/one_1234567_30500.wav", (1,)),
    ("two_1234567", None, (1,)),
  ]
  # It does not tell which one it is.
  assert found.passed_over == {
    f"{tmp_path}/audio/one_1234567.wav": clip_lists.NO_ROW
  }


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "names no clip"),
    ('# only\n# "remarks"\n', "names no clip"),
    ("one, 0, 10\n", "line 1: expected YTID, start, end.* found one, 0, 10"),
    ("one, 0, 10, /m/a, /m/b\n", "line 1: .*; several labels need quotes"),
    ('# x\none, a, 10, "/m/a"\n', "one: start 'a' and end '10' must be sec"),
    ('one, nan, inf, "/m/a"\n', "start 'nan' and end 'inf' must be seconds"),
    (b"\xff\xfe", "list.csv: cannot be read"),
    (
      'one, 0, 10, "/m/a"\ntwo, 0, 10, "/m/a\nsix, 0, 10, /m/a\n',
      "line 2: a q",
    ),
    # Other lists than AudioSet's.
    (
      '---g-f_I2yQ,1,"people marching",test\n',
      "start '1' and end 'people marching' must be seconds .*VGGSound.*wanted "
      'is YTID, start, end, "mid,mid"',
    ),
    (
      "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
      "s9d-2nhuJCQ_30000\t0.000\t3.627\t/m/07qyrcz\n",
      "found segment_id, start_time_seconds, end_time_seconds, label, the form "
      "of AudioSet's strong labels.*wanted is YTID, start, end",
    ),
    (
      "YTID,start,label\nx,0,/m/a\n",
      "the columns YTID, start, label; wanted is",
    ),
  ],
)
def test_a_malformed_list_is_refused(tmp_path, text, message):
  with pytest.raises(ValueError, match=message):
    _read(tmp_path, text)
