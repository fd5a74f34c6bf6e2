# SPDX-License-Identifier: Apache-2.0
"""Exports taggers as SavedModels and TFLite, loads and calls them.

Imports `runtime`, `data`, `features` and `models`.
"""
