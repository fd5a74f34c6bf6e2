# SPDX-License-Identifier: Apache-2.0
"""Two virtual CPU devices for every test: the tests of replicas need them,
and they must exist before TensorFlow starts.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def pytest_configure(config):
  del config
  import tensorflow as tf

  tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
  )
