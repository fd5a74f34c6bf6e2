# SPDX-License-Identifier: Apache-2.0
"""Every file of a folder is found, or passed over for a reason."""

import os
import pathlib
import socket

import numpy as np
import pytest
import soundfile

from tf_audioset.data import audio_files


def _sound(path, **kwargs) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, np.zeros(100), 16000, **kwargs)


def _below(folder, paths) -> list[str]:
  return [str(pathlib.Path(path).relative_to(folder)) for path in paths]


def _every_file(folder) -> set[str]:
  """As `find` lists them, links not followed."""
  return {
    os.path.join(parent, name)
    for parent, _, names in os.walk(folder)
    for name in names
  }


def test_files_are_taken_for_what_they_hold(tmp_path):
  for name, kind in (
    ("without_an_ending", "WAV"),
    ("sound.dat", "FLAC"),
    ("sound.txt", "AIFF"),
    ("take.1", "OGG"),
    ("upper.BIN", "W64"),
    ("deep/er/snd", "AU"),
    ("x.caf.bak", "CAF"),
  ):
    _sound(tmp_path / name, format=kind)
  # Pretends to be audio: whoever reads it tells what is wrong with it.
  (tmp_path / "page.mp3").write_text("<html>")
  (tmp_path / "empty.Wav").touch()
  for name in ("notes.txt", "a.jpg", "b.JPG", "README", "empty.dat"):
    (tmp_path / name).write_text(f"of {name}" if name != "empty.dat" else "")
  found = audio_files.find(str(tmp_path))
  assert _below(tmp_path, found.paths) == [
    "deep/er/snd",
    "empty.Wav",
    "page.mp3",
    "sound.dat",
    "sound.txt",
    "take.1",
    "upper.BIN",
    "without_an_ending",
    "x.caf.bak",
  ]
  assert set(found.passed_over.values()) == {audio_files.NOT_AUDIO}
  assert found.summary(str(tmp_path)) == (
    "passed over: 2 .jpg, 1 without an ending, 1 .dat, 1 .txt"
  )
  assert {*found.paths, *found.passed_over} == _every_file(tmp_path)


@pytest.mark.parametrize("ending", sorted(audio_files.KNOWN_ENDINGS))
def test_endings_of_audio_are_not_even_opened(tmp_path, ending):
  for name in (f"a{ending}", f"B.x{ending.upper()}"):
    (tmp_path / name).touch(mode=0)
  found = audio_files.find(str(tmp_path))
  assert len(found.paths) == 2 and not found.passed_over
  assert found.summary() == ""


def test_what_systems_leave_behind_is_passed_over_and_named(tmp_path):
  for name in (
    "dog/1.wav",
    "dog/._1.wav",
    "__MACOSX/dog/._1.wav",
    "__MACOSX/dog/1.wav",
    ".git/x.wav",
    "@eaDir/1.wav",
    "dog/Thumbs.db",
    "dog/thumbs.DB",
    "dog/desktop.ini",
    "dog/.DS_Store",
    "$RECYCLE.BIN/x.wav",
    "lost+found/x.wav",
    "dog/2.webm.part",
    "dog/3.mp3.crdownload",
    "dog/3.webm.part-Frag12",
    "dog/4.download/5.wav",
  ):
    _sound(tmp_path / name, format="WAV")
  found = audio_files.find(str(tmp_path))
  assert _below(tmp_path, found.paths) == ["dog/1.wav", "dog/4.download/5.wav"]
  reasons = {
    os.path.relpath(path, tmp_path) + "/" * path.endswith("/"): reason
    for path, reason in found.passed_over.items()
  }
  assert reasons == {
    "dog/._1.wav": audio_files.HIDDEN,
    "dog/.DS_Store": audio_files.HIDDEN,
    ".git/": audio_files.HIDDEN,
    "dog/Thumbs.db": audio_files.SYSTEM,
    "dog/thumbs.DB": audio_files.SYSTEM,
    "dog/desktop.ini": audio_files.SYSTEM,
    "__MACOSX/": audio_files.SYSTEM,
    "@eaDir/": audio_files.SYSTEM,
    "$RECYCLE.BIN/": audio_files.SYSTEM,
    "lost+found/": audio_files.SYSTEM,
    "dog/2.webm.part": audio_files.UNFINISHED,
    "dog/3.mp3.crdownload": audio_files.UNFINISHED,
    "dog/3.webm.part-Frag12": audio_files.UNFINISHED,
  }
  assert found.summary(str(tmp_path)) == (
    "passed over: 7 of the operating system ($RECYCLE.BIN/, @eaDir/, "
    "__MACOSX/, ...), 3 hidden (.git/, dog/.DS_Store, dog/._1.wav), "
    "3 unfinished downloads (dog/2.webm.part, dog/3.mp3.crdownload, "
    "dog/3.webm.part-Frag12)"
  )


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
  """A pipe that is opened waits for ever."""
  _sound(tmp_path / "a.wav")
  os.mkfifo(tmp_path / "live.wav")
  os.mkfifo(tmp_path / "live")
  monkeypatch.chdir(tmp_path)  # Paths of sockets must be short.
  with socket.socket(socket.AF_UNIX) as endpoint:
    endpoint.bind("sock.wav")
  (tmp_path / "device.wav").symlink_to("/dev/null")
  (tmp_path / "gone.wav").symlink_to(tmp_path / "none.wav")
  (tmp_path / "itself.wav").symlink_to(tmp_path / "itself.wav")
  (tmp_path / "pipe.wav").symlink_to(tmp_path / "live.wav")
  (tmp_path / "link.wav").symlink_to(tmp_path / "a.wav")
  found = audio_files.find(str(tmp_path))
  assert _below(tmp_path, found.paths) == ["a.wav", "link.wav"]
  names = {
    os.path.basename(path): reason for path, reason in found.passed_over.items()
  }
  assert names == {
    "live.wav": audio_files.PIPE,
    "live": audio_files.PIPE,
    "pipe.wav": audio_files.PIPE,
    "sock.wav": audio_files.SOCKET,
    "device.wav": audio_files.DEVICE,
    "gone.wav": audio_files.BROKEN_LINK,
    "itself.wav": audio_files.BROKEN_LINK,
  }
  assert "3 pipes (live, live.wav, pipe.wav)" in found.summary(str(tmp_path))
  assert "1 socket (sock.wav)" in found.summary(str(tmp_path))


