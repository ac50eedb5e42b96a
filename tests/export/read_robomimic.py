"""Script: read a file by robomimic's SequenceDataset into an .npz file.

Arguments: .hdf5 file, .npz file, "train" or "valid", names of observations.
"""

from __future__ import annotations

import sys

import numpy as np
import robomimic.utils.obs_utils as observations
from robomimic.utils.dataset import SequenceDataset

path, out, mask, *names = sys.argv[1:]
observations.initialize_obs_modality_mapping_from_dict({"low_dim": names})
dataset = SequenceDataset(
    path, names, ["actions"], filter_by_attribute=mask, load_next_obs=False, hdf5_cache_mode="all"
)
items = [dataset[number] for number in range(len(dataset))]
arrays = {name: np.stack([item["obs"][name][0] for item in items]) for name in names}
demos = [dataset._index_to_demo_id[number] for number in range(len(dataset))]
np.savez(out, demos=demos, actions=np.stack([item["actions"][0] for item in items]), **arrays)
