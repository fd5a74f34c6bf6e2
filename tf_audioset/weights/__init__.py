# SPDX-License-Identifier: Apache-2.0
"""Loads the weights of other implementations and of earlier runs.

Imports `serving` and what that imports.
"""
