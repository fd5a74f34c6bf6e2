# SPDX-License-Identifier: Apache-2.0
"""Which devices are found, and what is said where there are none."""

import socket
import time
from unittest import mock

import pytest
import tensorflow as tf

from tf_audioset.runtime import distribution


def test_without_a_flag_it_is_this_machine():
  strategy = distribution.strategy(None)
  assert strategy.num_replicas_in_sync == 1
  assert distribution.describe(strategy) == "1 replica on CPU"


@pytest.mark.parametrize(
  "tpu", ["local", "grpc://127.0.0.1:{port}", "grpc://x"]
)
def test_an_absent_tpu_is_told_at_once(tpu):
  with socket.socket() as closed:  # Bound, but nobody listens.
    closed.bind(("127.0.0.1", 0))
    tpu = tpu.format(port=closed.getsockname()[1])
    begin = time.monotonic()
    with pytest.raises(ValueError, match="no such TPU can be reached"):
      distribution.strategy(tpu)
  assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
  ("device", "is_remote", "words"),
  [
    (
      "/job:localhost/replica:0/task:0/device:TPU:0",
      False,
      "8 replicas on TPU",
    ),
    (
      "/job:worker/replica:0/task:0/device:TPU:0",
      True,
      "8 replicas on TPU of 1 other host",
    ),
  ],
)
def test_a_tpu_of_other_machines_is_told_from_one_of_this(
  device, is_remote, words
):
  strategy = mock.create_autospec(tf.distribute.TPUStrategy, instance=True)
  strategy.num_replicas_in_sync = 8
  strategy.extended.worker_devices = (device,) * 8
  strategy.extended.num_hosts = 1
  assert distribution.is_remote(strategy) == is_remote
  assert distribution.describe(strategy) == words


def test_a_name_whose_host_does_not_answer_is_told_at_once(monkeypatch):
  """Google's API knows the TPU, but it is switched off."""
  with socket.socket() as closed:
    closed.bind(("127.0.0.1", 0))
    spec = {"worker": [f"127.0.0.1:{closed.getsockname()[1]}"]}
    resolver = mock.Mock()
    resolver.cluster_spec().as_dict.return_value = spec
    monkeypatch.setattr(
      tf.distribute.cluster_resolver, "TPUClusterResolver", lambda _: resolver
    )
    with pytest.raises(ValueError, match="my-tpu: no such.*refused"):
      distribution.strategy("my-tpu")


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": 3}'])
def test_a_broken_tf_config_is_told(monkeypatch, text):
  monkeypatch.setenv("TF_CONFIG", text)
  with pytest.raises(ValueError, match="TF_CONFIG is not what"):
    distribution.strategy(None)


@pytest.mark.parametrize(
  ("num_gpus", "kind"), [(0, "one_device"), (1, "one_device"), (4, "mirrored")]
)
def test_the_gpus_of_this_machine_are_taken(monkeypatch, num_gpus, kind):
  monkeypatch.delenv("TF_CONFIG", raising=False)
  monkeypatch.setattr(
    tf.config, "list_physical_devices", lambda _: ["GPU"] * num_gpus
  )
  make = mock.Mock()
  monkeypatch.setattr(
    distribution.distribute_utils, "get_distribution_strategy", make
  )
  assert distribution.strategy(None) == make.return_value
  make.assert_called_once_with(kind, num_gpus=num_gpus)
