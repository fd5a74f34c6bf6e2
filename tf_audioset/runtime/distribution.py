# SPDX-License-Identifier: Apache-2.0
"""From `--tpu` and the machine to a distribution strategy."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable

import tensorflow as tf
from official.common import distribute_utils

from tf_audioset.runtime.errors import UserError

_SECONDS = 10  # To reach a host of a TPU; seconds in a network are long.


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
    UserError: If the TPU cannot be reached, or TF_CONFIG cannot be understood.
  """
  if tpu:
    try:
      _check_answers(tpu)
      return distribute_utils.get_distribution_strategy("tpu", tpu_address=tpu)
    except Exception as e:  # The resolver raises whatever its HTTP client does.
      reason = str(e).strip().splitlines() or [type(e).__name__]
      raise UserError(
        f"--tpu={tpu}: no such TPU can be reached ({reason[0]}). On a TPU VM "
        "use --tpu=local; without a TPU leave the flag out."
      ) from e
  num_workers = _num_workers()
  if num_workers > 1:
    print(f"waiting for the {num_workers} workers of TF_CONFIG", flush=True)
    return tf.distribute.MultiWorkerMirroredStrategy()
  num_gpus = len(tf.config.list_physical_devices("GPU"))
  return distribute_utils.get_distribution_strategy(
    "mirrored" if num_gpus > 1 else "one_device", num_gpus=num_gpus
  )


def _check_answers(tpu: str) -> None:
  """Raises unless each host of a TPU takes connections.

  TensorFlow itself would wait for one that does not, for minutes.
  """
  resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu)
  # Empty for "local", which has no host but this.
  for address in resolver.cluster_spec().as_dict().get("worker", []):
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), _SECONDS).close()


def _num_workers() -> int:
  """Returns how many workers TF_CONFIG names.

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
    raise UserError(
      f"TF_CONFIG is not what TensorFlow expects ({e}): {text}"
    ) from e


def batches(
  strategy: tf.distribute.Strategy,
  dataset: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
  """Returns an iterator over what each replica gets of a dataset.

  Args:
    strategy: Where the replicas are.
    dataset: Makes a host's share of the batches.
  """
  one_device = isinstance(strategy, tf.distribute.OneDeviceStrategy)
  if one_device and _kind(strategy) == "CPU":
    # There is no device to send them to, by two more threads.
    return dataset(tf.distribute.InputContext())
  return strategy.distribute_datasets_from_function(dataset)


def is_chief(strategy: tf.distribute.Strategy) -> bool:
  """Returns whether this process is the one of its run that writes."""
  if not has_peers(strategy):
    return True
  resolver = strategy.cluster_resolver
  has_chief = "chief" in resolver.cluster_spec().jobs
  return resolver.task_type == "chief" or (
    not has_chief and resolver.task_id == 0
  )


def has_peers(strategy: tf.distribute.Strategy) -> bool:
  """Returns whether other processes run the program in step with this one."""
  return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def any_process(strategy: tf.distribute.Strategy, value: bool) -> bool:
  """Returns whether `value` is true in any process of the run."""
  if not has_peers(strategy):
    return value
  values = strategy.experimental_distribute_values_from_function(
    lambda _: tf.constant(int(value))
  )
  return bool(strategy.reduce("SUM", values, axis=None) > 0)


def is_same_in_all(strategy: tf.distribute.Strategy, value: int) -> bool:
  """Returns whether `value` is the same in all processes of the run."""
  if not has_peers(strategy):
    return True
  values = strategy.experimental_distribute_values_from_function(
    lambda _: tf.constant(value, tf.int64)
  )
  total = int(strategy.reduce("SUM", values, axis=None))
  # It is the mean in one that differs from another only if not in that one.
  return not any_process(
    strategy, total != value * strategy.num_replicas_in_sync
  )


def is_remote(strategy: tf.distribute.Strategy) -> bool:
  """Returns whether a TPU's hosts are other machines: a TPU node, or a pod.

  Their input pipelines run there, where nothing of this process's Python is,
  and files on this machine's disks are not seen.
  """
  return (
    isinstance(strategy, tf.distribute.TPUStrategy)
    and "/job:localhost/" not in strategy.extended.worker_devices[0]
  )


def describe(strategy: tf.distribute.Strategy) -> str:
  """Returns a line for the log, such as "1 replica on CPU"."""
  count = strategy.num_replicas_in_sync
  line = f"{count} replica{'s' if count > 1 else ''} on {_kind(strategy)}"
  if is_remote(strategy):
    num_hosts = strategy.extended.num_hosts
    line += f" of {num_hosts} other host{'s' if num_hosts > 1 else ''}"
  return line


def _kind(strategy):
  """Returns the kind of its devices: CPU, GPU or TPU."""
  return strategy.extended.worker_devices[0].split("device:")[-1].split(":")[0]
