# SPDX-License-Identifier: Apache-2.0
"""Folders are taken for classes, or it is told why not."""

import os
import re
import unicodedata

import pytest

from tf_audioset.data import audio_files
from tf_audioset.preparation import class_folders


def _make(folder, *names) -> str:
  """Makes empty files, and folders of the names that end with a slash."""
  for name in names:
    path = folder / name
    if name.endswith("/"):
      path.mkdir(parents=True, exist_ok=True)
    else:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.touch()
  return str(folder)


def test_every_folder_is_a_class_and_every_file_accounted_for(tmp_path):
  folder = _make(
    tmp_path,
    "cat/2.wav",
    "cat/1.aiff",
    "cat/notes.txt",
    "dog/deep/a.mp3",
    "dog/a.au",
    "whale/train.csv",
    "empty/",
    "loose.flac",
    ".ipynb_checkpoints/x.wav",
    "cat/._2.wav",
  )
  found = class_folders.read(folder + "/")
  assert found.classes.names == ("cat", "dog", "empty", "whale")
  assert [(clip.id, clip.path, clip.labels) for clip in found.clips] == [
    ("cat/1.aiff", f"{folder}/cat/1.aiff", (0,)),
    ("cat/2.wav", f"{folder}/cat/2.wav", (0,)),
    ("dog/a.au", f"{folder}/dog/a.au", (1,)),
    ("dog/deep/a.mp3", f"{folder}/dog/deep/a.mp3", (1,)),
  ]
  assert found.passed_over == {
    f"{folder}/cat/notes.txt": audio_files.NOT_AUDIO,
    f"{folder}/whale/train.csv": audio_files.NOT_AUDIO,
    f"{folder}/loose.flac": class_folders.LOOSE,
    f"{folder}/.ipynb_checkpoints/": audio_files.HIDDEN,
    f"{folder}/cat/._2.wav": audio_files.HIDDEN,
  }
  assert found.num_files == 4 + 5
  assert found.class_counts() == "4 classes: cat 2, dog 2, empty 0, whale 0"
  assert found.warnings == [
    "1 audio file is beside the folders of the classes, in none of them: "
    "loose.flac",
    "classes without an audio file: empty, whale",
  ]


def test_links_are_followed_but_not_up(tmp_path):
  folder = _make(tmp_path / "in", "dog/a.wav", "cat/c.wav")
  _make(tmp_path, "else/b.wav")
  os.symlink(folder, tmp_path / "in" / "dog" / "loop")
  os.symlink(folder, tmp_path / "in" / "all")
  os.symlink(tmp_path / "else", tmp_path / "in" / "dog" / "others")
  found = class_folders.read(folder)
  assert found.classes.names == ("cat", "dog")
  assert [clip.id for clip in found.clips] == [
    "cat/c.wav",
    "dog/a.wav",
    "dog/others/b.wav",
  ]


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ([], "holds no folder"),
    (
      ["a.wav", "b.wav", "n.txt"],
      "holds no folder; .*1 .txt, 2 beside the fol",
    ),
    (
      ["dog/", "cat/x.txt"],
      "names no clip: .* in cat, dog .passed over: 1 .txt",
    ),
    (["fold1/a.wav", "fold2/b.wav"], "fold1, fold2 look like folds .*manifest"),
    (["Fold_1/a.wav", "Fold_2/", "Fold_10/"], "look like folds"),
    (
      ["train/dog/a.wav", "test/dog/a.wav", "val/dog/b.wav"],
      "test, train, val look like splits, .*/test --split=test",
    ),
    (
      ["audio/1.wav", "meta/esc50.csv"],
      "audio, meta look like parts of a data",
    ),
    (["audio/1.wav"], "audio look like parts of a data"),
    (
      ["audio/dog/1.wav", "audio/cat/1.wav", "metadata/x.csv"],
      "only audio has audio, and that in folders, cat, dog: if .*=.*/audio;",
    ),
    (
      ["sounds/dog/1.wav", "sounds/cat/1.wav"],
      "only sounds has .* cat, dog: if .*/sounds; .*any_class",
    ),
  ],
)
def test_what_is_no_folder_of_classes_is_refused(tmp_path, names, message):
  folder = _make(tmp_path, *names)
  with pytest.raises(ValueError, match=f"--class_dirs={folder}: .*{message}"):
    class_folders.read(folder)


