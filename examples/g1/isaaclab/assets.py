"""What stands in the scene, made on this machine: Isaac Lab's own assets lie on a server."""

from __future__ import annotations

import atexit
import functools
import importlib.util
import shutil
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import isaaclab.sim as sim_utils  # before pxr: Isaac Lab tells OpenUSD where schemas are
from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg, AssetBaseCfg
from mujoco_usd_converter import Converter
from pxr import Usd, UsdGeom, UsdPhysics

# Joint angles in rad of mjlab's G1 with bent knees, in which the squat motion begins and ends.
_KNEES_BENT = {
    ".*_hip_pitch_joint": -0.312,
    ".*_knee_joint": 0.669,
    ".*_ankle_pitch_joint": -0.363,
    ".*_elbow_joint": 0.6,
    ".*_shoulder_pitch_joint": 0.2,
    "left_shoulder_roll_joint": 0.2,
    "right_shoulder_roll_joint": -0.2,
}
# So soft that about half of the squats end in a fall when nobody balances; a policy has work to do.
_MOTORS = {"stiffness": 185.0, "damping": 5.0, "armature": 0.01, "joint_effort_limit": 100.0}


def robot_cfg() -> ArticulationCfg:
    """Mjlab's G1 of 29 joints."""
    return ArticulationCfg(
        prim_path="{ENV_REGEX_NS}/Robot",
        spawn=sim_utils.UsdFileCfg(usd_path=_robot_usd()),
        init_state=ArticulationCfg.InitialStateCfg(pos=(0.0, 0.0, 0.76), joint_pos=_KNEES_BENT),
        actuators={"all": ImplicitActuatorCfg(joint_names_expr=[".*"], **_MOTORS)},
    )


def ground_cfg() -> AssetBaseCfg:
    """An endless plane."""
    return AssetBaseCfg(
        prim_path="/World/ground", spawn=sim_utils.UsdFileCfg(usd_path=_ground_usd())
    )


@functools.cache
def _folder() -> Path:
    """Of this process, removed at its end."""
    folder = tempfile.mkdtemp(prefix="g1-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _robot_usd() -> str:
    """Convert the robot from MJCF, without its visual meshes."""
    spec = importlib.util.find_spec("mjlab")  # found, not imported: it would bring its simulator
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "asset_zoo/robots/unitree_g1/xmls/g1.xml"
    tree = ET.parse(file)  # noqa: S314  of a package that runs here
    for parent in tree.iter():
        for child in parent.findall("geom[@class='visual']") + parent.findall("mesh"):
            parent.remove(child)
    tree.write(_folder() / "g1.xml")
    return str(Converter().convert(str(_folder() / "g1.xml"), str(_folder() / "g1")).path)


@functools.cache
def _ground_usd() -> str:
    path = str(_folder() / "ground.usda")
    stage = Usd.Stage.CreateNew(path)
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.z)
    stage.SetDefaultPrim(UsdGeom.Xform.Define(stage, "/Ground").GetPrim())
    plane = UsdGeom.Plane.Define(stage, "/Ground/plane")
    plane.CreateWidthAttr(0.0)  # 0: without end
    plane.CreateLengthAttr(0.0)
    UsdPhysics.CollisionAPI.Apply(plane.GetPrim())
    stage.Save()
    return path
