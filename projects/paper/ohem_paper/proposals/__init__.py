"""Make, read and check Detectron2's proposal files. This file must not import PyTorch."""
