"""Layers that torch lacks, or that run faster here."""
