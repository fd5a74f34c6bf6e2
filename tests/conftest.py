# SPDX-License-Identifier: Apache-2.0
"""Two virtual CPU devices for every test: the tests of replicas need them,
and they must exist before TensorFlow starts.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# XLA's own work is as always; LLVM's polish after it, which would take longer
# than all the rest of the tests, is left out.
os.environ.setdefault(
  "XLA_FLAGS",
  "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)
# What the client for buckets waits before it asks again: for a real one 1 s,
# doubled each time; of anything above 0, another random part of a second would
# come on top. It is read when TensorFlow is imported.
os.environ.setdefault("GCS_RETRY_CONFIG_INIT_DELAY_TIME_US", "0")


def pytest_configure(config):
  del config
  import tensorflow as tf

  tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
  )