@pytest.mark.parametrize(
  ("names", "classes"),
  [
    (["fold1/a.wav", "fold2/b.wav"], ("fold1", "fold2")),
    (["train/a.wav", "test/b.wav"], ("test", "train")),
    (["audio/a.wav", "meta/b.wav"], ("audio", "meta")),
    (["sounds/dog/1.wav", "sounds/cat/1.wav"], ("sounds",)),
    (["_background_noise_/1.wav", "no/1.wav"], ("_background_noise_", "no")),
  ],
)
def test_one_can_insist(tmp_path, names, classes):
  found = class_folders.read(_make(tmp_path, *names), any_names=True)
  assert found.classes.names == classes
  assert len(found.clips) == 2 and not found.passed_over


@pytest.mark.parametrize(
  ("names", "warnings"),
  [
    (["a/1.wav", "b/1.wav"], []),
    (["train/1.wav", "bus/1.wav"], ["look like folds or splits, .*: train"]),
    (["fold1/1.wav", "bus/1.wav"], ["look like folds or splits, .*: fold1"]),
    (["a/1.wav"], ["only one class, a"]),
    (
      ["a/1.wav", "b/"],
      ["without an audio file: b", "all clips .* one class, a"],
    ),
    (
      ["0/1.wav", "1/1.wav", "10/1.wav"],
      ["numbers, or are they folds.*0, 1, 10"],
    ),
    (["Dog/1.wav", "dog/1.wav", "a/1.wav"], ["nearly the same name: Dog, dog"]),
    (
      [
        "animals/dog/1.wav",
        "animals/cat/1.wav",
        "things/door/1.wav",
        "c/1.wav",
      ],
      ["in 2 of 3 classes all clips.*such as animals/cat, things/door; the cl"],
    ),
    (
      ["dog/train/1.wav", "dog/test/1.wav", "cat/train/1.wav"],
      ["in 2 of 2 classes.*cat/train, dog/test; .*splits or folds: mixed here"],
    ),
  ],
)
def test_what_may_be_wrong_is_told(tmp_path, names, warnings):
  found = class_folders.read(_make(tmp_path, *names))
  assert len(found.warnings) == len(warnings)
  for line, pattern in zip(found.warnings, warnings):
    assert re.search(pattern, line)


def test_noise_and_what_a_mac_adds_are_no_classes(tmp_path):
  folder = _make(
    tmp_path,
    "yes/1.wav",
    "no/1.wav",
    "_background_noise_/running_tap.wav",
    "__MACOSX/yes/._1.wav",
    "@eaDir/1.wav",
  )
  found = class_folders.read(folder)
  assert found.classes.names == ("no", "yes")
  assert len(found.clips) == 2 and not found.warnings
  assert audio_files.summary(found.passed_over, folder) == (
    "passed over: 2 of the operating system (@eaDir/, __MACOSX/), 1 of Speech "
    "Commands' noise, which is no class (_background_noise_/running_tap.wav)"
  )


def test_folders_of_macs_and_of_others_give_the_same_classes(tmp_path):
  classes = []
  for form in ("NFC", "NFD"):
    name = unicodedata.normalize(form, "caf\u00e9")
    folder = _make(tmp_path / form, f"{name}/1.wav", "other/1.wav")
    classes.append(class_folders.read(folder).classes)
  assert classes[0] == classes[1]
  both = _make(tmp_path / "NFC", f"{name}/2.wav")
  found = class_folders.read(both)
  assert found.classes == classes[0]
  assert [clip.labels for clip in found.clips] == [(0,), (0,), (1,)]
  assert "nearly the same name" in found.warnings[0]


@pytest.mark.parametrize("parent", ["", "dog", "dog/deep"])
def test_a_name_that_is_not_utf_8_is_told_with_its_folder(tmp_path, parent):
  folder = tmp_path / parent
  _make(tmp_path, "dog/deep/", "dog/one.wav")
  with open(os.path.join(os.fsencode(folder), b"caf\xe9.wav"), "wb"):
    pass
  with pytest.raises(ValueError) as error:
    class_folders.read(str(tmp_path))
  assert str(error.value) == (
    f"{folder}: holds a name that is not UTF-8, b'caf\\xe9.wav': rename it."
  )


def test_a_folder_that_cannot_be_read_stays_a_class(tmp_path, monkeypatch):
  """Root may read everything, so that the system's answer is made up."""
  folder = _make(tmp_path, "dog/1.wav", "cat/1.wav", "cow/1.wav")
  scandir = os.scandir

  def refuse(path):
    if os.path.basename(path) == "cat":
      raise PermissionError(13, "Permission denied", path)
    return scandir(path)

  monkeypatch.setattr(os, "scandir", refuse)
  found = class_folders.read(folder)
  assert found.classes.names == ("cat", "cow", "dog")
  assert found.warnings == [
    "cannot be read: cat/",
    "classes without an audio file: cat",
  ]
