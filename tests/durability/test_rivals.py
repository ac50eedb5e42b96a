"""Writers that know nothing of each other, on one path; ``rivals`` has the campaign."""

from __future__ import annotations

import pytest

from tests.durability.figures import count
from tests.durability.rivals import Campaign


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_no_commit_is_lost_untold_and_no_store_is_mixed(tmp_path, locks: bool) -> None:
    campaign = Campaign(str(tmp_path), locks)
    for seed in range(40):
        campaign.round(seed)
        if seed >= 3 and campaign.told.get("StoreLostError"):
            break
    assert campaign.commits > 0
    assert campaign.told.get("StoreLostError", 0) > 0
    count("sessions of rival writers", campaign.sessions)
