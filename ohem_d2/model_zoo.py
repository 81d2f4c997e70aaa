"""The configurations that come with ohem_d2, by name, as in Detectron2's own model zoo."""

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig

from .config import add_ohem_config

# Inside an installed package, where setup.py puts it, or beside the package in a clone
FOLDERS = [Path(__file__).resolve().parents[level] / "configs" for level in (0, 1)]


def get_config_file(config_path: str) -> str:
    """The path of the file with this name in ``configs/``. RuntimeError if there is none."""
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    files = [file for kind in ("yaml", "py") for file in folder.rglob(f"*.{kind}")]
    names = {file.relative_to(folder).as_posix(): str(file) for file in files}
    if config_path in names:
        return names[config_path]
    # Files directly in the folder are bases of others, not configurations to train with.
    there = "\n  ".join(sorted(name for name in names if "/" in name))
    raise RuntimeError(f"{config_path} is not a configuration of ohem_d2; there are:\n  {there}")


def get_config(config_path: str) -> CfgNode | DictConfig:
    """Load a configuration by name: YAML as a ``CfgNode`` with OHEM's keys, .py as a LazyConfig."""
    file = get_config_file(config_path)
    if file.endswith(".py"):
        return LazyConfig.load(file)
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(file)
    return cfg
