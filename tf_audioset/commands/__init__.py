# SPDX-License-Identifier: Apache-2.0
"""Holds the command lines, one module each; `tools/` and pip start them.

Imports everything. Nothing imports it.
"""
