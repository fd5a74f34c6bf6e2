# SPDX-License-Identifier: Apache-2.0
r"""Compares two checkpoints, tensor by tensor.

  python tools/diff_checkpoints.py runs/a/checkpoints runs/b/checkpoints

A folder stands for its newest checkpoint. Exit code 0: the same to the bit;
1: not, with a line for each tensor that differs.
"""

from __future__ import annotations

from collections.abc import Sequence

from tf_audioset.runtime import cli
from tf_audioset.runtime.errors import UserError


def main(paths: Sequence[str]) -> int:
  if len(paths) != 2:
    raise UserError(f"two checkpoints are compared, not {len(paths)}.")
  import numpy as np

  first, second = map(_read, paths)
  num_differing = 0
  for name in sorted(first.keys() | second.keys()):
    a, b = first.get(name), second.get(name)
    if a is None or b is None:
      line = f"only in {paths[0] if b is None else paths[1]}"
    elif a.shape != b.shape or a.dtype != b.dtype:
      line = f"{a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}"
    elif a.tobytes() == b.tobytes():
      continue
    elif np.issubdtype(a.dtype, np.number):
      difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
      line = (
        f"{np.count_nonzero(difference)} of {a.size} differ, by at most "
        f"{difference.max():.3g}"
      )
    else:
      line = f"{a!r} and {b!r}"
    print(f"{name}: {line}")
    num_differing += 1
  num_values = sum(a.size for a in first.values())
  print(
    f"{len(first)} tensors, {num_values} values: "
    + (f"{num_differing} tensors differ" if num_differing else "all the same")
  )
  return int(num_differing > 0)


def _read(path):
  """Reads every tensor of a checkpoint, by name."""
  import tensorflow as tf

  found = tf.train.latest_checkpoint(path) or path
  try:
    reader = tf.train.load_checkpoint(found)
    return {
      name: reader.get_tensor(name)
      for name in reader.get_variable_to_shape_map()
      # How the objects hang together, not a value.
      if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }
  # IndexError: a file that was cut off.
  except (tf.errors.OpError, ValueError, IndexError) as e:
    raise UserError(f"{path}: no checkpoint that can be read there.") from e


def run() -> None:
  """Runs the command line."""
  cli.run(main, prog="diff_checkpoints", positional="checkpoint")


if __name__ == "__main__":
  run()
