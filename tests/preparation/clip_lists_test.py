# SPDX-License-Identifier: Apache-2.0
"""Rows and files find each other, whatever the files are called."""

import os

import pytest

from tests import reference
from tf_audioset.preparation import clip_lists

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


def test_a_hidden_folder_is_no_class(tmp_path):
  for name in ("cat", ".ipynb_checkpoints", "dog"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.wav").touch()
  (tmp_path / "empty").mkdir()
  classes, clips = clip_lists.from_class_dirs(str(tmp_path))
  assert list(classes.names) == ["cat", "dog", "empty"]
  assert [clip.id for clip in clips] == ["cat/a.wav", "dog/a.wav"]


def test_labels_need_something_between_them(tmp_path):
  (tmp_path / "list.csv").write_text("files,labels\na.wav,dog\n")
  (tmp_path / "map.json").write_text('{"dog": 0}')
  with pytest.raises(ValueError, match="--labels_delim is empty"):
    clip_lists.from_manifest(
      str(tmp_path / "list.csv"), str(tmp_path / "map.json"), ""
    )


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
  (tmp_path / "else").mkdir()
  (tmp_path / "else" / "b.wav").touch()
  dog = tmp_path / "sounds" / "dog"
  dog.mkdir(parents=True)
  (dog / "a.wav").touch()
  (tmp_path / "sounds" / "cat").mkdir()
  (tmp_path / "sounds" / "cat" / "c.wav").touch()
  (dog / "loop").symlink_to(tmp_path / "sounds")
  (dog / "others").symlink_to(tmp_path / "else")
  _, clips = clip_lists.from_class_dirs(str(tmp_path / "sounds"))
  assert [clip.id for clip in clips] == [
    "cat/c.wav",
    "dog/a.wav",
    "dog/others/b.wav",
  ]


@pytest.mark.parametrize(
  ("text", "labels_map", "message"),
  [
    ("files,labels\na.wav,dog,cat\n", '{"dog": 0}', "row 2: 3 cells, not 2"),
    ("files,labels\n", '{"dog": 0}', "names no clip"),
    ("file,label\n", '{"dog": 0}', "must name the columns files,labels"),
    ("files,labels\n", '{"cat": 0, "dog": 2}', "map.json: .* must be 0, 1, 2"),
    ("files,labels\n", '["dog"]', "map.json: not label -> index"),
    ("files,labels\n", "?", "map.json: not label -> index"),
    ("files,labels\n", '{"dog": 0.0, "cat": 1.0}', "map.json: .* integers"),
    ("files,labels\n", '{"dog": false, "cat": true}', "map.json: .* integers"),
  ],
)
def test_a_wrong_manifest_is_refused(tmp_path, text, labels_map, message):
  (tmp_path / "map.json").write_text(labels_map)
  (tmp_path / "list.csv").write_text(text)
  with pytest.raises(ValueError, match=message):
    clip_lists.from_manifest(
      str(tmp_path / "list.csv"), str(tmp_path / "map.json")
    )


def test_a_manifest_names_files_in_its_folder_elsewhere_and_in_buckets(
  tmp_path,
):
  (tmp_path / "map.json").write_text('{"dog": 0}')
  (tmp_path / "list.csv").write_text(
    "files,labels\na/b.wav,dog\n/c/d.wav,dog\ngs://bucket/e.wav,dog\n"
  )
  _, clips = clip_lists.from_manifest(
    str(tmp_path / "list.csv"), str(tmp_path / "map.json")
  )
  assert [clip.path for clip in clips] == [
    f"{tmp_path}/a/b.wav",
    "/c/d.wav",
    "gs://bucket/e.wav",
  ]


def test_the_mark_that_excel_writes_in_front_is_no_letter(tmp_path):
  """Lists with it are as the same ones without."""
  (tmp_path / "one.wav").touch()
  found = []
  for encoding in ("utf-8", "utf-8-sig"):
    folder = tmp_path / encoding
    folder.mkdir()
    for name, text in (
      ("classes.csv", _CLASSES),
      ("segments.csv", 'one, 0, 10, "/m/a"\r\n'),
      ("map.json", '{"dog": 0}'),
      ("manifest.csv", "files,labels\r\n/one.wav,dog\r\n"),
    ):
      (folder / name).write_text(text, encoding=encoding)
    files = {path.stem: str(path) for path in folder.iterdir()}
    found.append(
      (
        clip_lists.from_segments(
          files["segments"], files["classes"], str(tmp_path)
        ),
        clip_lists.from_manifest(files["manifest"], files["map"]),
      )
    )
  assert found[0] == found[1]


@pytest.mark.parametrize("parent", ["", "dog", "dog/deep"])
def test_a_name_that_is_not_utf_8_is_told_with_its_folder(tmp_path, parent):
  folder = tmp_path / parent
  (tmp_path / "dog" / "deep").mkdir(parents=True)
  (tmp_path / "dog" / "one.wav").touch()
  with open(os.path.join(os.fsencode(folder), b"caf\xe9.wav"), "wb"):
    pass
  with pytest.raises(ValueError) as error:
    clip_lists.from_class_dirs(str(tmp_path))
  assert str(error.value) == (
    f"{folder}: holds a name that is not UTF-8, b'caf\\xe9.wav': rename it."
  )
