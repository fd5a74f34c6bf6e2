# SPDX-License-Identifier: Apache-2.0
"""Which devices are found, and what is said where there are none."""

import socket
import time

import pytest

from tf_audioset import distribution


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
