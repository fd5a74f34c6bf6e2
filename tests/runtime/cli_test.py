# SPDX-License-Identifier: Apache-2.0
"""What all command lines have in common."""

import contextlib
import fcntl
import os
import struct
import subprocess
import sys
import tempfile
import termios

import pytest

from tests import command
from tf_audioset.runtime import cli

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


def test_generated_code_is_removed_at_the_end(tmp_path):
  code = (
    "import os, sys, tempfile\n"
    "import tensorflow as tf\n"
    "from absl import flags\n"
    "from tf_audioset.runtime import cli\n"
    f"tempfile.tempdir = {str(tmp_path)!r}\n"
    "def main():\n"
    # Of a file: AutoGraph reads the source.
    "  from tf_audioset.training import optimizers\n"
    "  tf.function(optimizers.scaled_learning_rate)(tf.constant(1.0), 2.0)\n"
    f"  print(len(os.listdir({str(tmp_path)!r})))\n"
    "sys.argv = ['x']\n"
    "cli.run(main, prog='x')"
  )
  assert int(command.succeed("-c", code)) > 0
  assert not list(tmp_path.iterdir())


def test_not_a_number_is_no_length():
  flag = "--clip_seconds=nan"
  assert flag in command.fail("tools/make_tfrecords.py", flag)


def _with_bar(stdout, **options):
  """Prints a result among progress, on a terminal and `stdout`; returns both.

  The terminal is the standard error, or both if `stdout` is None.
  """
  ours, theirs = os.openpty()
  # 24 rows of 80 columns: a terminal without columns has no bar.
  fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
  code = (
    "from tf_audioset.runtime import cli\n"
    f"with cli.progress_bar(2, 'work', 'x', **{options}) as bar:\n"
    "  bar.update()\n"
    "  print('result', flush=True)\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=command.ROOT,
    stdout=theirs if stdout is None else stdout,
    stderr=theirs,
    check=True,
  )
  os.close(theirs)
  shown = b""
  with contextlib.suppress(OSError):  # The other side is closed.
    while block := os.read(ours, 4096):
      shown += block
  os.close(ours)
  return shown.decode(), done.stdout


def test_no_bar_is_in_the_way_of_results_in_a_pipe():
  shown, printed = _with_bar(subprocess.PIPE, among_results=True)
  assert (shown, printed) == ("", b"result\n")
  # Else there is one, and where the results go to a file.
  assert "work:  50%" in _with_bar(subprocess.PIPE)[0]
  with tempfile.TemporaryFile() as file:
    assert "work:  50%" in _with_bar(file, among_results=True)[0]


def test_a_log_file_has_progress_on_lines_of_its_own(capsys):
  with cli.progress_bar(2, "work", "x", among_results=True) as bar:
    bar.update()
  assert capsys.readouterr().err == ""  # It took less than half a minute.
  with cli.progress_bar(2, "work", "x", among_results=True) as bar:
    bar.start_t -= 100
    bar.last_print_t -= 100
    bar.update()
    print("error", file=sys.stderr)
  first, error, *_ = capsys.readouterr().err.splitlines()
  assert first.startswith("work:  50%") and error == "error"


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
  assert "pip install '.[plot]'" in command.fail("-c", code, cwd=tmp_path)
