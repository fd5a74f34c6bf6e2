# SPDX-License-Identifier: Apache-2.0
"""From `--tpu` and the machine to a distribution strategy."""

from __future__ import annotations

import json
import os
import socket

import tensorflow as tf
from official.common import distribute_utils

_SECONDS = 10  # To reach a TPU's host; seconds in a network are long.


def strategy(tpu: str | None) -> tf.distribute.Strategy:
  """Finds the devices and spreads training over them.

  Args:
    tpu: A TPU's name or grpc:// address, or "local" on a TPU VM; None or empty
      for the workers that TF_CONFIG names, for the GPUs of this machine or,
      without any, its CPU.

  Returns:
    TPUStrategy, MultiWorkerMirroredStrategy (TF_CONFIG), MirroredStrategy
    (several GPUs) or OneDeviceStrategy.

  Raises:
    ValueError: If the TPU cannot be reached, or TF_CONFIG cannot be understood.
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
  if _num_workers() > 1:
    return tf.distribute.MultiWorkerMirroredStrategy()
  num_gpus = len(tf.config.list_physical_devices("GPU"))
  return distribute_utils.get_distribution_strategy(
    "mirrored" if num_gpus > 1 else "one_device", num_gpus=num_gpus
  )


def _num_workers() -> int:
  """How many TF_CONFIG names, which TensorFlow expects of several workers.

  Such as {"cluster": {"worker": ["host1:2222", "host2:2222"]},
           "task": {"type": "worker", "index": 0}}.
  """
  text = os.environ.get("TF_CONFIG")
  if not text:
    return 1
  try:
    cluster = json.loads(text).get("cluster", {})
    return len([*cluster.get("chief", []), *cluster.get("worker", [])])
  except (ValueError, AttributeError, TypeError) as e:
    raise ValueError(
      f"TF_CONFIG is not what TensorFlow expects ({e}): {text}"
    ) from e


def is_chief(strategy: tf.distribute.Strategy) -> bool:
  """Whether this process is the one of its run that writes."""
  if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return True
  resolver = strategy.cluster_resolver
  has_chief = "chief" in resolver.cluster_spec().jobs
  return resolver.task_type == "chief" or (
    not has_chief and resolver.task_id == 0
  )


def any_process(strategy: tf.distribute.Strategy, value: bool) -> bool:
  """Whether `value` is true in any process of the run."""
  if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
    return value
  values = strategy.experimental_distribute_values_from_function(
    lambda _: tf.constant(int(value))
  )
  return bool(strategy.reduce("SUM", values, axis=None) > 0)


def describe(strategy: tf.distribute.Strategy) -> str:
  """One line for the log, such as "1 replica on CPU"."""
  count = strategy.num_replicas_in_sync
  kind = strategy.extended.worker_devices[0].split("device:")[-1].split(":")[0]
  return f"{count} replica{'s' if count > 1 else ''} on {kind}"
