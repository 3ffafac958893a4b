"""Checks of incoming messages and builders of outgoing ones.

- `request_validation`: checks every field of a request before the engine gets it; the error names the field and the
  fix.
- `responses`: the worker's description and its load report.
"""
