# SPDX-License-Identifier: Apache-2.0
"""A folder with one folder of audio files a class."""

from __future__ import annotations

import collections
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence

from tf_audioset.data import audio_files, labels
from tf_audioset.preparation import clip_lists
from tf_audioset.runtime.errors import UserError

# Why files of the folder are no clips, besides those that `audio_files` has.
LOOSE = "beside the folders of the classes"
NOISE = "of Speech Commands' noise, which is no class"

_NOISE_FOLDER = "_background_noise_"
_FOLD = re.compile(r"(fold|split|part|cv|batch)[ _-]?\d+", re.IGNORECASE)
_SPLITS = frozenset(
  "train training valid validation val dev devel development eval evaluation "
  "test testing unlabeled unlabelled".split()
)
# Of datasets as they are unpacked, with a list of what is in which file.
_PARTS_OF_DATASETS = frozenset(
  "audio audios wav wavs mp3 flac clips recordings data dataset meta metadata "
  "meta_data annotation annotations csv doc docs evaluation_setup".split()
)
_LINKS = (audio_files.LINK_TO_ABOVE, audio_files.LINK_TO_SEEN)
_NUM_NAMED = 3


def read(class_dirs: str, *, any_names: bool = False) -> clip_lists.ClipList:
  """Reads a folder with one folder a class.

  Args:
    class_dirs: May be in a bucket.
    any_names: Take every folder for a class, whatever it is called.

  Returns:
    The clips, whose ids are their paths from class_dirs on; a class for each
    folder, also for an empty one.

  Raises:
    UserError: If there is no folder or no audio file, if a name is not UTF-8,
      or if the folders look like something else than classes.
  """
  root = class_dirs.rstrip("/") or "/"
  found = audio_files.find(root)
  passed_over = dict(found.passed_over)
  folders = [
    name
    for name in audio_files.folders(root)
    if passed_over.get(os.path.join(root, name, "")) not in _LINKS
  ]
  _check_utf8(root, [*folders, *found.paths])
  files = collections.defaultdict(list)  # By folder, as seen from the root.
  start = len(root.rstrip("/")) + 1
  for path in found.paths:
    name, slash, _ = path[start:].partition("/")
    files[name if slash else ""].append(path[start:])
  _pass_over(root, files.pop("", ()), LOOSE, passed_over)
  if _NOISE_FOLDER in folders and not any_names:
    folders.remove(_NOISE_FOLDER)
    _pass_over(root, files.pop(_NOISE_FOLDER, ()), NOISE, passed_over)
  _check_folders(class_dirs, folders, files, passed_over)
  if not any_names:
    _check_names(class_dirs, folders, files)
  # Composed, so that a Mac's folders and others' give the same classes.
  names = sorted({unicodedata.normalize("NFC", name) for name in folders})
  indices = {
    folder: names.index(unicodedata.normalize("NFC", folder))
    for folder in folders
  }
  clips = [
    clip_lists.Clip(file, os.path.join(root, file), (index,))
    for folder, index in indices.items()
    for file in files[folder]
  ]
  return clip_lists.ClipList(
    class_dirs,
    labels.ClassList.from_names(names),
    clips,
    passed_over,
    root,
    len(found),
    indices,
    warnings=_warnings(root, folders, files, passed_over),
    num_labels=len(clips),
  )


def _pass_over(root, files, reason, passed_over) -> None:
  passed_over.update((os.path.join(root, file), reason) for file in files)


def _check_utf8(root, paths) -> None:
  for path in paths:
    try:
      path.encode()
    except UnicodeEncodeError:
      place = root
      for part in os.path.relpath(os.path.join(root, path), root).split("/"):
        name = os.fsencode(part)
        try:
          name.decode()
        except UnicodeDecodeError:
          raise UserError(
            f"{place}: holds a name that is not UTF-8, {name!r}: rename it."
          ) from None
        place = os.path.join(place, part)


def _check_folders(
  class_dirs: str,
  folders: Sequence[str],
  files: Mapping[str, Sequence[str]],
  passed_over: Mapping[str, str],
) -> None:
  """Refuses a folder without classes or without audio."""
  told = audio_files.summary(passed_over, class_dirs)
  told = f" ({told})" if told else ""
  if not folders:
    raise UserError(
      f"--class_dirs={class_dirs}: holds no folder; wanted is one for each "
      f"class, with its files in it{told}."
    )
  if not any(files.values()):
    raise UserError(
      f"--class_dirs={class_dirs}: names no clip: there is no audio file in "
      f"{_named(folders)}{told}."
    )


