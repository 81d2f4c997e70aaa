"""The configurations that come with ohem_d2, by name, as in Detectron2's own model zoo."""

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig

from .config import add_ohem_config
from .trust import merge_file

# Inside an installed package; beside it in a clone. setup.py puts the one into the other.
_PACKAGE = Path(__file__).resolve().parent
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")


def get_config_file(config_path: str) -> str:
    """
    The path of a file by its name relative to ``configs/``, such as
    ``"COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"``. Raises RuntimeError if there is none.
    """
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    paths = (path for path in folder.rglob("*") if path.suffix in (".yaml", ".py"))
    # What lies in the folder itself is a base of others, and nothing to train.
    names = sorted(p.relative_to(folder).as_posix() for p in paths if p.parent != folder)
    file = folder / config_path
    if file.is_file() and file.resolve().is_relative_to(folder.resolve()):
        return str(file)
    raise RuntimeError(
        f"{config_path} is no configuration of ohem_d2; there are:\n  " + "\n  ".join(names)
    )


def get_config(config_path: str) -> CfgNode | DictConfig:
    """
    The configuration :func:`get_config_file` finds: of a YAML file a ``CfgNode`` that has the keys
    of OHEM, of a Python file a lazy one.
    """
    file = get_config_file(config_path)
    if file.endswith(".py"):
        return LazyConfig.load(file)
    cfg = get_cfg()
    add_ohem_config(cfg)
    merge_file(cfg, file)
    return cfg
