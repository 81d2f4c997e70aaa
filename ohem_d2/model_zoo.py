"""The configurations that come with ohem_d2, by name, as in Detectron2's own model zoo."""

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig

from .config import add_ohem_config

# Inside an installed package; beside it in a clone. setup.py puts the one into the other.
_PACKAGE = Path(__file__).resolve().parent
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def get_config_file(config_path: str) -> str:
    """
    Args:
        config_path: a file's name relative to ``configs/``, such as
            ``"COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"``.

    Returns:
        the path of the file.

    Raises:
        RuntimeError: if there is none of that name.
    """
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    file = (folder / config_path).resolve()
    if file.is_file() and file.is_relative_to(folder.resolve()):
        return str(file)
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in (".yaml", ".py") and path.parent != folder
    )
    raise RuntimeError(
        f"{config_path} is no configuration of ohem_d2; there are:\n  " + "\n  ".join(names)
    )


def get_config(config_path: str) -> CfgNode | DictConfig:
    """
    Args:
        config_path: see :func:`get_config_file`.

    Returns:
        the configuration: of a YAML file a ``CfgNode`` that has the keys of OHEM, of a Python file
        a lazy one.

    Raises:
        RuntimeError: if there is none of that name.
    """
    file = get_config_file(config_path)
    if file.endswith(".py"):
        return LazyConfig.load(file)
    cfg = get_cfg()
    add_ohem_config(cfg)
    cfg.merge_from_file(file)
    return cfg
