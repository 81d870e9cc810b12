"""Backbones: their weights, and where they are split."""
