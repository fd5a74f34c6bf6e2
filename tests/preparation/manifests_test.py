# SPDX-License-Identifier: Apache-2.0
"""Lists of files as people publish them."""

import pytest

from tf_audioset.data import labels
from tf_audioset.preparation import clip_lists, manifests

_MAP = '{"dog": 0, "cat": 1}'


def _read(tmp_path, text, labels_map=_MAP, *args, **kwargs):
  (tmp_path / "map.json").write_text(labels_map)
  (tmp_path / "list.csv").write_text(text, newline="")
  return manifests.read(
    str(tmp_path / "list.csv"), str(tmp_path / "map.json"), *args, **kwargs
  )


def _touch(folder, *names) -> None:
  for name in names:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()


def test_labels_need_something_between_them(tmp_path):
  with pytest.raises(ValueError, match="--labels_delim is empty"):
    _read(tmp_path, "files,labels\na.wav,dog\n", _MAP, "")


@pytest.mark.parametrize(
  ("text", "labels_map", "message"),
  [
    ("files,labels\na.wav,dog,cat\n", '{"dog": 0}', "line 2: 3 cells, not 2"),
    ("files,labels\na.wav\n", '{"dog": 0}', "line 2: 1 cells, not 2"),
    ("files,labels\n", '{"dog": 0}', "names no clip"),
    ("", '{"dog": 0}', "names no clip"),
    ("a,b\n", '{"dog": 0}', "must name the columns files,labels.*found a, b "),
    ("files,labels\n", '{"cat": 0, "dog": 2}', "map.json: .* must be 0, 1, 2"),
    ("files,labels\n", '["dog", 1]', "map.json: not label -> index"),
    ("files,labels\n", "?", "map.json: not label -> index"),
    ("files,labels\n", '{"dog": 0.0, "cat": 1.0}', "map.json: .* integers"),
    ("files,labels\n", '{"dog": false, "cat": true}', "map.json: .* integers"),
    (
      'files,labels\na.wav,"dog\nb.wav,cat\n',
      _MAP,
      "line 2: a quote is opened",
    ),
    ('files,labels\na.wav,dog\nb.wav,"cat', _MAP, "line 3: a quote is opened"),
  ],
)
def test_a_wrong_manifest_is_refused(tmp_path, text, labels_map, message):
  with pytest.raises(ValueError, match=message):
    _read(tmp_path, text, labels_map)


def test_a_manifest_names_files_in_its_folder_elsewhere_and_in_buckets(
  tmp_path,
):
  found = _read(
    tmp_path,
    "files,labels\na/b.wav,dog\n/c/d.wav,dog\ngs://bucket/e.wav,dog\n",
  )
  assert [clip.path for clip in found.clips] == [
    f"{tmp_path}/a/b.wav",
    "/c/d.wav",
    "gs://bucket/e.wav",
  ]
  # What is in a bucket is found out when it is read.
  assert [clip.problems for clip in found.clips] == [
    {"missing": ""},
    {"missing": ""},
    {},
  ]


@pytest.mark.parametrize(
  "labels", ['"dog, cat"', "' dog', cat", '"[""cat"", dog]"']
)
def test_spaces_and_quotes_around_labels_do_not_count(tmp_path, labels):
  if not labels.startswith('"'):
    labels = f'"{labels}"'
  found = _read(tmp_path, f"files,labels\na.wav,{labels}\n")
  assert sorted(found.clips[0].labels) == [0, 1] and not found.unknown_labels


def test_labels_that_hold_what_separates_them_are_found(tmp_path):
  found = _read(
    tmp_path,
    'files,labels\na.wav,"Male speech, man speaking"\n'
    'b.wav,"dog,Male speech, man speaking,cat"\nc.wav,"Male speech,cat"\n',
    '{"dog": 0, "Male speech, man speaking": 1, "cat": 2}',
  )
  assert [clip.labels for clip in found.clips] == [(1,), (0, 1, 2), (2,)]
  assert dict(found.unknown_labels) == {"Male speech": 1}


def test_labels_are_compared_composed(tmp_path):
  found = _read(
    tmp_path, "files,labels\na.wav,cafe\u0301\n", '{"caf\u00e9": 0}'
  )
  assert found.clips[0].labels == (0,)


def test_one_row_a_label_gives_one_clip_with_all(tmp_path):
  _touch(tmp_path, "a.wav", "c.wav")
  found = _read(
    tmp_path,
    "files,labels\na.wav,dog\na.wav,cat\nc.wav,cat\n./a.wav,dog\n,dog\n",
  )
  path = f"{tmp_path}/a.wav"
  assert found.clips[0] == clip_lists.Clip("a.wav", path, (0, 1))
  assert found.clips[1].problems == {"merged_rows": "line 3 adds cat to line 2"}
  assert found.clips[2].labels == (1,)
  assert found.clips[3].problems == {"duplicate_id": "line 5 as line 2"}
  assert found.clips[4] == clip_lists.Clip(
    "line 6", None, (0,), {"missing": "the list names no file"}
  )


