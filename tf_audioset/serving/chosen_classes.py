# SPDX-License-Identifier: Apache-2.0
"""Classes that a user names, one by one or as branches of an ontology."""

from __future__ import annotations

from tf_audioset.data import labels
from tf_audioset.runtime.errors import UserError


def find(
  text: str, classes: labels.ClassList, ontology_path: str | None = None
) -> list[int]:
  """Finds classes.

  Args:
    text: Names or mids with commas between them. A name may hold commas.
    classes: Of the model.
    ontology_path: A file for `labels.ontology`. Its nodes can be named, too:
      each stands for all classes at and below it.

  Returns:
    Indices of the classes, each once, in the model's order.

  Raises:
    UserError: If a name is none of a class or node, or a node has no class of
      the model below it.
  """
  names, children = {}, {}
  if ontology_path:
    names, children = labels.ontology(ontology_path)
  more = [mid for mid in names if mid not in classes.mids]
  nodes = labels.ClassList(
    mids=(*classes.mids, *more),
    names=(*classes.names, *(names[mid] for mid in more)),
  )
  found, unknown = labels.Lookup(nodes).find(text)
  if unknown or not found:
    wanted = "names or mids of the model's classes"
    wanted += " or of the ontology" if ontology_path else ""
    what = tuple(unknown) or text
    raise UserError(
      f"--classes: {what[0] if unknown else what!r} is no class; wanted are "
      f"{wanted}, with commas between them"
      + ("." if ontology_path else " (branches need --ontology).")
    )
  chosen = set()
  for i in found:
    members = {nodes.mids[i]}
    if nodes.mids[i] in children:
      members = labels.under(nodes.mids[i], children)
    of_model = {j for j, mid in enumerate(classes.mids) if mid in members}
    if not of_model:
      raise UserError(
        f"--classes: {nodes.names[i]!r} has no class of this model below it."
      )
    chosen |= of_model
  return sorted(chosen)
