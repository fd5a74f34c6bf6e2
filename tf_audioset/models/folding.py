# SPDX-License-Identifier: Apache-2.0
"""Folds what inference need not compute: a tagger in, a tagger out.

A batch norm multiplies each channel by a number and adds another, so that the
convolution before it can do both with other weights; likewise layer scale. And
a network that computes in bfloat16 need not round its weights in each call.
Together they are up to a quarter of the time of one clip.
"""

from __future__ import annotations

import tensorflow as tf

from tf_audioset.models import tagger as tagger_lib
from tf_audioset.runtime import precision


def fold_batch_norms(
  tagger: tagger_lib.Tagger, waveform: tf.Tensor
) -> tagger_lib.Tagger:
  """Returns a tagger for inference that computes the same with less.

  Args:
    tagger: A built tagger; it stays as it is.
    waveform: float32 [batch, num_samples], any that it takes.

  Returns:
    A tagger with a backbone of its own, whose layers are folded: their weights
    are those that `tagger` has now. Front end and head are the given ones, and
    so is a backbone that has nothing to fold, or no `get_config`.
  """
  backbone = tagger.backbone
  if _has_folds(backbone) and _has_config(backbone):
    backbone = _copied(backbone, tagger.features(waveform))
    for part in (backbone, *backbone.submodules):
      if hasattr(part, "fold"):
        part.fold()
  return tagger_lib.Tagger(
    tagger.head.units,
    frontend=tagger.frontend,
    backbone=backbone,
    loss=tagger.loss_function,
    input_norm=tagger.input_norm,
    head=tagger.head,
  )


def _has_folds(backbone) -> bool:
  return any(hasattr(part, "fold") for part in backbone.submodules)


def _has_config(backbone) -> bool:
  inherited = (tf.keras.Model.get_config, tf.keras.layers.Layer.get_config)
  return type(backbone).get_config not in inherited


def _copied(backbone, features):
  """Returns a backbone of the same arguments and weights."""
  with precision.policy(backbone.dtype_policy):
    copy = type(backbone)(**backbone.get_config())
  copy(tf.expand_dims(features, -1))  # Builds it.
  copy.set_weights(backbone.get_weights())
  return copy
