# SPDX-License-Identifier: Apache-2.0
"""Places that results go to, and the names they get there."""

import os

import pytest

from tf_audioset.runtime import outputs, storage


def test_names_lie_below_the_folder_that_all_have_in_common(monkeypatch):
  monkeypatch.chdir("/")
  assert outputs.mirrored(["/s/dog/1.wav", "s/cat/1.wav", "/s/cat/2.wav"]) == {
    "/s/dog/1.wav": "dog/1.wav",
    "s/cat/1.wav": "cat/1.wav",
    "/s/cat/2.wav": "cat/2.wav",
  }
  assert outputs.mirrored(["/s/dog/1.wav"]) == {"/s/dog/1.wav": "1.wav"}
  assert outputs.mirrored(["/a.wav", "/b/a.wav"])["/b/a.wav"] == "b/a.wav"
  # One file by two names is one.
  assert [*outputs.mirrored(["/s/a.wav", "/s/../s/a.wav"]).values()] == [
    "a.wav",
    "a.wav",
  ]
  assert outputs.mirrored([]) == {}


@pytest.mark.parametrize("letter", ["x", "ü", "犬"])
def test_long_names_are_cut_and_stay_different(tmp_path, letter):
  num = 250 // len(letter.encode())
  names = [f"/s/{letter * num}{end}" for end in ("", "a", "b")]
  shorter = outputs.mirrored(names)
  assert len(set(shorter.values())) == 3
  assert shorter == outputs.mirrored(names)
  for name in shorter.values():
    assert name.startswith(letter * 20)
    storage.write_file(str(tmp_path / f"{name}.png"), b"x")
  assert len(os.listdir(tmp_path)) == 3


def test_names_that_are_not_utf8_are_spelled_out():
  latin = os.fsdecode(b"/s/caf\xe9.wav")
  assert outputs.mirrored([latin]) == {latin: r"caf\xe9.wav"}
  # As another may be named.
  both = outputs.mirrored([latin, "/s/caf\\xe9.wav"])
  assert sorted(both.values()) == [r"caf\xe9.wav", r"caf\xe9.wav_"]


def test_a_file_of_the_longest_name_is_written(tmp_path):
  path = tmp_path / ("x" * 255)
  outputs.check_file(str(path), "report")
  storage.write_file(str(path), b"content")
  assert path.read_bytes() == b"content"
  assert len(os.listdir(tmp_path)) == 1
  with pytest.raises(ValueError, match="more than 255 bytes"):
    outputs.check_file(f"{path}x", "report")


def test_a_link_stays_a_link(tmp_path):
  (tmp_path / "file").write_text("old")
  (tmp_path / "link").symlink_to("file")
  writer = outputs.Writer()
  assert writer.write(str(tmp_path / "link"), b"new")
  writer.close()
  assert (tmp_path / "link").is_symlink()
  assert (tmp_path / "file").read_text() == "new"


def test_a_trial_leaves_nothing(tmp_path):
  outputs.check_folder(str(tmp_path / "a" / "b"), "output_dir")
  assert os.listdir(tmp_path / "a" / "b") == []


def test_failures_are_counted(tmp_path):
  writer = outputs.Writer()
  (tmp_path / "file").touch()
  for i in range(5):
    assert not writer.write(str(tmp_path / "file" / str(i)), b"")
  assert writer.write(str(tmp_path / "new" / "a"), b"a")
  with pytest.raises(ValueError, match=r"/file/0 \(.*\), .* and 2 more$"):
    writer.close()


def test_a_mistake_of_the_program_is_no_failure(monkeypatch):
  monkeypatch.setattr(storage, "write_file", lambda path, content: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    outputs.Writer().write("a", b"")
