# SPDX-License-Identifier: Apache-2.0
"""Runs a SavedModel through TensorFlow's C API, without TensorFlow's Python.

  python tests/c_api.py SAVED_MODEL FOLDER OUTPUT...

FOLDER/inputs.npz holds the inputs by the names of their tensors, such as
"serving_default_waveform:0"; OUTPUT are names of tensors. Writes
FOLDER/outputs.npz, and FOLDER/ops.pb, an OpList of all ops the library knows.
The loader is the C++ one that TF Serving uses.
"""

from __future__ import annotations

import ctypes
import importlib.util
import pathlib
import sys

import numpy as np

# tensorflow/c/tf_datatype.h
_NUMBERS = {"float32": 1, "int32": 3, "int16": 5}
_STRING = 7
_TSTRING_BYTES = 24


class _Output(ctypes.Structure):
  _fields_ = [("oper", ctypes.c_void_p), ("index", ctypes.c_int)]


class _Buffer(ctypes.Structure):
  _fields_ = [
    ("data", ctypes.c_void_p),
    ("length", ctypes.c_size_t),
    ("deallocator", ctypes.c_void_p),
  ]


def load_library():
  # Finds the package without importing it.
  folder = pathlib.Path(importlib.util.find_spec("tensorflow").origin).parent
  # The second is linked against the first.
  ctypes.CDLL(f"{folder}/libtensorflow_framework.so.2", ctypes.RTLD_GLOBAL)
  library = ctypes.CDLL(f"{folder}/libtensorflow_cc.so.2")
  for name in (
    "TF_AllocateTensor",
    "TF_GraphOperationByName",
    "TF_LoadSessionFromSavedModel",
    "TF_NewGraph",
    "TF_NewSessionOptions",
    "TF_NewStatus",
    "TF_StringGetDataPointer",
    "TF_TensorData",
  ):
    getattr(library, name).restype = ctypes.c_void_p
  library.TF_Dim.restype = ctypes.c_int64
  library.TF_StringGetSize.restype = ctypes.c_size_t
  library.TF_Message.restype = ctypes.c_char_p
  library.TF_GetAllOpList.restype = ctypes.POINTER(_Buffer)
  return library


class Error(Exception):
  """What the library answers; `code` is one of gRPC's."""

  def __init__(self, code: int, message: str):
    super().__init__(message)
    self.code = code


class Session:
  """A SavedModel, as the C++ loader loads it."""

  def __init__(self, library, saved_model: str):
    self._tf = library
    self._status = ctypes.c_void_p(library.TF_NewStatus())
    self._graph = ctypes.c_void_p(library.TF_NewGraph())
    self._session = ctypes.c_void_p(
      library.TF_LoadSessionFromSavedModel(
        ctypes.c_void_p(library.TF_NewSessionOptions()),
        None,
        saved_model.encode(),
        (ctypes.c_char_p * 1)(b"serve"),
        1,
        self._graph,
        None,
        self._status,
      )
    )
    self._check()

  def run(self, inputs: dict[str, np.ndarray], outputs: list[str]):
    results = (ctypes.c_void_p * len(outputs))()
    tensors = (ctypes.c_void_p * len(inputs))(
      *map(self._tensor, inputs.values())
    )
    self._tf.TF_SessionRun(
      self._session,
      None,
      self._places(list(inputs)),
      tensors,
      len(inputs),
      self._places(outputs),
      results,
      len(outputs),
      None,
      0,
      None,
      self._status,
    )
    try:
      self._check()
      return [self._array(ctypes.c_void_p(result)) for result in results]
    finally:
      for tensor in filter(None, [*tensors, *results]):
        self._tf.TF_DeleteTensor(ctypes.c_void_p(tensor))

  def _places(self, names):
    places = (_Output * len(names))()
    for place, name in zip(places, names):
      operation, _, index = name.partition(":")
      place.oper = self._tf.TF_GraphOperationByName(
        self._graph, operation.encode()
      )
      if not place.oper:
        raise ValueError(f"the graph has no {operation}.")
      place.index = int(index)
    return places

  def _tensor(self, array: np.ndarray):
    is_string = array.dtype == object
    array = np.asarray(array, order="C")  # `ascontiguousarray` adds an axis.
    num_bytes = array.size * _TSTRING_BYTES if is_string else array.nbytes
    tensor = self._tf.TF_AllocateTensor(
      _STRING if is_string else _NUMBERS[array.dtype.name],
      (ctypes.c_int64 * array.ndim)(*array.shape),
      array.ndim,
      ctypes.c_size_t(num_bytes),
    )
    data = self._tf.TF_TensorData(ctypes.c_void_p(tensor))
    if not is_string:
      ctypes.memmove(data, array.ctypes.data, array.nbytes)
      return tensor
    for i, content in enumerate(array.flat):
      string = ctypes.c_void_p(data + i * _TSTRING_BYTES)
      self._tf.TF_StringInit(string)
      self._tf.TF_StringCopy(string, content, ctypes.c_size_t(len(content)))
    return tensor

  def _array(self, tensor):
    kind = self._tf.TF_TensorType(tensor)
    shape = [
      self._tf.TF_Dim(tensor, i) for i in range(self._tf.TF_NumDims(tensor))
    ]
    data = self._tf.TF_TensorData(tensor)
    if kind == _STRING:
      array = np.empty(shape, object)
      for i in range(array.size):
        string = ctypes.c_void_p(data + i * _TSTRING_BYTES)
        array.flat[i] = ctypes.string_at(
          self._tf.TF_StringGetDataPointer(string),
          self._tf.TF_StringGetSize(string),
        )
      return array
    (dtype,) = (name for name, number in _NUMBERS.items() if number == kind)
    array = np.empty(shape, dtype)
    ctypes.memmove(array.ctypes.data, data, array.nbytes)
    return array

  def _check(self):
    code = self._tf.TF_GetCode(self._status)
    if code:
      raise Error(code, self._tf.TF_Message(self._status).decode())


def main(saved_model: str, folder: str, outputs: list[str]) -> None:
  folder = pathlib.Path(folder)
  library = load_library()
  ops = library.TF_GetAllOpList().contents
  (folder / "ops.pb").write_bytes(ctypes.string_at(ops.data, ops.length))
  with np.load(folder / "inputs.npz", allow_pickle=True) as file:
    inputs = dict(file)
  results = Session(library, saved_model).run(inputs, outputs)
  np.savez(folder / "outputs.npz", *results)
  assert not {"tensorflow", "tf_audioset", "keras"} & set(sys.modules)


if __name__ == "__main__":
  main(sys.argv[1], sys.argv[2], sys.argv[3:])
