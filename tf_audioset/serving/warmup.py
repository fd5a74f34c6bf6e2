# SPDX-License-Identifier: Apache-2.0
"""What TF Serving sends itself when it loads a model: its warm-up requests.

The first request of a signature takes longest. A server that finds requests in
the SavedModel runs them before it answers others.

Reference: TensorFlow Serving, "SavedModel Warmup".
"""

from __future__ import annotations

import os

import tensorflow as tf


def write(saved_model: str, requests: list[tuple[str, dict]]) -> None:
  """Puts requests into a SavedModel.

  Args:
    saved_model: Its folder.
    requests: Name of a signature, and its inputs by name, TensorProtos.
  """
  folder = os.path.join(saved_model, "assets.extra")
  tf.io.gfile.makedirs(folder)
  path = os.path.join(folder, "tf_serving_warmup_requests")
  with tf.io.TFRecordWriter(path) as writer:
    for signature, inputs in requests:
      writer.write(_prediction_log(signature, inputs))


def _prediction_log(signature: str, inputs: dict) -> bytes:
  # Written by hand, since the package that has the messages is large. Their
  # numbers are from tensorflow_serving/apis: prediction_log.proto,
  # predict.proto and model.proto.
  request = _field(1, _field(3, signature.encode()))  # model_spec
  for name, tensor in inputs.items():
    entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())
    request += _field(2, entry)
  return _field(6, _field(1, request))  # predict_log, request


def _field(number: int, content: bytes) -> bytes:
  """Encodes a protocol buffer's field that has a length: bytes, a message."""
  return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
  groups = [value & 0x7F]
  while value := value >> 7:
    groups.append(value & 0x7F)
  return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])
