# SPDX-License-Identifier: Apache-2.0
"""The overhead of tools/predict.py over decoding and scoring alone.

  python benchmarks/benchmark_predict.py --saved_model DIR FILE...

FILE is an audio file, a folder or a pattern. Measured in turn, the best of the
rounds: the decoding alone, with predict's threads; the model alone, on the same
batches, decoded before (which holds all of them in memory, 230 MB an hour);
both as predict does them, in this process, after a first round that is not
measured; and the command itself. Its start-up (imports, loading the model) is
reported separately, but its first batches, which are slower than the rest, are
not.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import time
from collections.abc import Callable

from absl import flags

from tf_audioset.runtime import cli

FLAGS = flags.FLAGS
flags.DEFINE_string("saved_model", None, "What training exported.")
flags.DEFINE_integer("rounds", 3, "Turns; the best counts.", lower_bound=1)

_PREDICT = pathlib.Path(__file__).resolve().parents[1] / "tools" / "predict.py"


def main(arguments: list[str]) -> None:
  # Imported late: a mistake in the flags is answered at once.
  from tf_audioset.data import audio_files
  from tf_audioset.serving import exported_tagger, prediction

  files = audio_files.expand(arguments).paths
  tagger = exported_tagger.ExportedTagger(FLAGS.saved_model)
  decoded = [*prediction.decode_files(files, tagger.sample_rate_hz)]
  for _, one in decoded:
    if isinstance(one, Exception):
      raise one
  command = [sys.executable, _PREDICT, f"--saved_model={FLAGS.saved_model}"]

  def run_command():
    done = subprocess.run(
      [*command, *arguments], check=True, capture_output=True, text=True
    )
    return float(re.search(r" in ([\d.]+) s:", done.stderr)[1])

  ways = {
    "decode": lambda: _count(
      prediction.decode_files(files, tagger.sample_rate_hz)
    ),
    "model": lambda: _count(prediction.score_decoded(tagger, decoded)),
    "both": lambda: _count(prediction.score_files(tagger, files)),
  }
  times = {name: [] for name in (*ways, "command", "start-up")}
  with cli.progress_bar(1 + FLAGS.rounds, "measure", " rounds") as bar:
    for i in range(1 + FLAGS.rounds):
      for name, way in ways.items():
        seconds = _seconds(way)
        if i:
          times[name].append(seconds)
      if i:
        whole = _seconds(lambda: times["command"].append(run_command()))
        times["start-up"].append(whole - times["command"][-1])
      bar.update()
  best = {name: min(seconds) for name, seconds in times.items()}
  total = best["decode"] + best["model"]
  sizes = [len(x.waveform) for _, x in decoded]
  seconds_of_audio = sum(sizes) / tagger.sample_rate_hz
  lengths = set(sizes)
  print(
    f"{len(files)} files of {len(lengths)} lengths, "
    f"{prediction.clock(seconds_of_audio)}"
  )
  for name, note in (
    ("decode", "alone"),
    ("model", "alone"),
    ("both", f"{best['both'] / total:.2f} x decode + model"),
    (
      "command",
      f"{best['command'] / total:.2f} x decode + model, without start-up; "
      f"{(best['command'] + best['start-up']) / total:.2f} x with it",
    ),
    ("start-up", "of the command"),
  ):
    print(f"{name:10}{best[name]:8.2f} s  {note}")


def _count(items) -> int:
  return sum(1 for _ in items)


def _seconds(call: Callable) -> float:
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


if __name__ == "__main__":
  cli.run(
    main,
    prog="benchmark_predict",
    required=["saved_model"],
    positional="FILE",
  )
