# SPDX-License-Identifier: Apache-2.0
"""Trains once undisturbed and once killed again and again, and compares.

  python -m tests.killing DIR NUM_KILLS SEED

A program of its own because it forks, which is possible only before TensorFlow
has run anything.
"""

from __future__ import annotations

import os
import pathlib
import random
import re
import signal
import sys
import threading
import time

import tensorflow as tf

from tests import small
from tf_audioset import experiment
from tf_audioset.evaluation import scoring
from tf_audioset.runtime import cli, distribution, gin_config
from tf_audioset.training import checkpoints, reporting

# 24 epochs of 3 steps; a loop is 2 steps and then 1.
_BINDINGS = (
  *small.BINDINGS,
  "train.num_epochs = 24",
  "train.steps_per_loop = 2",
  "train.average_share = 0.2",  # Its average has to be continued as well.
)


def _train(folder: pathlib.Path, workdir: pathlib.Path) -> None:
  gin_config.load(["gin/quickstart.gin"], _BINDINGS)
  experiment.Experiment().run(
    distribution.strategy(None), str(folder / "records"), str(workdir)
  )


def _die() -> None:
  os.kill(os.getpid(), signal.SIGKILL)


def _die_at_call(owner, name: str, count: int, delay_seconds: float) -> None:
  """Kills this process some time after the count-th call of a method."""
  original = getattr(owner, name)
  calls = iter(range(count))

  def counted(*args, **kwargs):
    if next(calls, None) is None:
      threading.Timer(delay_seconds, _die).start()
    return original(*args, **kwargs)

  setattr(owner, name, counted)


def _die_in_writing(folder: pathlib.Path, count: int) -> None:
  """Kills this process once a checkpoint is begun and not yet listed."""
  original = checkpoints.Checkpoints.save
  calls = iter(range(count))

  def watch(step):
    while not any(folder.glob(f"checkpoints/ckpt-{step}*")):
      pass
    _die()

  def save(self, step):
    if next(calls, None) is None:
      threading.Thread(target=watch, args=[step], daemon=True).start()
    original(self, step)

  checkpoints.Checkpoints.save = save


def _start(folder, workdir, prepare) -> int:
  """Trains in a process of its own; returns how it ended, as os.waitpid."""
  sys.stdout.flush()
  pid = os.fork()
  if pid == 0:
    log = os.open(
      folder / f"{workdir.name}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND
    )
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
      prepare()
      _train(folder, workdir)
      code = 0
    finally:
      cli.remove_generated_code()
      os._exit(code)
  return os.waitpid(pid, 0)[1]


def _is_half_written(workdir: pathlib.Path) -> bool:
  """Whether a checkpoint is there that the list does not name."""
  folder = workdir / "checkpoints"
  listed = (folder / "checkpoint").read_text() if folder.is_dir() else ""
  return any(
    f'"{match[0]}"' not in listed
    for match in (re.match(r"ckpt-\d+", p.name) for p in folder.glob("ckpt-*"))
    if match
  )


def main() -> None:
  folder, num_kills = pathlib.Path(sys.argv[1]), int(sys.argv[2])
  rng = random.Random(int(sys.argv[3]))
  begin = time.monotonic()
  assert _start(folder, folder / "undisturbed_by_kills", lambda: None) == 0
  print(f"undisturbed: {time.monotonic() - begin:.1f} s")
  killed = folder / "killed"
  half_written = 0
  for i in range(num_kills):
    count, delay_seconds = rng.randint(0, 3), rng.uniform(0, 0.2)

    def prepare(i=i, count=count, delay_seconds=delay_seconds):
      if i % 2:
        _die_in_writing(killed, count)
      elif i % 4:
        _die_at_call(scoring.Evaluator, "evaluate", count, delay_seconds)
      else:
        _die_at_call(reporting.Report, "loop", count, delay_seconds)

    status = _start(folder, killed, prepare)
    assert os.WIFSIGNALED(status), f"it ended by itself: {status}"
    half_written += _is_half_written(killed)
    newest = tf.train.latest_checkpoint(str(killed / "checkpoints"))
    print(f"kill {i + 1}: newest is {newest and pathlib.Path(newest).name}")
  assert _start(folder, killed, lambda: None) == 0
  print(f"{half_written} kills left a checkpoint half written")


if __name__ == "__main__":
  main()
