# SPDX-License-Identifier: Apache-2.0
"""Files, folders and pipes that a command is given."""

import io
import os
import socket
import sys
import types

import numpy as np
import pytest
import soundfile

from tf_audioset.serving import inputs


def _wav() -> bytes:
  file = io.BytesIO()
  soundfile.write(file, np.zeros(9), 16000, format="WAV")
  return file.getvalue()


def test_the_standard_input_is_copied_once(tmp_path, monkeypatch):
  stdin = types.SimpleNamespace(buffer=io.BytesIO(b"content"))
  monkeypatch.setattr(sys, "stdin", stdin)
  (tmp_path / "stdin").write_bytes(_wav())
  file = str(tmp_path / "stdin")
  files = inputs.Inputs(["-", file, "-"])
  files.copy_pipes(str(tmp_path))
  first, other, again = files.paths
  assert (first, other) == (again, file)
  with open(first, "rb") as copy:
    assert copy.read() == b"content"
  assert files.given(first) == "-"
  assert files.shown(f"{first}: cannot be read") == "-: cannot be read"
  assert files.output_names() == {file: "stdin", first: "stdin_"}


def test_what_has_no_end_is_told_and_the_rest_is_read(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.wav").write_bytes(_wav())
  server = socket.socket(socket.AF_UNIX)
  server.bind("socket")
  files = inputs.Inputs(["/dev/zero", "socket", "a.wav", "none"])
  files.copy_pipes(str(tmp_path))
  server.close()
  assert files.paths == ["a.wav", "none"]
  assert [str(failure) for failure in files.failures] == [
    f"{name}: cannot be read (a device or socket; - is the standard input)"
    for name in ("/dev/zero", "socket")
  ]


def test_a_folder_s_files_have_short_names(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "a.wav").write_bytes(_wav())
  (tmp_path / "a.txt").touch()
  os.symlink("gone", "b.wav")
  files = inputs.Inputs(["."])
  assert files.paths == ["a.wav"]
  assert "1 .txt" in files.passed_over()
  assert "1 broken link" in files.passed_over()
  with pytest.raises(ValueError, match="no audio file there"):
    inputs.Inputs(["*.txt"])
