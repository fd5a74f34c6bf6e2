# SPDX-License-Identifier: Apache-2.0
"""A work directory of an earlier ConvNeXt, which padded, is told from ours."""

import json
from unittest import mock

import pytest
import tensorflow as tf

from tests import toy
from tf_audioset.models import convnext
from tf_audioset.runtime.errors import UserError
from tf_audioset.training import workdir

_EARLIER = "ConvNeXt, 28222319 parameters"


def _tagger(backbone):
  return mock.Mock(backbone=backbone, count_params=lambda: 28222319)


@pytest.fixture(name="ours")
def _ours():
  return _tagger(convnext.ConvNeXt())


@pytest.fixture(name="folder")
def _folder(tmp_path):
  (tmp_path / "run.json").write_text(json.dumps({"model": _EARLIER}))
  return str(tmp_path)


def test_it_is_neither_continued_nor_exported(folder, ours):
  with pytest.raises(UserError, match=f"begun with model {_EARLIER}, not Conv"):
    workdir.WorkDir(folder).refuse_changes({"model": workdir.model_of(ours)})
  with pytest.raises(UserError, match=f"run trained {_EARLIER}.*version") as e:
    workdir.refuse_other_model(folder, ours)
  assert "\n" not in str(e.value)


def test_a_run_of_this_version_is_exported(folder, ours, tmp_path):
  for run in ({"model": workdir.model_of(ours)}, {}):  # The oldest say nothing.
    (tmp_path / "run.json").write_text(json.dumps(run))
    workdir.refuse_other_model(folder, ours)


def test_other_models_are_known_by_their_class():
  backbones = (toy.MeanBackbone(), tf.keras.Sequential(name="mine"))
  for backbone, name in zip(backbones, ("MeanBackbone", "Sequential")):
    assert workdir.model_of(_tagger(backbone)).startswith(f"{name}, 28")
