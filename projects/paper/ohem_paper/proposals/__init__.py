"""Detectron2's proposal files: made, read, checked. What loads PyTorch is not imported here."""