def _check_names(class_dirs, folders, files) -> None:
  """Refuses folders that are parts of a dataset rather than classes."""
  insist = "if they are classes, add --any_class_dirs"
  lower = {name.lower() for name in folders}
  if all(map(_FOLD.fullmatch, folders)):
    raise UserError(
      f"--class_dirs={class_dirs}: its folders {_named(folders)} look like "
      "folds of a dataset, not like classes: give its list as --manifest_csv, "
      f"with --audio_dir={class_dirs}; {insist}."
    )
  if lower <= _SPLITS:
    first = os.path.join(class_dirs, folders[0])
    raise UserError(
      f"--class_dirs={class_dirs}: its folders {_named(folders)} look like "
      "splits, not like classes: prepare them one by one, with "
      f"--class_dirs={first} --split={folders[0]} and so on; {insist}."
    )
  with_audio = [name for name in folders if files[name]]
  if len(with_audio) == 1:
    (name,) = with_audio
    inner = sorted({_inner_folder(file) for file in files[name]})
    if "" not in inner and (
      len(folders) == 1 or name.lower() in _PARTS_OF_DATASETS
    ):
      raise UserError(
        f"--class_dirs={class_dirs}: of its folders only {name} has audio, and "
        f"that in folders, {_named(inner)}: if these are the classes, give "
        f"--class_dirs={os.path.join(class_dirs, name)}; if {name} is the only "
        "class, add --any_class_dirs."
      )
  if lower <= _PARTS_OF_DATASETS:
    raise UserError(
      f"--class_dirs={class_dirs}: its folders {_named(folders)} look like "
      "parts of a dataset, not like classes: give its list as --manifest_csv, "
      f"with --audio_dir={class_dirs}; {insist}."
    )


def _inner_folder(file: str) -> str:
  """Returns the folder in a class's folder that a file is in, or nothing."""
  _, _, behind = file.partition("/")
  inner, slash, _ = behind.partition("/")
  return inner if slash else ""


def _is_part(name: str) -> bool:
  """Returns whether a folder is called like a fold or a split."""
  return bool(_FOLD.fullmatch(name)) or name.lower() in _SPLITS


def _warnings(root, folders, files, passed_over) -> list[str]:
  """Returns lines on what may be wrong with the folders."""
  warnings = []
  loose, unread = (
    [
      audio_files.printable(path, root)
      for path, why in passed_over.items()
      if why == reason
    ]
    for reason in (LOOSE, audio_files.UNREADABLE)
  )
  if loose:
    files_are = "file is" if len(loose) == 1 else "files are"
    warnings.append(
      f"{len(loose):,} audio {files_are} beside the folders of the classes, in "
      f"none of them: {_named(loose)}"
    )
  if unread:
    warnings.append(f"cannot be read: {_named(unread)}")
  empty = [name for name in folders if not files[name]]
  if empty:
    warnings.append(f"classes without an audio file: {_named(empty)}")
  full = [name for name in folders if files[name]]
  if len(folders) == 1:
    warnings.append(f"there is only one class, {folders[0]}")
  elif len(full) == 1:
    warnings.append(f"all clips are of one class, {full[0]}")
  odd = [name for name in folders if _is_part(name)]
  if odd:
    warnings.append(
      f"look like folds or splits, not like classes: {_named(odd)}"
    )
  if len(folders) > 1 and all(name.isdigit() for name in folders):
    warnings.append(
      f"the classes are numbers, or are they folds? {_named(folders)}"
    )
  inner = {name: [*map(_inner_folder, files[name])] for name in full}
  deep = [name for name in full if all(inner[name])]
  if deep:
    shown = [f"{name}/{inner[name][0]}" for name in deep]
    warnings.append(
      f"in {len(deep)} of {len(folders)} classes all clips are in folders of "
      f"the class's folder, such as {_named(shown)}; the class is the outer one"
    )
    if all(_is_part(x) for name in deep for x in inner[name]):
      warnings[-1] += ". The inner ones look like splits or folds: mixed here"
  alike = collections.defaultdict(list)
  for name in folders:
    alike[unicodedata.normalize("NFKC", name).casefold().strip(" _-")].append(
      name
    )
  for names in alike.values():
    if len(names) > 1:
      warnings.append(
        f"these classes have nearly the same name: {_named(names)}"
      )
  return warnings


def _named(names: Sequence[str]) -> str:
  """Returns names as a text, of many the first."""
  text = ", ".join(map(audio_files.printable, names[:_NUM_NAMED]))
  more = len(names) - _NUM_NAMED
  return f"{text} and {more} more" if more > 0 else text
