"""Whether motions are of the robot that is to follow them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mosaic_collect.collection.motions import Motion, refuse_files


def check_robot(motions: Sequence[Motion], joints: Sequence[str], bodies: Sequence[str]) -> None:
    """Hold motions against a robot.

    Args:
        motions: As they were read; those of earlier runs are passed over.
        joints: The robot's, in the simulator's order.
        bodies: Likewise.

    Raises:
        InputError: Naming all that are of another.
    """
    problems = {m.path: list(_problems(m, joints, bodies)) for m in motions}
    wrong = {path: told for path, told in problems.items() if told}
    refuse_files(wrong, len(motions), "are of another robot")


def _problems(motion: Motion, joints: Sequence[str], bodies: Sequence[str]) -> Iterator[str]:
    contents = motion.contents
    if contents is None:
        return
    yield from _differences("joint_pos", "joints", contents.joints, contents.joint_names, joints)
    yield from _differences("body_pos_w", "bodies", contents.bodies, contents.body_names, bodies)


def _differences(
    key: str, what: str, count: int, names: Sequence[str] | None, robots: Sequence[str]
) -> Iterator[str]:
    if count != len(robots):
        yield f"{key}: expected the robot's {len(robots)} {what}, got {count}"
    elif names is not None and list(names) != list(robots):
        at = next(i for i, pair in enumerate(zip(names, robots, strict=True)) if len({*pair}) > 1)
        order = " (the robot's, in another order)" if set(names) == set(robots) else ""
        yield f"{key}: expected {robots[at]!r} at place {at}, got {names[at]!r}{order}"
