"""A keypoint head that mines the hardest joints."""

from .ohkm import OHKMKeypointHead, add_ohkm_config, hardest_joints, per_joint_losses

__all__ = ["OHKMKeypointHead", "add_ohkm_config", "hardest_joints", "per_joint_losses"]
