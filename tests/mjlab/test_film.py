"""States beside the rows of a collection, and what is seen of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mosaic_collect import Field, Schema, TrajectoryDataset, TrajectoryWriter
from mosaic_collect.cli import main
from mosaic_collect.errors import InputError, MissingDependencyError, StoreMismatchError
from tests import helpers
from tests.mjlab import case as mjlab_case
from tests.mjlab.case import EXPERT, Case

pytestmark = mjlab_case.MARKS


#: Where the G1's pelvis has its sensor of velocities, m.
IMU = (0.04525, 0.0, -0.08339)


@pytest.fixture(scope="module")
def stateful(case: Case) -> TrajectoryDataset:
    """Pushed and disturbed, the policy's observations without noise."""
    options = {"push": 5.0, "action_noise": 0.5, "teacher_noise": False, "record_states": True}
    case.run("stateful", max_steps=12, num_envs=4, **options)
    return case.data("stateful")


def turned_back(quaternions: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
    """Vectors of the world as a body with these orientations (w, x, y, z) has them."""
    w, u = quaternions[..., :1], -quaternions[..., 1:]
    twice = 2 * np.cross(u, vectors)
    turned: NDArray[Any] = vectors + w * twice + np.cross(u, twice)
    return turned


class TestTheState:
    def test_is_that_of_the_rows_observation(self, stateful: TrajectoryDataset) -> None:
        """One of the step before or behind would be another, and so would one behind a push."""
        qpos, qvel = stateful.read("qpos"), stateful.read("qvel")
        names = ("joint_pos", "joint_vel", "base_lin_vel", "base_ang_vel")
        seen = {name: stateful.term("observations", name)[...] for name in names}
        # Joints as seen are relative to a default pose, and to each environment's encoders.
        off = qpos[..., 7:] - seen["joint_pos"]
        np.testing.assert_allclose(off, np.broadcast_to(off[0], off.shape), atol=1e-6)
        np.testing.assert_array_equal(qvel[..., 6:], seen["joint_vel"])
        np.testing.assert_allclose(qvel[..., 3:6], seen["base_ang_vel"], atol=1e-5)
        of_imu = np.cross(qvel[..., 3:6], IMU)
        linear = turned_back(qpos[..., 3:7], qvel[..., :3]) + of_imu
        np.testing.assert_allclose(linear, seen["base_lin_vel"], atol=1e-4)
        assert abs(np.diff(qvel, axis=0)).max(axis=-1).min() > 0.1
        assert abs(stateful.read("push")).max() > 0.1

    def test_is_where_the_environment_is(self, stateful: TrajectoryDataset) -> None:
        origins = stateful.read("env_origin")
        assert len({tuple(o) for o in origins[0].tolist()}) == 4
        assert (origins == origins[0]).all()
        assert abs(stateful.read("qpos")[..., :2] - origins[..., :2]).max() < 0.7

    def test_a_resume_goes_on_with_it(self, case: Case, stateful: TrajectoryDataset) -> None:
        options = {"num_envs": 4, "push": 5.0, "action_noise": 0.5, "teacher_noise": False}
        with pytest.raises(StoreMismatchError, match="qpos"):
            case.run("stateful", max_steps=14, resume=True, **options)


@pytest.fixture(scope="module")
def stage() -> Any:
    from mosaic_collect.film.scene import Stage

    return Stage.of_task(mjlab_case.TASK)


def strip(data: TrajectoryDataset, path: Path) -> Any:
    """The strip's pictures and what was said; skips where nothing draws."""
    image = pytest.importorskip("PIL.Image")
    from mosaic_collect.film.render import film

    try:
        made = film(data, 0, path)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    whole = np.asarray(image.open(path)).astype(int)
    return np.split(whole, whole.shape[1] // 448, axis=1), made


def replayed(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """What the command prints; skips where nothing draws, and only there."""
    code, said = main(["replay", *command]), capsys.readouterr()
    if "OpenGL" in said.err:
        pytest.skip(said.err)
    assert code == 0, said.err
    return said.out


def green(picture: NDArray[Any]) -> NDArray[Any]:
    """Columns of what is clearly green, as only a reference is."""
    red, g, blue = np.moveaxis(picture, -1, 0)
    columns: NDArray[Any] = np.nonzero((g > red + 25) & (g > blue + 25))[1]
    return columns


def bright(picture: NDArray[Any]) -> NDArray[Any]:
    """Columns of what is of light grey below the horizon, as only the robot is."""
    below = picture[260:]
    grey = below.max(axis=-1) - below.min(axis=-1) < 20
    columns: NDArray[Any] = np.nonzero(grey & (below.min(axis=-1) > 130))[1]
    return columns


class TestTheFilm:
    def test_shows_the_robot_and_its_reference_beside_it(
        self, stateful: TrajectoryDataset, tmp_path: Path
    ) -> None:
        pictures, made = strip(stateful, tmp_path / "s.png")
        assert made.shown == ("robot", "reference")
        assert made.notes == ()
        assert made.fps == 50
        assert len(pictures) == min(8, made.trajectories[0].num_steps)
        for picture in pictures:
            assert len(green(picture)) > 1000
            assert len(bright(picture)) > 500
            assert np.median(green(picture)) - np.median(bright(picture)) > 100
        assert abs(pictures[0] - pictures[-1]).max() > 50
        # What it is, is written in; the last picture has its end.
        assert pictures[0][:80, :200].max() > 250
        assert (pictures[-1][:100, :200] != pictures[0][:100, :200]).any()

    def test_without_states_the_reference_stands_alone(self, case: Case, tmp_path: Path) -> None:
        case.run("stateless", max_steps=3)
        pictures, made = strip(case.data("stateless"), tmp_path / "s.png")
        assert made.shown == ("reference",)
        assert len(bright(pictures[0])) == 0
        assert abs(np.median(green(pictures[0])) - 224) < 60

    def test_on_the_command_line(
        self, stateful: TrajectoryDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        ffmpeg = pytest.importorskip("imageio_ffmpeg")
        clip = tmp_path / "clip.mp4"
        out = replayed(capsys, stateful.path, "--trajectory", "0", "-o", str(clip))
        steps = stateful.trajectory(0).num_steps
        assert f"{clip}: trajectory 0 of environment 0, {steps} steps" in out
        assert "robot and reference at 50 steps per second" in out
        assert ffmpeg.count_frames_and_secs(str(clip))[0] == steps

    def test_several_are_a_grid(
        self, stateful: TrajectoryDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = pytest.importorskip("PIL.Image")
        path = tmp_path / "grid.gif"
        replayed(capsys, stateful.path, "--trajectory", "0", "1", "2", "-o", str(path))
        with image.open(path) as made:
            assert made.size == (1280, 736)
            assert np.asarray(made.convert("L"))[400:, 700:].min() > 250


def test_the_checkpoint_says_the_same_beside_states(stateful: TrajectoryDataset) -> None:
    assert main(["verify", stateful.path, "--checkpoint", EXPERT]) == 0


def test_refused(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    helpers.record(store, 3)
    output = str(tmp_path / "c.mp4")
    assert main(["replay", store, "--trajectory", "0", "-o", output]) == 2
    words = "expected a store collected in mjlab, or a model of its robot (an MJCF file), got none"
    assert words in capsys.readouterr().err
    from mosaic_collect.film.scene import Stage

    with pytest.raises(InputError, match=r"task: expected one of .*, got 'nope'"):
        Stage.of_task("nope")


_HOPPER = """<mujoco><worldbody><body name="hull" pos="0 0 1"><freejoint/>
<geom size="0.2 0.1 0.1" type="box"/>
<body name="leg" pos="0 0 -0.1"><joint name="hip" axis="0 1 0"/>
<geom fromto="0 0 0 0 0 -0.4" size="0.05" type="capsule"/><body name="foot" pos="0 0 -0.4">
<joint name="knee" axis="0 1 0"/><geom fromto="0 0 0 0 0 -0.4" size="0.04" type="capsule"/></body>
</body></body></worldbody></mujoco>"""


def hopper(store: str, joints: list[str], turned: dict[str, float]) -> None:
    """Record a standing hopper whose joints have an order, and angles by name."""
    qpos = np.array([[0, 0, 1, 1, 0, 0, 0, *(turned[name] for name in joints)]] * 2)
    schema = Schema.mosaic(1, 1, extra=[Field("qpos", dim=9)])
    robot = {"joint_names": joints, "control_dt": 0.02}
    with TrajectoryWriter(store, schema, 2, robot=robot) as writer:
        for _ in range(3):
            writer.add_step(observations=np.zeros((2, 1)), actions=np.zeros((2, 1)), qpos=qpos)


def test_a_model_draws_joints_by_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever order a simulator has; on a floor that the model itself does not have."""
    pytest.importorskip("PIL.Image")
    model = tmp_path / "hopper.xml"
    model.write_text(_HOPPER)
    bent, files = {"hip": 0.5, "knee": -1.2}, {}
    cases = {"a": (["hip", "knee"], bent), "b": (["knee", "hip"], bent), "c": (["hip", "knee"],
             {"hip": -1.2, "knee": 0.5})}  # fmt: skip
    for name, (joints, turned) in cases.items():
        hopper(str(tmp_path / f"{name}.zarr"), joints, turned)
        files[name] = tmp_path / f"{name}.png"
        command = (str(tmp_path / f"{name}.zarr"), "--trajectory", "0", "--model", str(model))
        replayed(capsys, *command, "-o", str(files[name]))
    assert files["a"].read_bytes() == files["b"].read_bytes() != files["c"].read_bytes()


def test_a_model_of_another_robot_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, model = str(tmp_path / "a.zarr"), tmp_path / "hopper.xml"
    hopper(store, ["hip", "ankle"], {"hip": 0.0, "ankle": 0.0})
    command = ["replay", store, "--trajectory", "0", "-o", str(tmp_path / "a.png"), "--model"]
    model.write_text(_HOPPER)
    assert main([*command, str(model)]) == 2
    words = "expected the recorded robot's joints, got none named ankle; its joints are "
    assert words in capsys.readouterr().err
    model.write_text("<mujoco")
    assert main([*command, str(model)]) == 2
    assert "expected a model of MuJoCo" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


#: The rest of a command that draws a scene's first picture.
_DRAW = """
import sys, numpy as np
import mosaic_collect.film.render
from mosaic_collect.film.scene import Stage
stage = Stage.of_task(sys.argv[1])
qpos = np.zeros((1, stage.nq)); qpos[:, 3] = 1.0
try:
    next(stage.frames(qpos, None, [0], 32, 32))
except ImportError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.parametrize("variable", ["MUJOCO_EGL_DEVICE_ID=77", "MUJOCO_GL=glfw"])
def test_an_opengl_that_does_not_fit_is_one_line(variable: str) -> None:
    said = with_opengl(variable, "-c", _DRAW, mjlab_case.TASK)
    assert said.startswith("MissingDependencyError: pictures of a robot need OpenGL"), said
    assert f"the environment has {variable}, which may not fit this machine" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["replay", "demo"])
def test_an_opengl_that_nobody_knows_is_one_line(store: str, tmp_path: Path, command: str) -> None:
    metadata = {"simulator": "mjlab", "task": mjlab_case.TASK}
    with helpers.open_writer(store, 4, metadata=metadata) as writer:
        writer.add_step(**helpers.rows(0, 4))
    picture = [store, "--trajectory", "0", "-o", str(tmp_path / "c.png")]
    where = picture if command == "replay" else []
    said = with_opengl("MUJOCO_GL=nonsense", "-m", "mosaic_collect", command, *where)
    assert said.startswith(f"mosaic-collect {command}: "), said
    assert "the environment has MUJOCO_GL=nonsense" in said
    assert said.count("\n") == 1


def with_opengl(variable: str, *python: str) -> str:
    """What a command without a screen says on stderr."""
    name, value = variable.split("=")
    others = ("DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "MUJOCO_EGL_DEVICE_ID")
    environ = {n: v for n, v in os.environ.items() if n not in others}
    environ |= {name: value, "PYTHONPATH": helpers.REPO}
    command = [sys.executable, "-W", "ignore", *python]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode, done.stdout
    return done.stderr
