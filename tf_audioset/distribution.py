# SPDX-License-Identifier: Apache-2.0
"""From `--tpu` and the machine to a distribution strategy."""

from __future__ import annotations

import socket

import tensorflow as tf
from official.common import distribute_utils

_SECONDS = 10  # To reach a TPU's host; seconds in a network are long.


def strategy(tpu: str | None) -> tf.distribute.Strategy:
  """Finds the devices and spreads training over them.

  Args:
    tpu: A TPU's name or grpc:// address, or "local" on a TPU VM; None or empty
      for the GPUs of this machine or, without any, its CPU.

  Returns:
    TPUStrategy, MirroredStrategy (several GPUs) or OneDeviceStrategy.

  Raises:
    ValueError: If the TPU cannot be reached.
  """
  if tpu:
    try:
      if tpu.startswith("grpc://"):
        # TensorFlow itself would wait for minutes.
        host, _, port = tpu[len("grpc://") :].partition(":")
        socket.create_connection((host, int(port)), _SECONDS).close()
      return distribute_utils.get_distribution_strategy("tpu", tpu_address=tpu)
    except Exception as e:  # The resolver raises whatever its HTTP client does.
      reason = str(e).strip().splitlines() or [type(e).__name__]
      raise ValueError(
        f"--tpu={tpu}: no such TPU can be reached ({reason[0]}). On a TPU VM "
        "use --tpu=local; without a TPU leave the flag out."
      ) from e
  num_gpus = len(tf.config.list_physical_devices("GPU"))
  return distribute_utils.get_distribution_strategy(
    "mirrored" if num_gpus > 1 else "one_device", num_gpus=num_gpus
  )


def describe(strategy: tf.distribute.Strategy) -> str:
  """One line for the log, such as "1 replica on CPU"."""
  count = strategy.num_replicas_in_sync
  kind = strategy.extended.worker_devices[0].split("device:")[-1].split(":")[0]
  return f"{count} replica{'s' if count > 1 else ''} on {kind}"
