r"""Collect expert trajectories in Isaac Lab, 2.1 to 3, with the flags of MOSAIC's own script.

    python scripts/collect_expert_trajectories.py --headless \
        --task Expert-General-Tracking-Flat-G1-MOSAIC-v0 --checkpoint_path model.pt \
        --motion MOTIONS --output_path expert.npy --num_envs 800 --steps_per_env 500 \
        --student_task MOSAIC-Distill-General-Tracking-Flat-G1-v0

Run it with Isaac Lab's Python, with MOSAIC's packages installed. Steps go to a store at once
(``expert.zarr``), so a run that was stopped goes on with ``--resume``. What is left of the command
line, such as ``env.sim.dt=0.005`` or ``physics=newton_mjwarp``, goes to Hydra and to presets.
"""

import argparse
import os
import sys

from mosaic_collect.adapters.isaaclab.collect import CollectResult, run_collect
from mosaic_collect.cli import main as command
from mosaic_collect.commands.collect import tell, watched
from mosaic_collect.commands.options import flags_of, in_flags
from mosaic_collect.commands.script import add_arguments, parse, plan_collection
from mosaic_collect.errors import MosaicCollectError
from mosaic_collect.text import any_text


def main() -> int:
    """Collect, then export; 0, or 1 if something kept it from that."""
    any_text(sys.stdout)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    args, overrides = parse(parser)
    flags, exported = flags_of(parser), []
    try:
        plan = plan_collection(args, os.environ, overrides)
    except MosaicCollectError as error:
        parser.error(in_flags(str(error), flags))
    options = plan.options

    def end(result: CollectResult) -> None:
        tell(result, options)
        if plan.npy is not None:
            falls = ["--exclude-failed"] * args.exclude_falls
            exported.append(
                command(["export", result.store, plan.npy, f"--layout={args.layout}", *falls])
            )

    try:
        watched(lambda bar: run_collect(options, bar, end, flags=args, found=plan.found), options)
    except MosaicCollectError as error:
        print(in_flags(str(error), flags), file=sys.stderr)
        return 1
    return any(exported)


if __name__ == "__main__":
    sys.exit(main())
