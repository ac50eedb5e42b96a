"""From a block to the bytes of its shards."""
