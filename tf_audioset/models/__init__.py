# SPDX-License-Identifier: Apache-2.0
"""Holds the networks, written as in their papers, and the whole tagger.

Imports `runtime` and `kernels`.
"""
