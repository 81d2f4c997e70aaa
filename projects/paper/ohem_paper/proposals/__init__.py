"""Make, read and check Detectron2's proposal files."""
