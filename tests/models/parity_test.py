# SPDX-License-Identifier: Apache-2.0
"""Every family against timm, with timm's own weights and features."""

import functools
import gzip
import json
import struct

import numpy as np
import pytest
import tensorflow as tf

from tests import reference
from tf_audioset.models import convnext, efficientnet, resnet
from tf_audioset.weights import timm

# The reference's batch norm, where timm has another epsilon.
_TIMM = {
  "resnet18": lambda: resnet.ResNet(18),
  "tf_efficientnet_b0": lambda: efficientnet.EfficientNet(
    "b0", batch_norm_epsilon=1e-3
  ),
  "convnext_tiny": lambda: convnext.ConvNeXt("tiny"),
}


@functools.cache
def _timm_model(name):
  path = reference.golden(f"timm_{name}.safetensors.gz")
  model = _TIMM[name]()
  model(tf.zeros([1, 101, 64, 1]))
  timm.assign(model, _read_safetensors(gzip.decompress(path.read_bytes())))
  return model


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
  (length,) = struct.unpack("<Q", content[:8])
  header = json.loads(content[8 : 8 + length])
  header.pop("__metadata__", None)
  body = memoryview(content)[8 + length :]
  types = {"F32": "<f4", "F16": "<f2", "I64": "<i8"}
  return {
    name: np.frombuffer(
      body[slice(*entry["data_offsets"])],
      types[entry["dtype"]],
    ).reshape(entry["shape"])
    for name, entry in header.items()
  }


@pytest.mark.parametrize(
  ("name", "size"),
  [
    # torch pads ResNet's strides on both sides: "same" where sizes are odd.
    ("resnet18", "513x65"),
    *(
      (name, size)
      for name in ("tf_efficientnet_b0", "convnext_tiny")
      for size in ("501x64", "513x65", "1001x64", "101x64")
    ),
  ],
)
def test_timm_weights_give_timm_features(name, size):
  with np.load(reference.golden("timm_expected.npz")) as golden:
    x = golden[f"x_{size}"].astype(np.float32)
    expected = golden[f"timm_{name}_embedding_{size}"]
  actual = _timm_model(name)(x.transpose(0, 3, 2, 1)).numpy()
  np.testing.assert_allclose(actual, expected, atol=1e-4 * expected.std())
