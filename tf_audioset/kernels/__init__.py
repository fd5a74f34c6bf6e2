# SPDX-License-Identifier: Apache-2.0
"""Holds the operations of the models in the form that is fast where they run.

Models call them and never name a device. Imports `runtime` only.
"""
