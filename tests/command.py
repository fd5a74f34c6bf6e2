# SPDX-License-Identifier: Apache-2.0
"""Runs a command line as a user does.

But that TensorFlow and the package are imported already, which takes four
seconds: unless an environment is given, a process is forked from one that has
done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tf_audioset", "tf_audioset.experiment"])


def run(
  *arguments, cwd=ROOT, timeout=600, env=None, variables=()
) -> subprocess.CompletedProcess:
  """`python ARGUMENTS`, from the checkout unless told; output as text.

  `env` is the environment of a new interpreter; `variables` are added to that
  or, where there is none, set after TensorFlow was imported.
  """
  arguments = [str(argument) for argument in arguments]
  if env is None:
    return Started(arguments, cwd, variables).wait(timeout)
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=cwd,
    env={**env, **dict(variables)},
    timeout=timeout,
    capture_output=True,
    text=True,
    stdin=subprocess.DEVNULL,
  )


def succeed(*arguments, **kwargs) -> str:
  """Runs it, checks that it ends well, and returns its standard output."""
  done = run(*arguments, **kwargs)
  assert done.returncode == 0, done.stderr
  return done.stdout


def fail(*arguments, code=2, **kwargs) -> str:
  """Runs it, checks for one line of error and no traceback; returns it."""
  done = run(*arguments, **kwargs)
  assert done.returncode == code, done.stdout + done.stderr
  assert "Traceback" not in done.stderr
  lines = [line for line in done.stderr.splitlines() if ": error: " in line]
  assert len(lines) == 1, done.stderr
  return lines[0]


class Started:
  """A command that runs, forked; `run` is one that has ended."""

  def __init__(self, arguments, cwd=ROOT, variables=()):
    self._folder = tempfile.TemporaryDirectory()
    self._outputs = [
      pathlib.Path(self._folder.name, name) for name in ("stdout", "stderr")
    ]
    for path in self._outputs:
      path.touch()
    self._arguments = arguments
    self._process = _SERVER.Process(
      target=_main, args=(arguments, cwd, variables, self._outputs)
    )
    self._process.start()

  def wait_for_line(self, start: str = "") -> None:
    """Waits for a line of its standard output that starts so."""
    with open(self._outputs[0]) as file:
      while True:
        has_ended = not self._process.is_alive()
        line = file.readline()
        if line and line.startswith(start):
          return
        if not line:
          assert not has_ended, self._outputs[1].read_text()
          time.sleep(0.01)

  def terminate(self) -> None:
    """Sends SIGTERM."""
    self._process.terminate()

  def wait(self, timeout=600) -> subprocess.CompletedProcess:
    """Waits for its end."""
    self._process.join(timeout)
    code = self._process.exitcode
    if code is None:
      self._process.kill()
      raise subprocess.TimeoutExpired(self._arguments, timeout)
    outputs = [path.read_text() for path in self._outputs]
    self._folder.cleanup()
    return subprocess.CompletedProcess(self._arguments, code, *outputs)


def _main(arguments, cwd, variables, outputs) -> None:
  """What the interpreter does with its arguments."""
  for number, path in enumerate((os.devnull, *outputs)):
    flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
    os.dup2(os.open(path, flags), number)
  os.environ.update(variables)
  os.chdir(cwd)
  kind, *rest = arguments
  is_file = kind not in ("-c", "-m")
  sys.path = [
    os.path.dirname(os.path.abspath(kind)) if is_file else os.getcwd(),
    *(path for path in sys.path if path not in ("", str(ROOT))),
  ]
  sys.argv = arguments if is_file else [kind, *rest[1:]]
  if is_file:
    runpy.run_path(kind, run_name="__main__")
  elif kind == "-m":
    runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
  else:
    exec(rest[0], {"__name__": "__main__"})
