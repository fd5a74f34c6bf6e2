# SPDX-License-Identifier: Apache-2.0
"""A process that measures when it is asked to, for `benchmarks/benchmark.py`.

Only the standard library: the peers run with interpreters of their own.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable


def serve(functions: dict[str, Callable], about: str = "") -> None:
  """Answers each line of stdin, the name of a function, with its times.

  The first line of output holds the names and `about`. An answer has "seconds"
  and "cpu_seconds" (of all threads), the best of a few calls; "result", what
  the last call returned, which must be JSON; and "peak_mb" of the process so
  far. The function's first call of all is timed by itself: "first_seconds".

  Args:
    functions: Name -> what is measured, without arguments.
    about: Versions of packages.
  """
  # Libraries print to stdout as well.
  answers, sys.stdout = sys.stdout, sys.stderr
  first_seconds = {}

  def answer(content):
    print(json.dumps(content), file=answers, flush=True)

  answer({"names": [*functions], "about": about})
  for line in sys.stdin:
    name, num_calls = line.rstrip("\n").split("\t")
    times = []
    result = None
    # One more without measuring: others have had the caches meanwhile.
    for _ in range(1 + int(num_calls)):
      start, cpu_start = time.perf_counter(), time.process_time()
      result = functions[name]()
      times.append(
        (time.perf_counter() - start, time.process_time() - cpu_start)
      )
    first_seconds.setdefault(name, times[0][0])
    status = pathlib.Path("/proc/self/status").read_text()
    answer(
      {
        "seconds": min(seconds for seconds, _ in times[1:]),
        "cpu_seconds": min(seconds for _, seconds in times[1:]),
        "first_seconds": first_seconds[name],
        "result": result,
        "peak_mb": int(status.split("VmHWM:")[1].split()[0]) / 1024,
      }
    )


def clients(score: Callable, initialize: Callable | None = None) -> dict:
  """A client a core, each of which has one clip after the other scored.

  Args:
    score: Scores one clip.
    initialize: Called first in the thread of each client.

  Returns:
    Name -> what is measured, for `serve`.
  """
  num_clients = len(os.sched_getaffinity(0))
  threads = concurrent.futures.ThreadPoolExecutor(
    num_clients, initializer=initialize
  )
  num_clips = 8 * num_clients

  def score_all():
    for scored in [threads.submit(score) for _ in range(num_clips)]:
      scored.result()

  return {f"{num_clips} clips, {num_clients} at once": score_all}


def checked(ways: dict[str, Callable], data: str) -> dict[str, Callable]:
  """Front ends that are compared with the "log_mel" in the npz `data`.

  Args:
    ways: Name -> what computes float [batch, num_frames, num_mels].
    data: Path.

  Returns:
    Name -> the same without its result; in its first call it returns the
    greatest difference in log units.
  """
  import numpy as np

  with np.load(data) as arrays:
    expected = arrays["log_mel"]

  def measured(way):
    difference = None

    def call():
      nonlocal difference
      result = way()
      if difference is None:
        difference = float(np.abs(result - expected).max())
      return difference

    return call

  return {name: measured(way) for name, way in ways.items()}