# As the first lines of the lists that are published.
_PUBLIC = {
  "ESC-50": (
    "filename,fold,target,category,esc10,src_file,take\n"
    "1-100032-A-0.wav,1,0,dog,True,100032,A\n",
    "audio/1-100032-A-0.wav",
    ["dog"],
  ),
  "FSD50K": (
    'fname,labels,mids,split\n64760,"Electric_guitar,Guitar",'
    '"/m/02sgy,/m/0342h",train\n',
    "FSD50K.dev_audio/64760.wav",
    ["Electric_guitar", "Guitar"],
  ),
  "UrbanSound8K": (
    "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
    "100032-3-0-0.wav,100032,0.0,0.317551,1,5,3,dog_bark\n",
    "fold5/100032-3-0-0.wav",
    ["dog_bark"],
  ),
  "Kaggle 2018": (
    "fname,label,manually_verified\n00044347.wav,Hi-hat,0\n",
    "audio_train/00044347.wav",
    ["Hi-hat"],
  ),
  "Kaggle 2019": (
    'fname,labels\n01a5a2a3.wav,"Bark,Run"\n',
    "train_curated/01a5a2a3.wav",
    ["Bark", "Run"],
  ),
  "MTG-Jamendo": (
    "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS\n"
    "track_0000214\tartist_000014\talbum_000031\t14/214.mp3\t124.6\t"
    "genre---punkrock\n",
    "14/214.mp3",
    ["genre---punkrock"],
  ),
  "TAU": (
    "filename\tscene_label\tidentifier\tsource_label\n"
    "audio/airport-barcelona-0-0-a.wav\tairport\tbarcelona-0\ta\n",
    "audio/airport-barcelona-0-0-a.wav",
    ["airport"],
  ),
  "spaces": ("files, labels\nx.wav, dog\n", "x.wav", ["dog"]),
  "tab": ("files\tlabels\nx.wav\tdog\n", "x.wav", ["dog"]),
  "semicolon": ("files;labels\nx.wav;dog,cat\n", "x.wav", ["dog", "cat"]),
}


@pytest.mark.parametrize("name", _PUBLIC)
def test_public_lists_are_read_as_they_are(tmp_path, name):
  text, file, expected = _PUBLIC[name]
  (tmp_path / "list.csv").write_text(text)
  _touch(tmp_path / "audio", file, "notes.txt")
  found = manifests.read(
    str(tmp_path / "list.csv"), audio_dir=str(tmp_path / "audio")
  )
  (clip,) = found.clips
  assert clip.path == f"{tmp_path}/audio/{file}" and not clip.problems
  assert [found.classes.names[i] for i in clip.labels] == expected
  assert (found.num_files, list(found.passed_over)) == (
    2,
    [f"{tmp_path}/audio/notes.txt"],
  )


def test_columns_are_told_by_flags_and_named(tmp_path):
  text = "ID;Instrument;label;name\nx.wav;violin;1;Anna\n"
  _touch(tmp_path, "x.wav")
  found = _read(
    tmp_path, text, '["violin"]', file_column="id", label_column="Instrument"
  )
  assert found.clips == [clip_lists.Clip("x.wav", f"{tmp_path}/x.wav", (0,))]
  assert found.remarks == [
    f"{tmp_path}/list.csv: semicolon-separated, files in column 'ID', labels "
    "in column 'Instrument'"
  ]


def test_lists_without_names_of_columns_are_read_by_number(tmp_path):
  _touch(tmp_path, "audio/b020_90_100.wav", "audio/b033.wav")
  found = _read(
    tmp_path,
    "audio/b020_90_100.wav\tbeach\naudio/b033.wav\tbus\n",
    '["beach", "bus"]',
    file_column="1",
    label_column="2",
  )
  assert [(clip.id, clip.labels) for clip in found.clips] == [
    ("audio/b020_90_100.wav", (0,)),
    ("audio/b033.wav", (1,)),
  ]
  # With names they may be told by number as well.
  found = _read(
    tmp_path,
    "path,label\naudio/b033.wav,bus\n",
    '["beach", "bus"]',
    file_column="1",
    label_column="2",
  )
  assert [clip.id for clip in found.clips] == ["audio/b033.wav"]


def test_labels_in_cells_of_their_own_at_the_end_are_read(tmp_path):
  text = "TRACK\tPATH\tTAGS\n1\ta.mp3\trock\tpop\n2\tb.mp3\tpop\n"
  with pytest.raises(ValueError, match="line 2: 4 .* --labels_delim=tab"):
    _read(tmp_path, text, '["pop", "rock"]')
  found = _read(tmp_path, text, '["pop", "rock"]', "\t")
  assert [clip.labels for clip in found.clips] == [(1, 0), (0,)]


