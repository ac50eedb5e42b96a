"""Pictures of stores, a page of them, and a look at one that is being written."""
