# SPDX-License-Identifier: Apache-2.0
r"""How many positions of the training stream are turned into clips in a second.

  python benchmarks/benchmark_sampling.py

Clips and labels are made up, as many as AudioSet has, with classes of 60 to
950,000 clips. Positions are looked up in groups of 64 in a tf.data pipeline, as
in training, but nothing is read.
"""

from __future__ import annotations

import os
import time
import types

from absl import flags

from tf_audioset.runtime import cli

FLAGS = flags.FLAGS
flags.DEFINE_integer("num_clips", 1_786_000, "Clips.", lower_bound=1000)
flags.DEFINE_integer("rounds", 3, "The best counts.", lower_bound=1)
flags.DEFINE_integer("num_draws", 1 << 20, "Timed.", lower_bound=64)

_NUM_CLASSES = 527
_GROUP = 64


def main() -> None:
  import tensorflow as tf

  from tf_audioset.data import pipeline, sampling

  split = _split(FLAGS.num_clips)
  begin = time.perf_counter()
  balanced = sampling.BalancedSampler().order(split, seed=1)
  seconds = time.perf_counter() - begin
  orders = {
    "without a sampler": pipeline.Pipeline()._order(split, 1),
    "balanced": balanced,
  }
  print(f"{len(os.sched_getaffinity(0))} cores; tables made in {seconds:.1f} s")
  for name, order in orders.items():
    rates = []
    for _ in range(FLAGS.rounds):
      positions = tf.data.Dataset.range(FLAGS.num_draws).batch(_GROUP)
      begin = time.perf_counter()
      for _ in positions.map(order):
        pass
      rates.append(FLAGS.num_draws / (time.perf_counter() - begin))
    print(f"{name}: {max(rates):,.0f} positions/s")


def _split(num_clips: int):
  """As much of `prepared.Split` as an order needs."""
  import numpy as np

  from tf_audioset.data import prepared

  rng = np.random.default_rng(0)
  counts = np.geomspace(60, 40_000, _NUM_CLASSES - 6).tolist()
  counts += [60_000, 90_000, 120_000, 160_000, 900_000, 950_000]
  counts = np.minimum(np.array(counts) * num_clips / 1_786_000, num_clips)
  counts = np.maximum(counts, 1).astype(int)
  rows = np.concatenate([rng.integers(num_clips, size=n) for n in counts])
  classes = np.repeat(np.arange(_NUM_CLASSES, dtype=np.int32), counts)
  by_clip = np.argsort(rows, kind="stable")
  nothing = np.zeros(num_clips)
  table = prepared.ClipTable(
    nothing.astype("S1"),
    nothing.astype(np.int32),
    classes[by_clip],
    np.cumsum(np.bincount(rows, minlength=num_clips)),
    nothing.astype(np.uint64),
  )
  return types.SimpleNamespace(
    files=["none"], num_clips=num_clips, index=table, clips=lambda: table
  )


if __name__ == "__main__":
  cli.run(main, prog="benchmark_sampling")
