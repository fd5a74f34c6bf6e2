# SPDX-License-Identifier: Apache-2.0
"""Runs a command line as a user does.

But that TensorFlow is imported already, which takes three seconds: unless an
environment is given, a process is forked from one that has done nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tf_audioset", "tensorflow"])


def run(
  *arguments, cwd=ROOT, timeout=600, env=None
) -> subprocess.CompletedProcess:
  """`python ARGUMENTS`, from the checkout unless told; output as text."""
  arguments = [str(argument) for argument in arguments]
  if env is None:
    return _run_forked(arguments, cwd, timeout)
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=cwd,
    env=env,
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


def _run_forked(arguments, cwd, timeout):
  with tempfile.TemporaryDirectory() as folder:
    outputs = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
    process = _SERVER.Process(target=_main, args=(arguments, cwd, outputs))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
      process.kill()
      raise subprocess.TimeoutExpired(arguments, timeout)
    return subprocess.CompletedProcess(
      arguments, process.exitcode, *(path.read_text() for path in outputs)
    )


def _main(arguments, cwd, outputs) -> None:
  """What the interpreter does with its arguments."""
  for number, path in enumerate((os.devnull, *outputs)):
    flags = os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY
    os.dup2(os.open(path, flags), number)
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
