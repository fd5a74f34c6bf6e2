# SPDX-License-Identifier: Apache-2.0
"""Runs a command line as a user does."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def run(
  *arguments, cwd=ROOT, timeout=600, env=None
) -> subprocess.CompletedProcess:
  """`python ARGUMENTS`, from the checkout unless told; output as text."""
  return subprocess.run(
    [sys.executable, *map(str, arguments)],
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
