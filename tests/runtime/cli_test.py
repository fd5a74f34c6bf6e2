# SPDX-License-Identifier: Apache-2.0
"""What all command lines have in common."""

import subprocess
import sys

import pytest

from tests import command

_PROGRAMS = ["-m tf_audioset.train"] + sorted(
  f"tools/{path.name}"
  for path in (command.ROOT / "tools").glob("*.py")
  if "cli.run(" in path.read_text()
)


@pytest.mark.parametrize("program", _PROGRAMS)
def test_help_says_what_it_is_for_and_lists_its_flags(program):
  out = command.succeed(*program.split(), "--help")
  assert program.replace("tools/", "python tools/") in out
  assert "--[no]debug" in out
  # A command of two lines is two, as a shell takes them.
  assert all(line.endswith("\\") for line in out.splitlines() if "\\" in line)


def test_a_reader_that_has_seen_enough_is_no_mistake():
  process = subprocess.Popen(
    [sys.executable, "tools/predict.py", "--help"],
    cwd=command.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.close()
  assert process.stderr.read() == b""
  process.wait()


def test_not_a_number_is_no_length():
  flag = "--clip_seconds=nan"
  assert flag in command.fail("tools/make_tfrecords.py", flag)


@pytest.mark.parametrize(
  ("tool", "arguments"),
  [
    ("plot_curves", ["--output=curves.png", "run"]),
    ("inspect_records", ["--plot=clip", "records"]),
    ("predict", ["--saved_model=m", "--timeline", "--png_dir=p", "a.wav"]),
  ],
)
def test_a_picture_needs_matplotlib(tmp_path, tool, arguments):
  (tmp_path / "a.wav").touch()
  script = command.ROOT / "tools" / f"{tool}.py"
  code = (
    "import runpy, sys\n"
    "sys.modules['matplotlib'] = None\n"  # As if it were not there.
    f"sys.argv = {[str(script), *arguments]}\n"
    f"runpy.run_path({str(script)!r}, run_name='__main__')"
  )
  assert "pip install 'tf_audioset[plot]'" in command.fail(
    "-c", code, cwd=tmp_path
  )
