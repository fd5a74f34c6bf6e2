# SPDX-License-Identifier: Apache-2.0
r"""How long a run takes to resume after it was stopped, and to stop.

  python benchmarks/benchmark_resume.py [--num_clips=20000] [--repeats=3]

Trains a small network on --num_clips generated clips up to 90 % of an epoch,
sends it SIGTERM, and then starts it in turn from scratch and from its
checkpoint. Times are of whole processes, from launch to the first step's line.
"""

from __future__ import annotations

import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_clips", 20000, "Clips per epoch.", lower_bound=100)
flags.DEFINE_integer("repeats", 3, "Starts of each kind.", lower_bound=1)
flags.DEFINE_float(
  "clip_seconds", 2.0, "Length of a generated clip.", lower_bound=0.2
)

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_BATCH_SIZE = 50


def main() -> None:
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    _generate(folder / "records")
    num_steps = FLAGS.num_clips // _BATCH_SIZE
    stop_at = round(0.9 * num_steps)
    print(f"training up to step {stop_at} of an epoch of {num_steps}")
    process = _start(folder / "records", folder / "stopped")
    _wait_for(process, f"step {stop_at}/")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    print(
      f"SIGTERM to exit with code {process.returncode}: "
      f"{time.monotonic() - begin:.2f} s"
    )
    seconds = {"fresh": [], "resumed": []}
    for i in range(FLAGS.repeats):
      shutil.copytree(folder / "stopped", folder / f"resumed{i}")
      for kind, of_kind in seconds.items():
        begin = time.monotonic()
        process = _start(folder / "records", folder / f"{kind}{i}")
        _wait_for(process, "step ")
        of_kind.append(time.monotonic() - begin)
        process.kill()
        process.communicate()
        print(f"{kind}: {of_kind[-1]:.2f} s to the first step")
  ratios = [b / a for a, b in zip(*seconds.values())]
  print(
    f"resumed / fresh: median {statistics.median(ratios):.2f}, "
    f"{min(ratios):.2f} to {max(ratios):.2f}, of {len(ratios)} pairs"
  )


def _generate(folder: pathlib.Path) -> None:
  """A data set of noise, prepared as a user's would be."""
  import numpy as np
  import soundfile

  sounds = folder.parent / "sounds"
  rng = np.random.default_rng(0)
  num_samples = round(FLAGS.clip_seconds * 16000)
  for name in ("loud", "soft"):
    (sounds / name).mkdir(parents=True)
    noise = rng.normal(scale=0.1 if name == "loud" else 0.01, size=num_samples)
    soundfile.write(sounds / name / "0.wav", noise, 16000)
    for i in range(1, FLAGS.num_clips // 2):
      (sounds / name / f"{i}.wav").symlink_to("0.wav")
  for split in ("train", "eval"):
    subprocess.run(
      [
        sys.executable,
        _ROOT / "tools" / "make_tfrecords.py",
        f"--split={split}",
        f"--class_dirs={sounds}",
        f"--output_dir={folder}",
      ],
      check=True,
    )
    for path in sounds.glob("*/??*.wav"):  # Ten clips a class are judged.
      path.unlink()


def _start(records: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen:
  bindings = (
    f"train.global_batch_size = {_BATCH_SIZE}",
    "train.num_epochs = 3",
    "train.steps_per_loop = 1",
    "train.checkpoint_steps = 1000000",
    "ResNet.width = 4",
    "Pipeline.crop_seconds = 0.2",
  )
  return subprocess.Popen(
    [
      sys.executable,
      "-m",
      "tf_audioset.train",
      "--gin_file=gin/quickstart.gin",
      f"--data_dir={records}",
      f"--workdir={workdir}",
      *(f"--gin_bindings={binding}" for binding in bindings),
    ],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def _wait_for(process: subprocess.Popen, words: str) -> None:
  for line in process.stdout:
    if line.startswith(words):
      return
  raise UserError(f"the training ended before it said {words!r}.")


if __name__ == "__main__":
  cli.run(main, prog="benchmark_resume")
