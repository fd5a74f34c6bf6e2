# SPDX-License-Identifier: Apache-2.0
"""How TensorFlow is started for all tests.

With two virtual CPU devices, which the tests of replicas need.
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


def pytest_unconfigure():
  """The processes of pytest-xdist end as the command lines do."""
  from tf_audioset.runtime import cli

  cli.remove_generated_code()


def pytest_configure(config):
  # Of pytest-xdist's processes, the first only hands out the tests.
  if config.getoption("tx", None) and not hasattr(config, "workerinput"):
    return
  import tensorflow as tf

  tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
  )
  # Hundreds of pipelines of a few clips go without Grappler, which would be a
  # third of their time: they take what holds when TensorFlow starts; functions,
  # what holds when they are called.
  optimizer = tf.config.optimizer
  optimizer.set_experimental_options({"disable_meta_optimizer": True})
  tf.config.list_logical_devices()  # Starts it.
  optimizer.set_experimental_options({"disable_meta_optimizer": False})
