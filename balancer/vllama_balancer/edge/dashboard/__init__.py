"""The dashboard: index.html, served by operations.py as it is."""