def test_links_to_folders_are_followed_once_and_never_up(tmp_path):
  _sound(tmp_path / "in" / "dog" / "a.wav")
  _sound(tmp_path / "in" / "cat" / "b.wav")
  _sound(tmp_path / "pool" / "c.wav")
  (tmp_path / "in" / "dog" / "0_pool").symlink_to(tmp_path / "pool")
  (tmp_path / "in" / "dog" / "1_cat").symlink_to(tmp_path / "in" / "cat")
  (tmp_path / "in" / "dog" / "2_up").symlink_to(tmp_path)
  (tmp_path / "in" / "0_loop").symlink_to(tmp_path / "in")
  found = audio_files.find(str(tmp_path / "in"))
  assert _below(tmp_path / "in", found.paths) == [
    "cat/b.wav",
    "dog/0_pool/c.wav",
    "dog/a.wav",
  ]
  assert found.summary(str(tmp_path / "in")) == (
    "passed over: 2 links to folders that are read already (0_loop/, "
    "dog/1_cat/), 1 link to a folder above (dog/2_up/)"
  )


def test_what_may_not_be_read_is_told(tmp_path, monkeypatch):
  """Root may read everything, so that the system's answers are made up."""
  _sound(tmp_path / "a.wav")
  _sound(tmp_path / "locked" / "b.wav")
  (tmp_path / "secret").write_text("x")
  scandir, open_ = os.scandir, open

  def refuse(real):
    def answer(path, *args, **kwargs):
      if os.path.basename(str(path)) in ("locked", "secret"):
        raise PermissionError(13, "Permission denied", path)
      return real(path, *args, **kwargs)

    return answer

  monkeypatch.setattr(os, "scandir", refuse(scandir))
  monkeypatch.setattr("builtins.open", refuse(open_))
  found = audio_files.find(str(tmp_path))
  assert _below(tmp_path, found.paths) == ["a.wav"]
  assert found.summary(str(tmp_path)) == (
    "passed over: 2 unreadable (locked/, secret)"
  )


def test_names_of_any_bytes_are_found_and_can_be_printed(tmp_path):
  folder = os.fsencode(tmp_path)
  for name in (b"caf\xe9.wav", b"caf\xe9.txt", b"a\nb.jpg\n"):
    with open(os.path.join(folder, name), "wb"):
      pass
  found = audio_files.find(str(tmp_path))
  assert [os.fsencode(path) for path in found.paths] == [
    os.path.join(folder, b"caf\xe9.wav")
  ]
  assert audio_files.printable(found.paths[0], str(tmp_path)) == r"caf\xe9.wav"
  assert found.summary() == r"passed over: 1 .jpg\n, 1 .txt"


def test_files_folders_and_patterns_of_a_command_are_found(tmp_path):
  names = ("b.wav", "a.MP3", "deep/er/c.flac", "notes.txt", "z/d.ogg")
  for name in names:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
  here = str(tmp_path)

  def found(*arguments):
    paths = audio_files.expand([f"{here}/{x}" for x in arguments]).paths
    return [path[len(here) + 1 :] for path in paths]

  assert found("") == ["a.MP3", "b.wav", "deep/er/c.flac", "z/d.ogg"]
  assert found("z", "b.wav", "none.wav") == ["z/d.ogg", "b.wav", "none.wav"]
  assert found("*.wav", "**/c.*") == ["b.wav", "deep/er/c.flac"]
  assert found("d*") == ["deep/er/c.flac"]
  # Folders and what is in them: each file once, and only audio.
  assert found("**") == ["a.MP3", "b.wav", "deep/er/c.flac", "z/d.ogg"]
  # Who names a file wants that one.
  assert found("notes.txt") == ["notes.txt"]
  assert audio_files.expand(["-"]).paths == ["-"]
  (tmp_path / "[1].wav").touch()
  assert found("[1].wav") == ["[1].wav"]
  (tmp_path / "empty").mkdir()
  for nothing, why in (
    ("empty", "nothing is there"),
    ("*.aiff", "nothing is there"),
    ("*.txt", "passed over: 1 .txt"),
  ):
    with pytest.raises(ValueError) as error:
      found(nothing)
    assert str(error.value) == f"{here}/{nothing}: no audio file there ({why})."
  both = audio_files.expand([here, f"{here}/*.txt", f"{here}/z/d.ogg"][::2])
  assert both.summary(here) == "passed over: 1 .txt"