@pytest.mark.parametrize(
  ("head", "kwargs", "message"),
  [
    (
      "id,target",
      {},
      "found id, target .comma-separated.*--file_column must say which has the "
      "files; --label_column must say which has the labels",
    ),
    (
      "filename,label,category",
      {},
      "--label_column must say whether label or category is meant",
    ),
    ("file\tid", {}, "file, id .tab-separated.*; --label_column must"),
    ("files,labels", {"file_column": "x"}, "--file_column=x is none of them"),
    (
      "files,labels",
      {"file_column": "3", "label_column": "2"},
      "file_column=3",
    ),
    ("files,files,labels", {}, "whether files or files is meant"),
  ],
)
def test_columns_that_cannot_be_told_are_asked_for(
  tmp_path, head, kwargs, message
):
  with pytest.raises(ValueError, match=message):
    _read(tmp_path, f"{head}\n", **kwargs)


def test_well_known_names_count_only_if_the_usual_one_is_not_there(tmp_path):
  found = _read(tmp_path, "path,files,label,labels\nx,a.wav,y,dog\n")
  assert found.clips[0].id == "a.wav" and found.clips[0].labels == (0,)


def test_without_a_map_the_labels_of_the_list_are_the_classes(tmp_path):
  (tmp_path / "list.csv").write_text(
    "files,labels\na.wav,\"dog, cat\"\nb.wav,\nc.wav,['bird']\n"
  )
  found = manifests.read(str(tmp_path / "list.csv"))
  assert found.classes == labels.ClassList.from_names(["bird", "cat", "dog"])
  assert [clip.labels for clip in found.clips] == [(2, 1), (), (0,)]
  (tmp_path / "list.csv").write_text("files,labels\na.wav,\n")
  with pytest.raises(ValueError, match="list.csv: names no clip with a label"):
    manifests.read(str(tmp_path / "list.csv"))
  (tmp_path / "list.csv").write_text("files,labels\na.wav,dog;cat\n")
  found = manifests.read(str(tmp_path / "list.csv"))
  assert found.classes.names == ("dog;cat",)
  assert found.warnings == [
    "labels such as 'dog;cat' are taken for one; --labels_delim says what is "
    "between several"
  ]


def test_files_are_looked_for_below_audio_dir(tmp_path):
  audio = tmp_path / "audio"
  _touch(audio, "a/1.wav", "b/2.flac", "c/3.wav", "d/3.wav", "4.wav")
  _touch(tmp_path, "elsewhere.wav")
  elsewhere = tmp_path / "elsewhere.wav"
  found = _read(
    tmp_path,
    "files,labels\n1,dog\nx/b/2.mp3,cat\n3.wav,cat\n5.wav,dog\n"
    f"{elsewhere},dog\ngs://bucket/1.wav,dog\n",
    audio_dir=str(audio),
  )
  assert [
    clip.path and clip.path.replace(f"{audio}/", "") for clip in found.clips
  ] == [
    "a/1.wav",
    "b/2.flac",
    "c/3.wav",
    None,
    str(elsewhere),
    "gs://bucket/1.wav",
  ]
  assert [clip.problems for clip in found.clips] == [
    {},
    {"other_name": f"{audio}/b/2.flac"},
    {"several_files": f"{audio}/c/3.wav, not {audio}/d/3.wav"},
    {"missing": ""},
    {},
    {},
  ]
  assert found.passed_over == {
    f"{audio}/4.wav": clip_lists.NO_ROW,
    f"{audio}/d/3.wav": clip_lists.OTHER_FILE,
  }
  assert found.num_files == 5


def test_a_file_that_fits_several_rows_alike_is_given_to_none(tmp_path):
  _touch(tmp_path / "audio", "1.wav", "a/2.wav")
  found = _read(
    tmp_path,
    "files,labels\nx/1.wav,dog\ny/1.wav,cat\na/2.wav,dog\nb/2.wav,cat\n",
    audio_dir=str(tmp_path / "audio"),
  )
  path = f"{tmp_path}/audio/1.wav"
  unclear = {"missing": f"{path} may be meant, by other rows as well"}
  assert [(clip.path, clip.problems) for clip in found.clips] == [
    (None, unclear),
    (None, unclear),
    (f"{tmp_path}/audio/a/2.wav", {}),
    (None, {"missing": ""}),
  ]


def test_the_mark_that_excel_writes_in_front_is_no_letter(tmp_path):
  """Lists with it are as the same ones without."""
  found = []
  for mark in ("", "\ufeff"):
    text = f"{mark}files,labels\r\n/one.wav,dog\r\n"
    found.append(_read(tmp_path, text, mark + _MAP))
  assert found[0] == found[1]
