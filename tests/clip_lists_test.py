# SPDX-License-Identifier: Apache-2.0
"""Rows and files find each other, whatever the files are called."""

import pytest

from tests import reference
from tf_audioset import clip_lists

_CLASSES = "index,mid,display_name\n0,/m/a,A\n1,/m/b,B\n"


@pytest.mark.parametrize(
  ("name", "num_rows", "num_positives"),
  [
    ("balanced_train_segments.csv", 22160, 52882),
    ("eval_segments.csv", 20371, 51804),
  ],
)
def test_official_lists_are_read_whole(tmp_path, name, num_rows, num_positives):
  classes, clips = clip_lists.from_segments(
    str(reference.golden(name)),
    str(reference.golden("class_labels_indices.csv")),
    str(tmp_path),
  )
  assert classes.is_audioset and len(clips) == num_rows
  # As the list's own second line says.
  assert sum(len(clip.labels) for clip in clips) == num_positives
  assert {tuple(clip.problems) for clip in clips} == {("missing",)}


@pytest.mark.parametrize(
  "file",
  [
    "{}.wav",
    "Y{}.flac",
    "{}_30.mp3",
    "Y{}_30_40.ogg",
    "{}_30.000.opus",
    "{}_30.000_40.000.m4a",
    "deep/er/{}_30000.webm",
    "deep/Y{}_30000_40000.MP4",
  ],
)
@pytest.mark.parametrize(
  "clip_id", ["-dash_Start0", "_underscore", "Yes.it-is1"]
)
def test_a_row_finds_its_file(tmp_path, file, clip_id):
  path = tmp_path / "audio" / file.format(clip_id)
  path.parent.mkdir(parents=True)
  path.touch()
  (path.parent / f"{clip_id}.txt").touch()
  (path.parent / f"{clip_id}_31000.wav").touch()
  (tmp_path / "classes.csv").write_text(_CLASSES)
  (tmp_path / "list.csv").write_text(
    f'{clip_id}, 30.000, 40.000, "/m/b,/m/a"\n'
  )
  _, clips = clip_lists.from_segments(
    str(tmp_path / "list.csv"),
    str(tmp_path / "classes.csv"),
    str(tmp_path / "audio"),
  )
  assert clips == [clip_lists.Clip(clip_id, str(path), (1, 0))]


def test_what_is_wrong_with_a_row_is_marked(tmp_path):
  (tmp_path / "classes.csv").write_text(_CLASSES)
  (tmp_path / "one.wav").touch()
  (tmp_path / "list.csv").write_text(
    'one, 0, 10, "/m/a,/m/x,/m/a"\r\n'
    'two, 0, 10, "/m/x,/m/y"\r\n'
    'one, 0, 10, "/m/b"\r\n'
  )
  _, clips = clip_lists.from_segments(
    str(tmp_path / "list.csv"), str(tmp_path / "classes.csv"), str(tmp_path)
  )
  assert [(clip.labels, clip.problems) for clip in clips] == [
    ((0,), {"partly_unknown_labels": "/m/x"}),
    ((), {"unknown_label": "/m/x,/m/y", "missing": ""}),
    ((1,), {"duplicate_id": ""}),
  ]


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("", "names no clip"),
    ('# only\n# "remarks"\n', "names no clip"),
    ("one, 0, 10\n", "row 1: expected YTID, start, end.* found one, 0, 10"),
    ('# x\none, a, 10, "/m/a"\n', "one: start 'a' and end '10' must be sec"),
    (b"\xff\xfe", "list.csv: cannot be read"),
  ],
)
def test_a_malformed_list_is_refused(tmp_path, text, message):
  (tmp_path / "classes.csv").write_text(_CLASSES)
  content = text if isinstance(text, bytes) else text.encode()
  (tmp_path / "list.csv").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    clip_lists.from_segments(
      str(tmp_path / "list.csv"), str(tmp_path / "classes.csv"), str(tmp_path)
    )


def test_folders_without_classes_or_sounds_are_refused(tmp_path):
  with pytest.raises(ValueError, match="holds no folder"):
    clip_lists.from_class_dirs(str(tmp_path))
  (tmp_path / "dog").mkdir()
  with pytest.raises(ValueError, match="names no clip"):
    clip_lists.from_class_dirs(str(tmp_path))


@pytest.mark.parametrize(
  ("text", "labels_map", "message"),
  [
    ("files,labels\na.wav,dog,cat\n", '{"dog": 0}', "row 2: 3 cells, not 2"),
    ("files,labels\n", '{"dog": 0}', "names no clip"),
    ("file,label\n", '{"dog": 0}', "must name the columns files,labels"),
    ("files,labels\n", '{"cat": 0, "dog": 2}', "map.json: .* must be 0, 1, 2"),
    ("files,labels\n", '["dog"]', "map.json: not label -> index"),
    ("files,labels\n", "?", "map.json: not label -> index"),
  ],
)
def test_a_wrong_manifest_is_refused(tmp_path, text, labels_map, message):
  (tmp_path / "map.json").write_text(labels_map)
  (tmp_path / "list.csv").write_text(text)
  with pytest.raises(ValueError, match=message):
    clip_lists.from_manifest(
      str(tmp_path / "list.csv"), str(tmp_path / "map.json")
    )
