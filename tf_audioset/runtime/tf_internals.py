# SPDX-License-Identifier: Apache-2.0
"""All that is used of TensorFlow without a public name.

A new version of TensorFlow may change any of it: look here first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla
from tensorflow.compiler.xla.service import hlo_pb2
from tensorflow.python.distribute import one_device_strategy
from tensorflow.python.ops import control_flow_util, script_ops


def in_xla() -> bool:
  """Returns whether the graph being built will be compiled by XLA."""
  return control_flow_util.GraphOrParentsInXlaContext(
    tf.compat.v1.get_default_graph()
  )


def optimization_barrier(x: tf.Tensor) -> tf.Tensor:
  """Returns `x`, of which XLA does not see that it is the same.

  It keeps XLA from storing for a gradient what is cheaper to compute again.
  """
  [same] = xla.optimization_barrier(x)
  return same


class OneReplicaOf(tf.distribute.OneDeviceStrategy):
  """A strategy whose only replica computes as one of many.

  Its sums over replicas are XLA's all-reduce: it is for programs that are
  compiled and not run. Elsewhere they would wait for the others.
  """

  def __init__(self, num_replicas: int):
    tf.distribute.Strategy.__init__(self, _OneReplicaOf(self, num_replicas))


class _OneReplicaOf(one_device_strategy.OneDeviceExtended):
  def __init__(self, strategy, num_replicas):
    super().__init__(strategy, "/cpu:0")
    self._num_replicas = num_replicas
    self._num_reduced = 0

  @property
  def _num_replicas_in_sync(self):
    return self._num_replicas

  def _reduce_to(self, reduce_op, value, destinations, options):
    self._num_reduced += 1
    total = tf.raw_ops.CollectiveReduceV2(
      input=value,
      group_size=self._num_replicas,
      group_key=1,
      instance_key=self._num_reduced,
      ordering_token=[],
      merge_op="Add",
      final_op="Id",
    )
    is_mean = reduce_op == tf.distribute.ReduceOp.MEAN
    return total / self._num_replicas if is_mean else total


def without_channels(program: bytes) -> bytes:
  """Returns a serialized HloModuleProto whose sums over replicas are apart.

  TensorFlow gives all of them one channel, so that the compiler would want the
  same layout for each. Those of a `TPUStrategy` have none.
  """
  module = hlo_pb2.HloModuleProto.FromString(program)
  for computation in module.computations:
    for instruction in computation.instructions:
      instruction.channel_id = 0
  return module.SerializeToString()


def name_numpy_function(name: str, function: Callable) -> str:
  """Gives a function of Python a name that holds in every process.

  `tf.numpy_function` numbers its functions as they come, so that a graph that
  was made in one process calls another function in the next.

  Args:
    name: A name of its own.
    function: Takes and returns NumPy arrays.

  Returns:
    The token for `tf.raw_ops.PyFunc`.
  """
  script_ops._py_funcs._funcs[name] = function
  return name


def import_event(writer: tf.summary.SummaryWriter, event) -> None:
  """Writes an event that `tf.summary` has no function for.

  Args:
    writer: Of event files.
    event: A `tf.compat.v1.Event`.
  """
  tf.raw_ops.ImportEvent(
    writer=writer._resource, event=event.SerializeToString()
  )


def schedule_of(optimizer: tf.keras.optimizers.Optimizer):
  """Returns the schedule, or the number, of an optimizer of Keras's new kind.

  The public `learning_rate` is a variable with the rate of the last update.
  """
  return optimizer._learning_rate


def adam_moments(
  optimizer: tf.keras.optimizers.Adam, variable: tf.Variable
) -> tuple[tf.Variable, tf.Variable]:
  """Returns Adam's running means of a variable's gradient and its square."""
  index = optimizer._index_dict[optimizer._var_key(variable)]
  return optimizer._momentums[index], optimizer._velocities[index]


def create_slots(
  optimizer: tf.keras.optimizers.legacy.Optimizer,
  variables: Sequence[tf.Variable],
) -> None:
  """Makes the moments of an optimizer of Keras's legacy kind."""
  optimizer._create_all_weights(variables)
